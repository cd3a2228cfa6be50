//! A rate and the bucket that keeps to it: integers only, so nothing is ever rounded in anybody's favour.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use crate::clock::Moment;

/// That many a second, and a burst of that many at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

impl Rate {
    /// Lets `per_second` through, and up to `burst` at once after a rest.
    ///
    /// Time comes in whole milliseconds, so a burst of less than a thousandth of `per_second` is what limits: it is
    /// let through once a millisecond.
    pub const fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self { per_second, burst }
    }

    /// How many a second.
    pub const fn per_second(self) -> NonZeroU32 {
        self.per_second
    }

    /// How many at once.
    pub const fn burst(self) -> NonZeroU32 {
        self.burst
    }

    fn drained_each_milli(self) -> u64 {
        self.per_second.get().into()
    }

    fn capacity(self) -> u64 {
        u64::from(self.burst.get()) * CALL
    }
}

/// What one call puts into a bucket. In thousandths a bucket drains by `per_second` each millisecond, so no rate is
/// ever rounded.
const CALL: u64 = 1_000;

/// The generic cell rate algorithm (ITU-T I.371) as a leaky bucket: what was let through and has not drained yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    /// In thousandths of a call; over the capacity only by what went through together with others.
    owed: u64,
    /// When it was that much.
    at: Option<Moment>,
}

impl Bucket {
    pub(crate) fn drain(&mut self, rate: Rate, now: Moment) {
        let at = self.at.unwrap_or(now);
        // Two threads may read the clock and come in the other order: the time between them is counted once.
        let passed = now.as_millis().saturating_sub(at.as_millis());
        self.owed = self.owed.saturating_sub(passed.saturating_mul(rate.drained_each_milli()));
        self.at = Some(at.max(now));
    }

    /// How long until one more is let through; zero if it is now.
    pub(crate) fn wait(&mut self, rate: Rate, now: Moment) -> Duration {
        self.drain(rate, now);
        match (self.owed + CALL).saturating_sub(rate.capacity()) {
            0 => Duration::ZERO,
            over => {
                let behind = self.at.map_or(Duration::ZERO, |at| at.since(now));
                behind + Duration::from_millis(over.div_ceil(rate.drained_each_milli()))
            }
        }
    }

    /// Only after [`wait`](Self::wait) said zero.
    pub(crate) fn take(&mut self) {
        self.take_many(1);
    }

    /// The same for several that go through together: what is over the burst is owed, and those after them wait for it.
    pub(crate) fn take_many(&mut self, calls: u64) {
        self.owed = self.owed.saturating_add(calls.saturating_mul(CALL));
    }

    /// Undoes a [`take`](Self::take).
    pub(crate) fn give_back(&mut self) {
        self.owed = self.owed.saturating_sub(CALL);
    }

    /// Whether that many are within the burst, together with what has not drained.
    pub(crate) fn has_room(&mut self, rate: Rate, calls: u64, now: Moment) -> bool {
        self.drain(rate, now);
        self.owed.saturating_add(calls.saturating_mul(CALL)) <= rate.capacity()
    }

    /// How long until everything that was let through has drained.
    pub(crate) fn drained_in(&mut self, rate: Rate, now: Moment) -> Duration {
        self.drain(rate, now);
        Duration::from_millis(self.owed.div_ceil(rate.drained_each_milli()))
    }

    /// After [`drain`](Self::drain): whether it is as if nothing had ever been taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.owed == 0
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_700_000_000_000;

    pub(crate) fn at(millis: u64) -> Moment {
        Moment::from_millis(START + millis)
    }

    pub(crate) fn rate(per_second: u32, burst: u32) -> Rate {
        Rate::new(NonZeroU32::new(per_second).unwrap(), NonZeroU32::new(burst).unwrap())
    }

    pub(crate) fn rates() -> impl Strategy<Value = Rate> {
        (prop_oneof![1..20_u32, 1..5_000_u32], 1..30_u32)
            .prop_map(|(per_second, burst)| rate(per_second, burst))
    }

