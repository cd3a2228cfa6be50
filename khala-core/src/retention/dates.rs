//! The date by which what is kept is taken away for good: the wall clock's, that is not believed at once where it was set forward.
//!
//! # Invariants
//! - Nothing goes because a wall clock was ahead for less than [`BELIEVED_AFTER`].

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    clock::{Moment, Now},
    journal::CLOCKS_APART,
    update::Timestamp,
};

/// A clock that was set forward is right if nobody has set it back for that long.
const BELIEVED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of the wall clock.
#[derive(Debug)]
pub(crate) struct Dates(Mutex<State>);

#[derive(Debug)]
struct State {
    /// What both clocks said when the wall clock was last believed.
    believed: Now,
    /// When the wall clock was first seen ahead of that.
    ahead_since: Option<Moment>,
}

impl Dates {
    pub(crate) fn new(now: Now) -> Self {
        Self(Mutex::new(State { believed: now, ahead_since: None }))
    }

    /// The date, where both clocks say `now`: no later than the wall clock's.
    pub(crate) fn at(&self, now: Now) -> Timestamp {
        // Each change under the lock is whole.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = state.believed.wall.plus(now.steady.since(state.believed.steady));
        if now.wall <= counted.plus(CLOCKS_APART) {
            *state = State { believed: now, ahead_since: None };
            return now.wall;
        }
        let first = state.ahead_since.is_none();
        let since = *state.ahead_since.get_or_insert(now.steady);
        let believed = now.steady.since(since) >= BELIEVED_AFTER;
        if believed {
            *state = State { believed: now, ahead_since: None };
        }
        drop(state);
        if first {
            tracing::warn!(
                ahead_seconds = now.wall.since(counted).as_secs(),
                believed_after_seconds = BELIEVED_AFTER.as_secs(),
                "the wall clock was set forward: what is kept for a time is taken away by the clock of before, until it has \
                 stayed so for a day"
            );
        }
        if believed { now.wall } else { counted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_forward_is_believed_after_a_day_and_one_that_is_set_back_at_once() {
        let now = |wall: u64, steady: u64| Now {
            wall: Timestamp::from_millis(wall * 1_000),
            steady: Moment::from_millis(steady * 1_000),
        };
        let dates = Dates::new(now(1_000_000, 0));
        let at = |wall, steady| dates.at(now(wall, steady)).as_millis() / 1_000;
        // It runs a little faster, as clocks do, for long.
        assert_eq!(
            [at(1_000_050, 10), at(1_000_100, 20), at(1_000_150, 30)],
            [1_000_050, 1_000_100, 1_000_150]
        );
        // A year ahead.
        assert_eq!([at(32_000_000, 40), at(32_000_100, 140)], [1_000_160, 1_000_260]);
        // Put right, it is believed at once; it was never right to be ahead.
        assert_eq!([at(1_000_250, 150), at(32_000_000, 160)], [1_000_250, 1_000_260]);
        assert_eq!(at(32_086_399, 86_559), 1_086_659);
        assert_eq!([at(32_086_400, 86_560), at(32_086_500, 86_660)], [32_086_400, 32_086_500]);
    }
}
