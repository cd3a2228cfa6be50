//! What every delivery counts, kept by the session and told now and then.
//!
//! Counters that all connections share would be written by all cores for each delivery, and cost as much as the delivery.
//! What must stay true: everything is told within a second while more comes, by the next timeout at the latest, and when
//! the session ends.

use std::time::Duration;

use crate::{clock::Moment, stats::Stats};

/// How often it is told while more comes.
const TELL_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Counts {
    heard: u64,
    batches: u64,
    updates: u64,
    told_at: Moment,
}

impl Counts {
    /// A head was announced.
    pub(super) fn heard(&mut self) {
        self.heard += 1;
    }

    /// A batch of so many updates is sent.
    pub(super) fn sent(&mut self, updates: usize, stats: &Stats, now: Moment) {
        self.batches += 1;
        self.updates += updates as u64;
        if now.since(self.told_at) >= TELL_EVERY {
            self.told_at = now;
            self.tell(stats);
        }
    }

    /// Tells all that was not told.
    pub(super) fn tell(&mut self, stats: &Stats) {
        stats.cells.heard.add(std::mem::take(&mut self.heard));
        if self.batches > 0 {
            stats.cells.batches_sent.add(std::mem::take(&mut self.batches));
            stats.cells.updates_sent.add(std::mem::take(&mut self.updates));
        }
    }
}
