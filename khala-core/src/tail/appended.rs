//! What is appended through the tail: known to it as soon as the journal has acknowledged it, and so not read again.
//!
//! What must stay true: only what continues what the tail holds, update by update, is taken in; where anything else was
//! appended in between, by whomever, it is left to be read. An append that was given seqs which were taken when it began
//! shows that the journal went back.

use std::sync::Arc;

use super::{entry::Entry, journal::TailJournal, ring::Ring};
use crate::{
    journal::{Batch, Receipt},
    position::{Bounds, Watermark},
    update::Timestamp,
};

impl Receipt {
    /// What is known of the topic by it: of the floor nothing.
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
                // It may be stored or lost, and will be read.
                return;
            }
            if let Some(ring) = ring.as_mut() {
                let before = ring.bytes();
                if ring.append(after, updates, receipt.bounds(), entry.reads.begun()) {
                    ring.seal(|page| entry.share(page));
                }
                self.account(before, ring.bytes());
                self.shrink(ring);
            }
        }
        self.filled(entry);
        // Of another epoch, or where nothing was known: as if it had been heard of.
        self.learn_for(entry, receipt.bounds(), number);
    }

    /// Lets old pages go while there is too much.
    pub(super) fn shrink(&self, ring: &mut Ring) {
        while ring.bytes() > self.options.topic_bytes || self.is_full() {
            let Some(bytes) = ring.shrink() else { break };
            self.account(bytes, 0);
        }
    }
}
