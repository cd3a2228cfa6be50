//! The moments that updates are stamped with: the wall clock's, that goes back a little at most.
//!
//! # Invariants
//! - A handle's stamps go back by [`CLOCKS_APART`] at most where its wall clock goes back by no more than [`FOLLOWED`]. A clock
//!   that goes back further was wrong before: its time is taken, and that is told.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::{journal::CLOCKS_APART, update::Timestamp};

/// How far a clock may go back and be waited for: further than it is set back to be kept right.
const FOLLOWED: Duration = Duration::from_secs(60 * 60);

/// What was stamped so far.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// The latest, in milliseconds since 1970.
    latest: AtomicU64,
    /// Whether it was told that the clock went back, since it was last right.
    told: AtomicBool,
}

impl Stamps {
    /// The stamp for what is appended when the wall clock says `now`.
    pub(super) fn next(&self, now: Timestamp) -> Timestamp {
        let latest = Timestamp::from_millis(self.latest.fetch_max(now.as_millis(), Ordering::Relaxed));
        let behind = latest.since(now);
        if behind <= CLOCKS_APART {
            if behind.is_zero() && self.told.load(Ordering::Relaxed) {
                self.told.store(false, Ordering::Relaxed);
            }
            return now;
        }
        let waits = behind <= FOLLOWED;
        if !waits {
            self.latest.store(now.as_millis(), Ordering::Relaxed);
        }
        let stamp = if waits { latest.minus(CLOCKS_APART) } else { now };
        if !waits || !self.told.swap(true, Ordering::Relaxed) {
            let (behind_seconds, published_at) = (behind.as_secs(), stamp.as_millis());
            tracing::warn!(
                behind_seconds,
                published_at,
                "the wall clock went back; published_at goes back with it by {} s at most, or all the way from more than {} s",
                CLOCKS_APART.as_secs(),
                FOLLOWED.as_secs()
            );
        }
        stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn stamps_go_back_by_a_minute_at_most_and_never_wait_for_a_clock_that_was_far_ahead() {
        let stamps = Stamps::default();
        let next = |seconds| stamps.next(at(seconds));
        assert_eq!([next(100_000), next(100_001), next(99_990)], [at(100_000), at(100_001), at(99_990)]);
        // Set back by ten minutes: it stays until the clock has come so far.
        assert_eq!([next(99_401), next(99_500), next(99_941)], [at(99_941); 3]);
        assert_eq!([next(99_942), next(100_002)], [at(99_942), at(100_002)]);
        // It was a day ahead.
        assert_eq!([next(186_402), next(100_003), next(100_004)], [at(186_402), at(100_003), at(100_004)]);
    }
}
