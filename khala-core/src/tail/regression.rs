//! A journal that went back within an epoch: a crash took commits along that were acknowledged, or a standby took over that
//! did not have them. The tail may remember more than the journal has, and must not serve it.
//!
//! A lower head is no evidence by itself, for reads and appends overlap. So everything that asks the journal of one topic is
//! numbered when it begins, and a known head remembers how many had begun when it was learned.
//!
//! # Invariants
//! - What shows a lower head of the same epoch is evidence if it began after the higher head was known, and only then.
//!   That takes a journal whose reads see everything that was acknowledged before they began, as law J6 demands: none that
//!   asks a replica which lags.
//! - After the evidence nothing is served that was remembered before it, and what began before it brings nothing back.
//! - Other updates that have regrown up to the known head or past it are not seen by heads. A read of what is new shows them,
//!   for it looks back at the last update that is known (`mark.rs`): unless that one is large, or was appended through this
//!   tail after the others. A cursor that brings the moment of its last update shows them too, which is how followers are
//!   told from each other after the evidence: what they follow may be what is lost.

use std::sync::atomic::Ordering;

use super::{alarm::Alarm, entry::Entry, journal::TailJournal, ring::Ring};
use crate::{clock::Moment, position::Bounds, stats::TopicIncident, telemetry, topic::Topic};

impl Entry {
    /// Whether what has that number began before a read that showed that the journal went back.
    ///
    /// Who is to remember something asks this with the ring locked, for the evidence comes under that lock.
    pub(super) fn distrusts(&self, number: u64) -> bool {
        number < self.evidence()
    }

    pub(super) fn evidence(&self) -> u64 {
        self.evidence.load(Ordering::SeqCst)
    }
}

impl TailJournal {
    /// Tells `alarm` when the journal goes back.
    pub(crate) fn with_alarm(mut self, alarm: Alarm) -> Self {
        self.alarm = Some(alarm);
        self
    }

    /// Forgets what is remembered of a topic if what was `found` by the read or append of that number shows that the journal
    /// went back.
    pub(super) fn notice(&self, entry: &Entry, found: Bounds, number: u64) {
        let mut ring = entry.ring();
        let Some(known) = ring.as_ref().filter(|ring| ring.is_ahead_of(found, number)).map(Ring::bounds)
        else {
            return;
        };
        self.forget(entry, &mut ring, found, number);
        drop(ring);
        self.tell(&entry.topic, known, found);
    }

    /// The same if the read of that number found another update than the one that was known when it began, with that
    /// `evidence`: others who follow what is lost have to be told from those who do not.
    pub(super) fn notice_others(&self, entry: &Entry, found: Bounds, evidence: u64, number: u64) {
        let mut ring = entry.ring();
        if entry.evidence() != evidence {
            // Somebody else who shares the read has noticed it, or more is known by now.
            return;
        }
        let known = ring.as_ref().map_or(found, Ring::bounds);
        self.forget(entry, &mut ring, found, number);
        entry.regrown.fetch_max(number, Ordering::SeqCst);
        drop(ring);
        self.tell(&entry.topic, known, found);
    }

    /// Forgets what is remembered of a topic, of which the read or append of that number has `found` this.
    fn forget(&self, entry: &Entry, ring: &mut Option<Ring>, found: Bounds, number: u64) {
        let begun = entry.reads.begun();
        self.replace(ring, Some(Ring::at_head(found, begun, Moment::default())));
        let mut replay_cache = entry.replay_cache();
        self.account(replay_cache.bytes(), 0);
        *replay_cache = Default::default();
        drop(replay_cache);
        entry.forget_moments();
        entry.evidence.fetch_max(number, Ordering::SeqCst);
    }

    fn tell(&self, topic: &Topic, known: Bounds, found: Bounds) {
        telemetry::journal_regressed();
        tracing::error!(
            %topic, epoch = %found.epoch, known_head = %known.head, found_head = %found.head,
            "the journal went back within an epoch: it has lost updates that were acknowledged, or holds others in their \
             place; subscribers that had them are told cursor_ahead or epoch_mismatch; draw new epochs if others may have \
             been stored in their place"
        );
        if let Some(alarm) = &self.alarm {
            alarm.stats.incident(topic, TopicIncident::JournalRegressed, alarm.clock.now());
            let lost = if found.head < known.head {
                format!("went back from head {} to {}", known.head, found.head)
            } else {
                format!(
                    "went back and holds other updates up to head {} than it held up to {}",
                    found.head, known.head
                )
            };
            let note =
                format!("the journal {lost} of a topic that the log names, and lost what was acknowledged");
            alarm.part.degraded(note);
        }
    }

    /// How often the journal of a topic that is followed here went back, as a number that grows.
    pub(crate) fn evidence(&self, topic: &Topic) -> u64 {
        self.known(topic).map_or(0, |entry| entry.evidence())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;

    use super::*;
    use crate::{
        journal::{Batch, Journal as _, ReadFrom, ReadLimit, Replay},
        memory::MemoryStore,
        position::{Cursor, Watermark},
        tail::{Freshness, SharedPage, TailOptions},
        update::{Kind, NewUpdate, Payload, Timestamp},
    };

    fn updates(count: usize) -> Batch {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse("1").unwrap());
        Batch::new(vec![update; count]).unwrap()
    }

    #[test]
    fn what_passed_the_first_check_before_the_evidence_came_brings_nothing_back_after_it() {
        let (journal, topic) = (Arc::new(MemoryStore::new()), Topic::parse("t").unwrap());
        journal.append(&topic, updates(10), Timestamp::default()).now_or_never().unwrap().unwrap();
        let tail = TailJournal::new(Arc::<MemoryStore>::clone(&journal), TailOptions::default());
        let now = Moment::from_millis(1_000_000);
        let entry = tail.entry(&topic, now);
        let bounds = tail.recent_bounds(&topic, now, now).now_or_never().unwrap().unwrap().0;
        let page = |after| {
            let start = ReadFrom::After(Cursor::new(bounds.epoch, Watermark::new(after).unwrap()));
            let read = journal.read(&topic, start, ReadLimit::PAGE).now_or_never().unwrap().unwrap();
            let Replay::Page(page) = read else { panic!("nothing was trimmed") };
            [Arc::new(SharedPage::new(topic.clone(), page, None))]
        };
        // It has read what is lost then, and its question goes on when another read has shown that.
        let (early, later) = (entry.reads.begin(), entry.reads.begin());
        assert!(!entry.distrusts(early));
        let found = Bounds { head: Watermark::new(5).unwrap(), ..bounds };
        tail.notice(&entry, found, later);
        tail.absorb(&entry, &page(8), early, now);
        assert_eq!(entry.ring().as_ref().map(|ring| (ring.bounds(), ring.bytes())), Some((found, 0)));
        tail.keep_for_others(&entry, &page(0), early);
        assert_eq!(entry.replay_cache().bytes(), 0);
        let lost = Cursor::new(bounds.epoch, Watermark::new(8).unwrap());
        assert!(!matches!(
            tail.get_unthrottled(&topic, lost, Freshness::default()),
            crate::tail::CacheLookup::Hit(_)
        ));
    }
}
