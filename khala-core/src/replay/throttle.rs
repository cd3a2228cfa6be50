//! The pace of history beside appends: while somebody appends, those who replay rest between pages, so that publishers
//! keep nearly all of their rate; while nobody does, they go on as fast as they can.
//!
//! Pure but for its lock: the moment is an argument. It counts pages from behind the tail, whether they have to be read or
//! are still in memory, because sending them costs as much as reading them. What must stay true: everybody who asked goes
//! on in the order in which they asked, at the rate; and neither what is new nor a follower that is a little late is held
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

/// So long after an append somebody is taken to append still.
const BESIDE: Duration = Duration::from_millis(100);
/// Pages in memory that are younger belong to what is published now: those who are a little late for them are many, and
/// share them.
const YOUNG: Duration = Duration::from_secs(10);

/// The pace of one node.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Option<Rate>,
    appended_at: AtomicU64,
    taken: Mutex<Bucket>,
}

impl Pace {
    /// So many pages in all beside appends; as many as they like without a rate.
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self { rate, appended_at: AtomicU64::new(0), taken: Mutex::default() }
    }

    /// Notes that somebody appends.
    pub(crate) fn appends(&self, now: Moment) {
        self.appended_at.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Whether history keeps to the pace.
    pub(crate) fn holds(&self, now: Moment) -> bool {
        let appended_at = Moment::from_millis(self.appended_at.load(Ordering::Relaxed));
        self.rate.is_some() && now.since(appended_at) <= BESIDE
    }

    /// The same for a page in memory whose newest update is of that age.
    pub(crate) fn holds_back(&self, age: impl FnOnce() -> Duration, now: Moment) -> bool {
        self.holds(now) && age() > YOUNG
    }

    /// Takes the next page's place, and says when it is; now, while history need not rest.
    pub(crate) fn place(&self, now: Moment) -> Moment {
        let Some(rate) = self.rate.filter(|_| self.holds(now)) else { return now };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = taken.wait(rate, now);
        taken.take_many(1);
        now.plus(wait)
    }

    /// The same, given back when it is dropped and was not kept.
    pub(crate) fn take_place(&self, now: Moment) -> Place<'_> {
        let taken = self.rate.is_some() && self.holds(now);
        Place { pace: taken.then_some(self), at: self.place(now) }
    }

    fn give_back(&self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).give_back();
    }

    /// How long to rest for a place before looking again whether that is still needed; none where it is not.
    pub(crate) fn rest(&self, place: Moment, now: Moment) -> Option<Duration> {
        let left = place.since(now);
        (!left.is_zero() && self.holds(now)).then(|| left.min(BESIDE))
    }
}

/// The place of a page.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// Who gets it back; none where nothing was taken.
    pace: Option<&'a Pace>,
    at: Moment,
}

impl Place<'_> {
    /// When it is.
    pub(crate) fn at(&self) -> Moment {
        self.at
    }

    /// Uses it.
    pub(crate) fn keep(mut self) {
        self.pace = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(pace) = self.pace {
            pace.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::rate_tests::{at, rate};

    #[test]
    fn while_nobody_appends_nobody_rests() {
        let pace = Pace::new(Some(rate(10, 1)));
        assert!((0..1_000).all(|_| pace.place(at(0)) == at(0)));
        pace.appends(at(0));
        pace.place(at(1));
        assert!(pace.place(at(1)) > at(1));
        // And those who began to rest go on when the last append is a while ago.
        let place = (0..100).map(|_| pace.place(at(50))).last().unwrap();
        assert_eq!(pace.rest(place, at(100)), Some(BESIDE));
        assert_eq!(pace.rest(place, at(101)), None);
        assert_eq!(pace.place(at(101)), at(101));
    }

    #[test]
    fn beside_appends_pages_go_on_at_the_rate_in_the_order_of_asking() {
        let pace = Pace::new(Some(rate(1_000, 5)));
        let mut places = Vec::new();
        for millis in 0..1_000 {
            pace.appends(at(millis));
            // More ask than may go on.
            places.extend((0..3).map(|_| pace.place(at(millis))));
        }
        assert!(places.is_sorted());
        let within = places.iter().filter(|place| **place <= at(1_000)).count();
        assert!((1_000..=1_006).contains(&within), "{within}");
    }

    #[test]
    fn what_was_published_a_moment_ago_is_handed_out_at_once() {
        let pace = Pace::new(Some(rate(1, 1)));
        pace.appends(at(20_000));
        let ms = |age| move || Duration::from_millis(age);
        assert!(!pace.holds_back(ms(10_000), at(20_000)) && !pace.holds_back(ms(0), at(20_000)));
        assert!(pace.holds_back(ms(10_001), at(20_000)) && !pace.holds_back(ms(20_000), at(20_101)));
    }

    #[test]
    fn without_a_rate_there_is_no_pace() {
        let pace = Pace::new(None);
        pace.appends(at(0));
        assert!((0..1_000).all(|_| pace.place(at(0)) == at(0)) && !pace.holds(at(0)));
    }
}
