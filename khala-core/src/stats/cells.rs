//! The cells of the figures: a count that grows and a level that moves, each with what the recorder was told of it.
//!
//! # Invariants
//! - An event writes one cell, once, and asks the recorder for nothing.
//! - What several handles of one process report adds up, because a cell reports what has changed and not what it holds.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count {
    total: AtomicU64,
    reported: AtomicU64,
}

impl Count {
    pub(crate) fn add(&self, events: u64) {
        self.total.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// What was added since this was asked last.
    pub(super) fn unreported(&self) -> u64 {
        let total = self.get();
        // The larger one stays: two may ask at the same moment.
        total.saturating_sub(self.reported.fetch_max(total, Ordering::Relaxed))
    }
}

/// A level that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Level {
    now: AtomicI64,
    reported: AtomicI64,
}

impl Level {
    /// Changes it; says what it is now.
    pub(crate) fn change(&self, by: i64) -> u64 {
        let before = self.now.fetch_add(by, Ordering::Relaxed);
        u64::try_from(before.saturating_add(by)).unwrap_or(0)
    }

    pub(crate) fn get(&self) -> u64 {
        u64::try_from(self.now.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// How it has changed since this was asked last. Each change is told to one who asks.
    pub(super) fn unreported(&self) -> f64 {
        let now = self.now.load(Ordering::Relaxed);
        (now - self.reported.swap(now, Ordering::Relaxed)) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_reported_once() {
        let (count, level) = (Count::default(), Level::default());
        count.add(3);
        assert_eq!((count.get(), count.unreported(), count.unreported()), (3, 3, 0));
        count.add(1);
        assert_eq!((count.get(), count.unreported()), (4, 1));

        assert_eq!(level.change(5), 5);
        assert_eq!((level.unreported(), level.unreported()), (5.0, 0.0));
        assert_eq!(level.change(-2), 3);
        assert_eq!((level.get(), level.unreported()), (3, -2.0));
    }
}
