//! Who is woken at each announcement of one topic.
//!
//! Followers come and go one by one and are woken all together, so they are kept in an order to find them and, once somebody is
//! to be woken, in a row that is made anew after a change.
//!
//! # Invariants
//! Nobody is woken under a lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

#[derive(Debug, Default)]
pub(super) struct Wakers(Mutex<Registered>);

#[derive(Debug, Default)]
struct Registered {
    next: u64,
    by_number: BTreeMap<u64, Waker>,
    /// All of them; none after a change.
    row: Option<Arc<[Waker]>>,
}

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, Registered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes `waker` from now on; the number is for [`remove`](Self::remove).
    pub(super) fn add(&self, waker: Waker) -> u64 {
        let mut registered = self.lock();
        let number = registered.next;
        registered.next += 1;
        registered.by_number.insert(number, waker);
        registered.row = None;
        number
    }

    pub(super) fn remove(&self, number: u64) {
        let mut registered = self.lock();
        // The row would keep it alive.
        registered.row = None;
        registered.by_number.remove(&number);
    }

    pub(super) fn wake(&self) {
        let row = {
            let Registered { by_number, row, .. } = &mut *self.lock();
            Arc::clone(row.get_or_insert_with(|| by_number.values().cloned().collect()))
        };
        row.iter().for_each(Waker::wake_by_ref);
    }
}
