//! Single-flight: one does the work, and everybody who wants the same result meanwhile shares it.
//!
//! In two forms. [`SingleFlight`] shares a future: every waiter drives it, so that a waiter that goes away delays no other.
//! `Leadership` shares nothing but a turn: one leads, and the others are woken when that ends, to look for the result where it
//! was put. That is cheaper for a thousand tasks that are awake anyway.
//!
//! # Invariants
//! - A flight is shared until it is done, and not after that.
//! - A waiter is woken when the leader is done, has failed or is gone. No waiter waits twice for the same, nor after a failure, so
//!   that one fault is not met by each in turn.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

/// Work that is under way, which everybody who holds it may drive.
pub type Flight<T> = Shared<BoxFuture<'static, T>>;

/// The work that is under way, each by its key. A clone is another handle to the same.
pub struct SingleFlight<K, T>(Arc<Mutex<Flights<K, T>>>);

type Flights<K, T> = HashMap<K, WeakShared<BoxFuture<'static, T>>>;

impl<K, T> Clone for SingleFlight<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T> fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").finish_non_exhaustive()
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn lock(&self) -> MutexGuard<'_, Flights<K, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The work for `key` that is under way.
    pub fn join(&self, key: &K) -> Option<Flight<T>> {
        self.lock().get(key)?.upgrade()
    }

    /// Whether anything is under way.
    pub fn is_idle(&self) -> bool {
        self.lock().values().all(|flight| flight.upgrade().is_none())
    }

    /// The work for `key` that is under way, or what `begin` begins.
    ///
    /// # Cancellation
    /// Work that everybody has stopped waiting for is dropped unfinished.
    pub fn share(&self, key: K, begin: impl FnOnce() -> BoxFuture<'static, T>) -> Flight<T> {
        self.share_then(key, begin, |_| {})
    }

    /// The same, which calls `done` with the result once, when the work is no longer shared.
    pub fn share_then(
        &self,
        key: K,
        begin: impl FnOnce() -> BoxFuture<'static, T>,
        done: impl FnOnce(&T) + Send + 'static,
    ) -> Flight<T> {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(&key).and_then(WeakShared::upgrade) {
            return flight;
        }
        // Those that nobody waits for any more were dropped unfinished.
        flights.retain(|_, flight| flight.upgrade().is_some());
        let (shared, ended, work) = (self.clone(), key.clone(), begin());
        let work = async move {
            let result = work.await;
            shared.lock().remove(&ended);
            done(&result);
            result
        };
        let flight = work.boxed().shared();
        flights.extend(flight.downgrade().map(|flight| (key, flight)));
        flight
    }
}

/// Who does some work that many are awake for.
#[derive(Debug, Default)]
pub(crate) struct Leadership(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_led: bool,
    /// How often somebody led.
    number: u64,
    /// The last leader failed, and nobody succeeded since.
    failed: bool,
    waiting: Vec<Waker>,
}

/// What somebody does who wants the result.
#[derive(Debug)]
pub(crate) enum Role {
    /// Does the work, with others if they do the same.
    Alone,
    /// Does the work, and wakes the others by dropping this.
    Leads(Leader),
    /// Is woken when the leader of this number is done, and looks again.
    Waits(u64),
}

impl Leadership {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The role of one that `waker` wakes, and that has waited for the leader of that number already, if for any.
    pub(crate) fn join(self: &Arc<Self>, waited_for: Option<u64>, waker: &Waker) -> Role {
        let mut state = self.lock();
        if state.failed || waited_for.is_some() {
            return Role::Alone;
        }
        if state.is_led {
            state.waiting.push(waker.clone());
            return Role::Waits(state.number);
        }
        state.is_led = true;
        state.number += 1;
        Role::Leads(Leader { leadership: Arc::clone(self), failed: false })
    }

    /// Whether the leader of that number is at work.
    pub(crate) fn is_led_by(&self, number: u64) -> bool {
        let state = self.lock();
        state.is_led && state.number == number
    }

    /// Notes that the work was done, by whomever.
    pub(crate) fn succeeded(&self) {
        self.lock().failed = false;
    }
}

/// The role of the one that works for the others, until it is dropped.
#[derive(Debug)]
pub(crate) struct Leader {
    leadership: Arc<Leadership>,
    failed: bool,
}

impl Leader {
    /// Notes that the work could not be done.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.leadership.lock();
            state.is_led = false;
            state.failed |= self.failed;
            mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future,
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_leads_and_its_end_wakes_the_others_whatever_it_is() {
        let (leadership, count) = (Arc::new(Leadership::default()), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        for (number, failed) in [(1, false), (2, true)] {
            let Role::Leads(mut leader) = leadership.join(None, &waker) else { panic!("nobody leads") };
            for _ in 0..3 {
                assert!(matches!(leadership.join(None, &waker), Role::Waits(led) if led == number));
            }
            assert!(leadership.is_led_by(number) && !leadership.is_led_by(number - 1));
            if failed {
                leader.fail();
            }
            drop(leader);
            assert!(!leadership.is_led_by(number));
            assert_eq!(count.0.swap(0, Ordering::Relaxed), 3);
            assert!(matches!(leadership.join(Some(number), &waker), Role::Alone), "nobody waits twice");
        }
        assert!(matches!(leadership.join(None, &waker), Role::Alone), "the last one failed");
        leadership.succeeded();
        assert!(matches!(leadership.join(None, &waker), Role::Leads(_)));
        assert!(matches!(leadership.join(None, &waker), Role::Leads(_)), "one that is gone leads no longer");
    }

    #[test]
    fn a_flight_is_shared_until_it_is_done_and_no_longer() {
        let flights = SingleFlight::<u8, u8>::default();
        let pending = flights.share(1, || future::pending().boxed());
        assert!(flights.join(&1).is_some() && flights.join(&2).is_none() && !flights.is_idle());
        drop(pending);
        assert!(flights.join(&1).is_none() && flights.is_idle(), "nobody waits for it");
        let begun = flights.share(1, || future::ready(7).boxed());
        let shared = flights.share(1, || unreachable!("one is under way"));
        assert_eq!((shared.now_or_never(), begun.now_or_never()), (Some(7), Some(7)));
        assert!(flights.is_idle());
    }
}
