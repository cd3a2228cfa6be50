//! Updates that are appended through the tail. The tail takes them in once the journal has acknowledged them, so they are not read
//! again.
//!
//! # Invariants
//! - The tail takes in only updates that continue what it holds, without a gap. Where another process has appended in between,
//!   the updates are left to be read.
//! - An append that was given seqs which were taken when it began shows that the journal went back.

use std::sync::Arc;

use super::{entry::Entry, journal::TailJournal, ring::Ring};
use crate::{
    journal::{Batch, Receipt},
    position::{Bounds, Watermark},
    update::Timestamp,
};

impl Receipt {
    /// What the receipt says about the topic; it says nothing about the floor.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { epoch: self.epoch, floor: Watermark::ORIGIN, head: self.last.watermark() }
    }
}

impl TailJournal {
    /// Takes in a batch that was appended to the topic of `entry` at `now`; `number` says when that began.
    pub(super) fn take_in(
        &self,
        entry: &Arc<Entry>,
        receipt: &Receipt,
        batch: Batch,
        number: u64,
        now: Timestamp,
    ) {
        let after = receipt.first.as_u64() - 1;
        let after = Watermark::new(after).expect("what is below a seq is a watermark");
        self.notice(entry, Bounds { head: after, ..receipt.bounds() }, number);
        let seqs = std::iter::successors(Some(receipt.first), |seq| seq.watermark().next());
        let updates = batch.into_updates().into_iter().zip(seqs);
        let updates = updates.map(|(update, seq)| update.stored(seq, now)).collect();
        {
            let mut ring = entry.ring();
            if entry.distrusts(number) {
                // The batch may be stored or lost; a read will tell.
                return;
            }
            if let Some(ring) = ring.as_mut() {
                let before = ring.bytes();
                let limit = self.options.page_limit();
                if ring.append(after, updates, receipt.bounds(), entry.reads.begun(), limit) {
                    ring.seal(limit, |page| entry.share(page));
                }
                self.account(before, ring.bytes());
                self.shrink(ring);
            }
        }
        self.filled(entry);
        // In another epoch, or where nothing was known, the receipt counts as an announcement.
        self.learn_for(entry, receipt.bounds(), number);
    }

    /// Drops old pages while the ring, or all rings together, are over their bounds.
    pub(super) fn shrink(&self, ring: &mut Ring) {
        while ring.bytes() > self.options.topic_bytes || self.is_full() {
            let Some(bytes) = ring.shrink() else { break };
            self.account(bytes, 0);
        }
    }
}
