//! One topic of the store under test, asked in the name of a law: what laws share.
//!
//! It looks away from whatever is not its law's to judge. Its reader skips what its watermark covers and takes
//! no offence at a hole, so that a store which breaks one law is told about that law, and not about all.

use std::{fmt, num::NonZeroUsize, ops::RangeInclusive, sync::Arc};

use crate::{
    documents::{Documents, Snapshot, SnapshotFrom, SnapshotPage},
    journal::{
        Append, Batch, Conflict, Journal, Keep, Page, ReadFrom, ReadLimit, Receipt, Replay, TopicPage,
        Trimmed,
    },
    position::{Bounds, Cursor, Stale, Watermark},
    topic::Topic,
    update::{DedupKey, DocKey, Kind, NewUpdate, Payload, Timestamp, Update},
};

use super::harness::Harness;

/// When laws happen, unless they are about time.
pub(super) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A page as large as a store likes.
pub(super) const LARGE: ReadLimit =
    ReadLimit::new(NonZeroUsize::new(10_000).expect("10,000 is not zero"), 64 << 20);

#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) law: &'static str,
    journal: Arc<dyn Journal>,
    documents: Arc<dyn Documents>,
    topic: Topic,
}

impl Subject {
    pub(super) fn new(store: &impl Harness, law: &'static str, topic: &str) -> Self {
        Self { law, journal: store.journal(), documents: store.documents(), topic: self::topic(topic) }
    }

    /// Another topic of the same store.
    pub(super) fn beside(&self, topic: &str) -> Self {
        Self { topic: self::topic(topic), ..self.clone() }
    }

    fn broken(&self, what: &str, seen: &dyn fmt::Debug) -> ! {
        panic!("{}: on topic {}, {what}: {seen:?}", self.law, self.topic)
    }

    pub(super) async fn append(&self, batch: Batch, now: Timestamp) -> Append {
        match self.journal.append(&self.topic, batch, now).await {
            Ok(append) => append,
            Err(error) => self.broken("an append failed", &error),
        }
    }

    /// Appends what the journal must answer with an error.
    pub(super) async fn fail(&self, batch: Batch) {
        if let Ok(answer) = self.journal.append(&self.topic, batch, NOW).await {
            self.broken("an append that must not be attempted was answered", &answer);
        }
    }

    /// Appends what nothing stands in the way of.
    pub(super) async fn write(&self, batch: Batch) -> Receipt {
        match self.append(batch, NOW).await {
            Append::Written(receipt) => receipt,
            other => self.broken("a plain append was not written", &other),
        }
    }

    /// Appends one update for each of these numbers, each in a batch of its own.
    pub(super) async fn write_numbers(&self, numbers: RangeInclusive<u64>) {
        for number in numbers {
            self.write(single(&number.to_string())).await;
        }
    }

    /// Appends what must be refused.
    pub(super) async fn conflict(&self, batch: Batch) -> Conflict {
        match self.append(batch, NOW).await {
            Append::Conflict(conflict) => conflict,
            other => self.broken("no conflict was seen", &other),
        }
    }

    pub(super) async fn bounds(&self) -> Bounds {
        match self.journal.bounds(&self.topic).await {
            Ok(bounds) => bounds,
            Err(error) => self.broken("bounds failed", &error),
        }
    }

    pub(super) async fn trim(&self, keep: Keep, now: Timestamp) -> Trimmed {
        match self.journal.trim(&self.topic, keep, now).await {
            Ok(trimmed) => trimmed,
            Err(error) => self.broken("a trim failed", &error),
        }
    }

    pub(super) async fn plan_trim(&self, keep: Keep, now: Timestamp) -> Trimmed {
        match self.journal.plan_trim(&self.topic, keep, now).await {
            Ok(plan) => plan,
            Err(error) => self.broken("a trim could not be planned", &error),
        }
    }

    pub(super) async fn read(&self, start: impl Into<ReadFrom>, limit: ReadLimit) -> Replay {
        match self.journal.read(&self.topic, start.into(), limit).await {
            Ok(replay) => replay,
            Err(error) => self.broken("a read failed", &error),
        }
    }

    pub(super) async fn page(&self, start: impl Into<ReadFrom>, limit: ReadLimit) -> Page {
        match self.read(start, limit).await {
            Replay::Page(page) => page,
            Replay::Stale(stale) => self.broken("a good start was called stale", &stale),
        }
    }

    pub(super) async fn stale(&self, start: impl Into<ReadFrom>) -> Stale {
        match self.read(start, LARGE).await {
            Replay::Stale(stale) => stale,
            Replay::Page(page) => self.broken("a start that cannot resume was given a page", &page),
        }
    }

