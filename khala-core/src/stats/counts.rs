//! What every delivery counts, kept by the connection or the subscription that delivers, and added to the node's figures now and
//! then.
//!
//! Counters that all of them share would be written by all cores for each delivery, and cost as much as the delivery.
//!
//! # Invariants
//! Everything is added within a second while more comes, by the next timeout at the latest, and at the end.

use std::time::Duration;

use super::Stats;
use crate::clock::Moment;

/// How often it is told while more comes.
const TELL_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Counts {
    heard: u64,
    batches: u64,
    updates: u64,
    told_at: Moment,
}

impl Counts {
    /// A head was announced.
    pub(crate) fn heard(&mut self) {
        self.heard += 1;
    }

    /// A batch of that many updates is sent.
    pub(crate) fn sent(&mut self, updates: usize, stats: &Stats, now: Moment) {
        self.batches += 1;
        self.updates += updates as u64;
        if now.since(self.told_at) >= TELL_EVERY {
            self.told_at = now;
            self.tell(stats);
        }
    }

    /// Tells all that was not told.
    pub(crate) fn tell(&mut self, stats: &Stats) {
        stats.cells.heard.add(std::mem::take(&mut self.heard));
        if self.batches > 0 {
            stats.cells.batches_sent.add(std::mem::take(&mut self.batches));
            stats.cells.updates_sent.add(std::mem::take(&mut self.updates));
        }
    }
}
