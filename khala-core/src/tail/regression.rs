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
//! - Other updates that have regrown past the known head are not seen by heads. A cursor that brings the moment of its last
//!   update shows them.

use std::sync::{Arc, atomic::Ordering};

use super::{Entry, Ring, TailJournal};
use crate::{
    clock::{Clock, Moment},
    error::{Error, ErrorKind},
    health::Part,
    ledger::{Ledger, Violation},
    position::Bounds,
    telemetry,
    topic::Topic,
};

/// Who is told of a journal that went back: the ledger, and whoever asks whether this node is well.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// Where it is noted, by topic.
    pub(crate) ledger: Arc<Ledger>,
    /// What tells operators, for as long as the process runs: only they can say what was lost.
    pub(crate) part: Part,
    /// When that is.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Entry {
    /// Whether what has that number began before a read that showed that the journal went back.
    pub(super) fn distrusts(&self, number: u64) -> bool {
        number < self.evidence.load(Ordering::SeqCst)
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
        let begun = entry.reads.begun();
        self.replace(&mut ring, Some(Ring::at_head(found, begun, Moment::default())));
        let mut shelf = entry.shelf();
        self.account(shelf.bytes(), 0);
        *shelf = Default::default();
        drop(shelf);
        entry.note_moment(None);
        entry.evidence.fetch_max(number, Ordering::SeqCst);
        drop(ring);
        self.tell(&entry.topic, known, found);
    }

    fn tell(&self, topic: &Topic, known: Bounds, found: Bounds) {
        telemetry::journal_regressed();
        tracing::error!(
            %topic, epoch = %found.epoch, known_head = %known.head, found_head = %found.head,
            "the journal went back within an epoch: it has lost updates that were acknowledged; whoever has seen them is \
             told cursor_ahead; draw new epochs if others may have been stored in their place"
        );
        if let Some(alarm) = &self.alarm {
            alarm.ledger.violated(topic, Violation::JournalRegressed, alarm.clock.now());
            alarm.part.degraded(format!(
                "the journal went back from head {} to {} of a topic that the log names, and lost what was acknowledged",
                known.head, found.head
            ));
        }
    }

    /// How often the journal of a topic that is followed here went back, as a number that grows.
    pub(crate) fn evidence(&self, topic: &Topic) -> u64 {
        self.known(topic).map_or(0, |entry| entry.evidence.load(Ordering::SeqCst))
    }
}

/// The error of a question that the journal did not answer in as many looks as it gets.
pub(crate) fn inconclusive(topic: &Topic) -> Error {
    let message = format!("what the journal answers about topic {topic} does not agree");
    Error::new(ErrorKind::Unavailable, "tail", message)
}