    /// What follows `start` up to the head, read as a subscriber reads.
    pub(super) async fn follow(&self, start: impl Into<ReadFrom>) -> Vec<Update> {
        let mut page = self.page(start, LARGE).await;
        let (mut end, mut log) = (page.after, Vec::new());
        loop {
            let before = end;
            for update in std::mem::take(&mut page.updates) {
                if !end.covers(update.seq) {
                    end = update.seq.watermark();
                    log.push(update);
                }
            }
            if end >= page.bounds.head || end == before {
                return log;
            }
            page = self.page(Cursor::new(page.bounds.epoch, end), LARGE).await;
        }
    }

    /// The whole log.
    pub(super) async fn log(&self) -> Vec<Update> {
        self.follow(ReadFrom::Origin).await
    }

    pub(super) async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(Topic, Bounds)> {
        let limit = NonZeroUsize::new(limit).expect("a law asks for some topics");
        match self.journal.topics(prefix, after, limit).await {
            Ok(TopicPage { topics, corrupt, next }) if corrupt.is_empty() => {
                // A page says that there may be more exactly where it is full.
                let last = topics.last().filter(|_| topics.len() == limit.get());
                let last = last.map(|(topic, _)| topic.as_str().to_owned());
                if next != last {
                    self.broken("a page of topics goes on at the wrong place", &(topics, next));
                }
                topics
            }
            Ok(page) => self.broken("good topics were called corrupt", &page.corrupt),
            Err(error) => self.broken("topics could not be listed", &error),
        }
    }

    pub(super) async fn document(&self, key: &str) -> Option<Update> {
        match self.documents.document(&self.topic, &doc_key(key)).await {
            Ok(document) => document,
            Err(error) => self.broken("a document could not be read", &error),
        }
    }

    pub(super) async fn snapshot(&self, from: SnapshotFrom, limit: ReadLimit) -> Snapshot {
        match self.documents.snapshot(&self.topic, from, limit).await {
            Ok(snapshot) => snapshot,
            Err(error) => self.broken("a snapshot could not be read", &error),
        }
    }

    pub(super) async fn snapshot_page(&self, from: SnapshotFrom, limit: ReadLimit) -> SnapshotPage {
        match self.snapshot(from, limit).await {
            Snapshot::Page(page) => page,
            Snapshot::Stale(stale) => self.broken("a good snapshot was called stale", &stale),
        }
    }
}

/// A page of at most that many updates or documents.
pub(super) fn pages_of(updates: usize) -> ReadLimit {
    ReadLimit::new(NonZeroUsize::new(updates).expect("a law asks for some updates"), LARGE.bytes)
}

pub(super) fn topic(text: &str) -> Topic {
    Topic::parse(text).expect("laws use good topics")
}

pub(super) fn doc_key(text: &str) -> DocKey {
    DocKey::parse(text).expect("laws use good document keys")
}

pub(super) fn dedup(text: &str) -> DedupKey {
    DedupKey::parse(text).expect("laws use good dedup keys")
}

pub(super) fn kind() -> Kind {
    Kind::parse("law").expect("it is a good kind")
}

/// An update whose payload says `text`, which is what laws know it by.
pub(super) fn update(text: &str) -> NewUpdate {
    NewUpdate::new(kind(), Payload::of(&text).expect("text has a JSON form"))
}

/// The updates of a batch that says of itself where it begins and ends.
pub(super) fn labelled(label: &str, size: u64) -> Vec<NewUpdate> {
    (0..size).map(|n| update(&format!("{label}/{n}/{size}"))).collect()
}

/// A new state of a document.
pub(super) fn state(key: &str, text: &str) -> NewUpdate {
    update(text).doc_key(doc_key(key))
}

pub(super) fn tombstone(key: &str) -> NewUpdate {
    NewUpdate::tombstone(kind(), doc_key(key))
}

pub(super) fn batch(updates: impl IntoIterator<Item = NewUpdate>) -> Batch {
    Batch::new(updates.into_iter().collect()).expect("laws make good batches")
}

pub(super) fn single(text: &str) -> Batch {
    batch([update(text)])
}

/// The cursor at `number` of the history that `bounds` are of.
pub(super) fn at(bounds: &Bounds, number: u64) -> Cursor {
    Cursor::new(bounds.epoch, watermark(number))
}

pub(super) fn watermark(number: u64) -> Watermark {
    Watermark::new(number).expect("laws stay below 2^53")
}

/// What the updates say.
pub(super) fn texts(log: &[Update]) -> Vec<String> {
    log.iter().map(|update| text(update).to_owned()).collect()
}

/// What the update says, in its JSON quotes.
pub(super) fn text(update: &Update) -> &str {
    update.payload.as_str().trim_matches('"')
}

pub(super) fn seqs(log: &[Update]) -> Vec<u64> {
    log.iter().map(|update| update.seq.as_u64()).collect()
}
