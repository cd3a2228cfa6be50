//! All rows, and how large they are.

mod append;
mod contention;
mod fanout;
mod idle;
mod kept;
mod library;
mod nodes;
mod replay;
mod storm;

use super::row::Row;

/// How much of it.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    /// Subscribers of one topic, and topics where there are many.
    pub(super) crowd: usize,
    /// A large crowd.
    pub(super) large: usize,
    /// Updates that may be under way where it goes as fast as it can.
    pub(super) window: usize,
    /// How long each is measured.
    pub(super) seconds: f64,
    pub(super) rounds: usize,
}

impl Scale {
    pub(super) fn full() -> Self {
        Self { crowd: 1_000, large: 5_000, window: 512, seconds: 8.0, rounds: 5 }
    }

    /// For a minute in all.
    pub(super) fn quick() -> Self {
        Self { crowd: 300, large: 600, window: 128, seconds: 1.0, rounds: 1 }
    }

    /// To see that it works.
    pub(super) fn tiny() -> Self {
        Self { crowd: 20, large: 40, window: 32, seconds: 0.2, rounds: 1 }
    }
}

pub(super) fn all(scale: &Scale) -> Vec<Row> {
    let mut rows = fanout::rows(scale);
    rows.extend([idle::row(scale), storm::row(scale)]);
    rows.extend(append::rows(scale));
    rows.extend(library::rows(scale));
    rows.extend(replay::rows(scale));
    rows.extend(contention::rows(scale));
    rows.extend(nodes::rows(scale));
    rows
}