    #[test]
    fn rates_that_are_no_whole_milliseconds_are_exact() {
        for per_second in [1_u32, 3, 7, 999, 1_001, 3_000, 7_919, 1_000_000] {
            let burst = per_second.div_ceil(1_000) + 1;
            let mut bucket = Bucket::default();
            let rate = rate(per_second, burst);
            let mut through = 0_u64;
            for millis in 0..=10_000 {
                while bucket.wait(rate, at(millis)).is_zero() {
                    bucket.take();
                    through += 1;
                }
            }
            assert_eq!(through, u64::from(burst) + 10 * u64::from(per_second), "{per_second}");
        }
    }

    /// The moments at which something was let through.
    fn let_through(rate: Rate, moments: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut bucket = Bucket::default();
        let mut through = Vec::new();
        for millis in moments {
            if bucket.wait(rate, at(millis)).is_zero() {
                bucket.take();
                through.push(millis);
            }
        }
        through
    }

    fn never_more_than(rate: Rate, through: &[u64]) -> Result<(), TestCaseError> {
        for (first, from) in through.iter().enumerate() {
            for (last, to) in through.iter().enumerate().skip(first) {
                let count = (last - first + 1) as u64;
                prop_assert!(count * CALL <= rate.capacity() + (to - from) * rate.drained_each_milli());
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn over_any_time_at_most_the_burst_and_the_rate(
            rate in rates(),
            steps in prop::collection::vec(prop_oneof![Just(0_u64), 0..3_u64, 0..2_000_u64], 1..120),
        ) {
            let moments = steps.iter().scan(0, |now, step| { *now += step; Some(*now) });
            never_more_than(rate, &let_through(rate, moments))?;
        }

        #[test]
        fn readings_that_cross_let_no_more_through(
            rate in rates(),
            steps in prop::collection::vec((0..20_u64, 0..50_u64), 1..120),
        ) {
            let mut latest = 1_000_000;
            let mut bucket = Bucket::default();
            let mut through = Vec::new();
            for (step, back) in steps {
                latest += step;
                bucket.wait(rate, at(latest));
                if bucket.wait(rate, at(latest - back)).is_zero() {
                    bucket.take();
                    through.push(latest);
                }
            }
            never_more_than(rate, &through)?;
        }

        #[test]
        fn after_the_wait_it_is_let_through_and_not_before(
            rate in rates(),
            steps in prop::collection::vec(0..20_u64, 1..120),
        ) {
            let mut bucket = Bucket::default();
            let mut now = at(0);
            for step in steps {
                now = now.plus(Duration::from_millis(step));
                let wait = bucket.wait(rate, now);
                if !wait.is_zero() {
                    now = now.plus(wait.saturating_sub(Duration::from_millis(1)));
                    prop_assert!(!bucket.wait(rate, now).is_zero());
                    now = now.plus(Duration::from_millis(1));
                    prop_assert!(bucket.wait(rate, now).is_zero());
                }
                bucket.take();
            }
        }

        #[test]
        fn a_batch_goes_whole_and_is_owed(
            rate in rates(),
            steps in prop::collection::vec((0..2_000_u64, 1..1_000_u64), 1..60),
        ) {
            let mut bucket = Bucket::default();
            let mut now = at(0);
            let (mut through, mut first): (u64, Option<Moment>) = (0, None);
            for (step, calls) in steps {
                now = now.plus(Duration::from_millis(step));
                let wait = bucket.wait(rate, now);
                if !wait.is_zero() {
                    now = now.plus(wait.saturating_sub(Duration::from_millis(1)));
                    prop_assert!(!bucket.wait(rate, now).is_zero(), "it was told to wait for too long");
                    now = now.plus(Duration::from_millis(1));
                    prop_assert!(bucket.wait(rate, now).is_zero(), "it was not told to wait for long enough");
                }
                // Before the last batch no more went through than the burst and the rate give, less room for one.
                let since = now.since(*first.get_or_insert(now)).as_millis() as u64;
                prop_assert!((through + 1) * CALL <= rate.capacity() + since * rate.drained_each_milli());
                bucket.take_many(calls);
                through += calls;
            }
        }
    }
}
