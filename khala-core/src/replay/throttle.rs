//! The throttle of replays: while somebody appends, replays wait between pages, so that publishers keep nearly all of their rate;
//! while nobody does, replays go on as fast as they can.
//!
//! Pure but for its lock: the moment is an argument. It counts pages from behind the tail, whether they have to be read or
//! are still in memory, because sending them costs as much as reading them.
//!
//! # Invariants
//! Replays go on in the order in which they asked, at the rate. Neither new updates nor a follower that is a little late is held
//! up here, or all who follow a busy topic would fall behind for good.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    admission::{Bucket, Rate},
    clock::Moment,
};

/// For how long after an append the throttle stays active.
const ACTIVE_FOR: Duration = Duration::from_millis(100);
/// Pages in memory that are younger belong to what is published now: those who are a little late for them are many, and
/// share them.
const YOUNG: Duration = Duration::from_secs(10);

/// The throttle of one node.
#[derive(Debug)]
pub(crate) struct Throttle {
    rate: Option<Rate>,
    appended_at: AtomicU64,
    taken: Mutex<Bucket>,
}

impl Throttle {
    /// A throttle that lets pages through at `rate` while somebody appends; without one, it lets through every page.
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self { rate, appended_at: AtomicU64::new(0), taken: Mutex::default() }
    }

    /// Notes that somebody appends.
    pub(crate) fn note_append(&self, now: Moment) {
        self.appended_at.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Whether replays keep to the rate.
    pub(crate) fn is_active(&self, now: Moment) -> bool {
        let appended_at = Moment::from_millis(self.appended_at.load(Ordering::Relaxed));
        self.rate.is_some() && now.since(appended_at) <= ACTIVE_FOR
    }

    /// The same for a page in memory whose newest update is of that age.
    pub(crate) fn holds_back(&self, age: impl FnOnce() -> Duration, now: Moment) -> bool {
        self.is_active(now) && age() > YOUNG
    }

    /// Takes the next page's slot, and says when it is; now, while replays need not wait.
    pub(crate) fn next_slot(&self, now: Moment) -> Moment {
        let Some(rate) = self.rate.filter(|_| self.is_active(now)) else { return now };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = taken.wait(rate, now);
        taken.take_many(1);
        now.plus(wait)
    }

    /// The same, given back when it is dropped and was not kept.
    pub(crate) fn reserve_slot(&self, now: Moment) -> ThrottleSlot<'_> {
        let taken = self.rate.is_some() && self.is_active(now);
        ThrottleSlot { throttle: taken.then_some(self), at: self.next_slot(now) }
    }

    fn give_back(&self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).give_back();
    }

    /// How long to wait for a slot before looking again whether that is still needed; none where it is not.
    pub(crate) fn wait_left(&self, slot: Moment, now: Moment) -> Option<Duration> {
        let left = slot.since(now);
        (!left.is_zero() && self.is_active(now)).then(|| left.min(ACTIVE_FOR))
    }
}

/// The slot of a page.
#[derive(Debug)]
pub(crate) struct ThrottleSlot<'a> {
    /// Who gets it back; none where nothing was taken.
    throttle: Option<&'a Throttle>,
    at: Moment,
}

impl ThrottleSlot<'_> {
    /// When it is.
    pub(crate) fn at(&self) -> Moment {
        self.at
    }

    /// Uses it.
    pub(crate) fn keep(mut self) {
        self.throttle = None;
    }
}

impl Drop for ThrottleSlot<'_> {
    fn drop(&mut self) {
        if let Some(throttle) = self.throttle {
            throttle.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::rate_tests::{at, rate};

    #[test]
    fn while_nobody_appends_nobody_rests() {
        let throttle = Throttle::new(Some(rate(10, 1)));
        assert!((0..1_000).all(|_| throttle.next_slot(at(0)) == at(0)));
        throttle.note_append(at(0));
        throttle.next_slot(at(1));
        assert!(throttle.next_slot(at(1)) > at(1));
        // And those who began to rest go on when the last append is a while ago.
        let slot = (0..100).map(|_| throttle.next_slot(at(50))).last().unwrap();
        assert_eq!(throttle.wait_left(slot, at(100)), Some(ACTIVE_FOR));
        assert_eq!(throttle.wait_left(slot, at(101)), None);
        assert_eq!(throttle.next_slot(at(101)), at(101));
    }

    #[test]
    fn beside_appends_pages_go_on_at_the_rate_in_the_order_of_asking() {
        let throttle = Throttle::new(Some(rate(1_000, 5)));
        let mut slots = Vec::new();
        for millis in 0..1_000 {
            throttle.note_append(at(millis));
            // More ask than may go on.
            slots.extend((0..3).map(|_| throttle.next_slot(at(millis))));
        }
        assert!(slots.is_sorted());
        let within = slots.iter().filter(|slot| **slot <= at(1_000)).count();
        assert!((1_000..=1_006).contains(&within), "{within}");
    }

    #[test]
    fn what_was_published_a_moment_ago_is_handed_out_at_once() {
        let throttle = Throttle::new(Some(rate(1, 1)));
        throttle.note_append(at(20_000));
        let ms = |age| move || Duration::from_millis(age);
        assert!(!throttle.holds_back(ms(10_000), at(20_000)) && !throttle.holds_back(ms(0), at(20_000)));
        assert!(throttle.holds_back(ms(10_001), at(20_000)) && !throttle.holds_back(ms(20_000), at(20_101)));
    }

    #[test]
    fn without_a_rate_there_is_no_pace() {
        let throttle = Throttle::new(None);
        throttle.note_append(at(0));
        assert!((0..1_000).all(|_| throttle.next_slot(at(0)) == at(0)) && !throttle.is_active(at(0)));
    }
}
