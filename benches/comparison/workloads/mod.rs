//! All workloads, and how large they are.

mod append;
mod contention;
mod embedded;
mod fanout;
mod idle;
mod log;
mod nodes;
mod replay;
mod storm;

use super::workload::Workload;

/// How much of it.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    /// Subscribers of one topic, and topics where there are many.
    pub(super) small: usize,
    /// A large small.
    pub(super) large: usize,
    /// Updates that may be under way where it goes as fast as it can.
    pub(super) window: usize,
    /// How long each is measured.
    pub(super) seconds: f64,
    pub(super) rounds: usize,
}

impl Scale {
    pub(super) fn full() -> Self {
        Self { small: 1_000, large: 5_000, window: 512, seconds: 8.0, rounds: 5 }
    }

    /// For a minute in all.
    pub(super) fn quick() -> Self {
        Self { small: 300, large: 600, window: 128, seconds: 1.0, rounds: 1 }
    }

    /// To see that it works.
    pub(super) fn tiny() -> Self {
        Self { small: 20, large: 40, window: 32, seconds: 0.2, rounds: 1 }
    }
}

pub(super) fn all(scale: &Scale) -> Vec<Workload> {
    let mut workloads = fanout::workloads(scale);
    workloads.extend([idle::workload(scale), storm::workload(scale)]);
    workloads.extend(append::workloads(scale));
    workloads.extend(embedded::workloads(scale));
    workloads.extend(replay::workloads(scale));
    workloads.extend(contention::workloads(scale));
    workloads.extend(nodes::workloads(scale));
    workloads
}
