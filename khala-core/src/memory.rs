//! The reference journal: the laws in plain code, for tests and for state that may be lost.
//!
//! Everything stands under one lock and nothing is on stable storage. A store that is not sure what a law
//! means looks here.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    num::NonZeroUsize,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{
    documents::{Documents, Snapshot, SnapshotFrom, SnapshotPage},
    error::{Error, ErrorKind},
    journal::{
        Append, Batch, Conflict, DEDUP_FOR, Journal, Keep, Page, ReadLimit, Receipt, Replay, Start, Trimmed,
    },
    position::{Bounds, Epoch, Watermark},
    topic::Topic,
    update::{DedupKey, DocKey, Timestamp, Update},
};

/// A journal, with its documents, in memory.
///
/// ```
/// # use khala_core::{Append, Batch, Journal, Kind, MemoryJournal, NewUpdate, Payload, Timestamp, Topic};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let journal = MemoryJournal::new();
/// let topic = Topic::parse("run:7:events")?;
/// let update = NewUpdate::new(Kind::parse("started")?, Payload::parse("{}")?);
/// let answer = journal.append(&topic, Batch::new(vec![update])?, Timestamp::from_millis(0)).await?;
/// assert!(matches!(answer, Append::Written(receipt) if receipt.last.as_u64() == 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryJournal {
    seed: [u8; 16],
    logs: Mutex<BTreeMap<Topic, Log>>,
}

#[derive(Debug)]
struct Log {
    bounds: Bounds,
    updates: VecDeque<Update>,
    documents: BTreeMap<DocKey, Update>,
    receipts: HashMap<DedupKey, (Receipt, Timestamp)>,
}

impl Log {
    fn new(epoch: Epoch) -> Self {
        Self {
            bounds: Bounds::untouched(epoch),
            updates: VecDeque::new(),
            documents: BTreeMap::new(),
            receipts: HashMap::new(),
        }
    }

    /// The updates right after `after`, which must be within bounds.
    fn page(&self, after: Watermark, limit: ReadLimit) -> Vec<Update> {
        let skip = usize::try_from(self.bounds.floor.distance_to(after)).unwrap_or(usize::MAX);
        let (mut page, mut bytes) = (Vec::new(), 0);
        for update in self.updates.iter().skip(skip) {
            if !limit.admits(page.len(), bytes, update.size()) {
                break;
            }
            bytes += update.size();
            page.push(update.clone());
        }
        page
    }

    /// What a trim takes.
    fn plan(&self, keep: &Keep, now: Timestamp) -> Trimmed {
        let mut plan = Trimmed { bounds: self.bounds, updates: 0, bytes: 0, oldest: None };
        let (mut left, mut held) = (0, 0);
        for update in &self.updates {
            (left, held) = (left + 1, held + update.size() as u64);
        }
        for update in &self.updates {
            if !keep.lets_go(update.seq, update.published_at, left, held, now) {
                plan.oldest = Some(update.published_at);
                break;
            }
            let size = update.size() as u64;
            (left, held) = (left - 1, held - size);
            (plan.updates, plan.bytes) = (plan.updates + 1, plan.bytes + size);
            plan.bounds.floor = update.seq.watermark();
        }
        plan
    }
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryJournal {
    /// An empty journal with epochs of its own.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    pub fn new() -> Self {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).expect("the operating system gives randomness");
        Self { seed, logs: Mutex::default() }
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<Topic, Log>> {
        // Every change is made only after all of its checks, so a panic elsewhere leaves the logs whole.
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn untouched(&self, topic: &Topic) -> Bounds {
        Bounds::untouched(Epoch::derive(&self.seed, topic))
    }
}

/// What a trim takes of a topic that was never written.
fn nothing_of(bounds: Bounds) -> Trimmed {
    Trimmed { bounds, updates: 0, bytes: 0, oldest: None }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        let mut logs = self.logs();
        let log = logs.entry(topic.clone()).or_insert_with(|| Log::new(Epoch::derive(&self.seed, topic)));
        let head = log.bounds.head;
        if let Some((receipt, _)) = batch.dedup.as_ref().and_then(|key| log.receipts.get(key)) {
            return Ok(Append::Duplicate(*receipt));
        }
        if let Some(expected) = batch.expect.filter(|expected| *expected != head) {
            return Ok(Append::Conflict(Conflict::Head { expected, found: head }));
        }
        let version = |key: &DocKey| Ok::<_, Error>(log.documents.get(key).and_then(|doc| doc.doc_version));
        if let Some(conflict) = batch.version_conflict(head, version)? {
            return Ok(Append::Conflict(conflict));
        }
        let Some(receipt) = batch.receipt_after(log.bounds.epoch, head) else {
            return Err(Error::new(ErrorKind::Invalid, "memory", format!("topic {topic} has no seqs left")));
        };
        if let Some(key) = &batch.dedup {
            log.receipts.insert(key.clone(), (receipt, now));
        }
        let mut seq = Some(receipt.first);
        for update in batch.into_updates() {
            let at = seq.expect("receipt_after found a seq for every update");
            let update = update.stored(at, now);
            if let Some(key) = &update.doc_key {
                log.documents.insert(key.clone(), update.clone());
            }
            log.updates.push_back(update);
            seq = at.watermark().next();
        }
        log.bounds.head = receipt.last.watermark();
        Ok(Append::Written(receipt))
    }

    async fn read(&self, topic: &Topic, start: Start, limit: ReadLimit) -> Result<Replay, Error> {
        let logs = self.logs();
        let log = logs.get(topic);
        let bounds = log.map_or_else(|| self.untouched(topic), |log| log.bounds);
        let cursor = start.cursor(&bounds);
        if let Err(stale) = bounds.admit(cursor) {
            return Ok(Replay::Stale(stale));
        }
        let updates = log.map(|log| log.page(cursor.watermark, limit)).unwrap_or_default();
        Ok(Replay::Page(Page { after: cursor.watermark, updates, bounds }))
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        Ok(self.logs().get(topic).map_or_else(|| self.untouched(topic), |log| log.bounds))
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let mut logs = self.logs();
        let Some(log) = logs.get_mut(topic) else {
            return Ok(nothing_of(self.untouched(topic)));
        };
        let plan = log.plan(&keep, now);
        let floor = plan.bounds.floor;
        while log.updates.front().is_some_and(|oldest| floor.covers(oldest.seq)) {
            log.updates.pop_front();
        }
        log.bounds.floor = floor;
        log.receipts.retain(|_, (receipt, at)| !floor.covers(receipt.last) || now.since(*at) < DEDUP_FOR);
        Ok(plan)
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let logs = self.logs();
        Ok(logs.get(topic).map_or_else(|| nothing_of(self.untouched(topic)), |log| log.plan(&keep, now)))
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&Topic>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Topic, Bounds)>, Error> {
        let logs = self.logs();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let written = logs
            .range::<Topic, _>((from, Bound::Unbounded))
            .filter(|(_, log)| log.bounds.head > Watermark::ORIGIN);
        let matching = written.filter(|(topic, _)| topic.as_str().starts_with(prefix));
        Ok(matching.take(limit.get()).map(|(topic, log)| (topic.clone(), log.bounds)).collect())
    }
}

#[async_trait]
impl Documents for MemoryJournal {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        Ok(self.logs().get(topic).and_then(|log| log.documents.get(key)).cloned())
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        let logs = self.logs();
        let log = logs.get(topic);
        let bounds = log.map_or_else(|| self.untouched(topic), |log| log.bounds);
        let (at, after) = match from {
            SnapshotFrom::Start => (bounds.at_head(), None),
            SnapshotFrom::After { at, key } => (at, Some(key)),
        };
        if let Err(stale) = bounds.admit(at) {
            return Ok(Snapshot::Stale(stale));
        }
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut documents, mut bytes, mut complete) = (Vec::new(), 0, true);
        let kept =
            log.map(|log| log.documents.range::<DocKey, _>((from, Bound::Unbounded))).into_iter().flatten();
        for (_, document) in kept.filter(|(_, document)| !document.deleted) {
            if !limit.admits(documents.len(), bytes, document.size()) {
                complete = false;
                break;
            }
            bytes += document.size();
            documents.push(document.clone());
        }
        Ok(Snapshot::Page(SnapshotPage { at, documents, complete, bounds }))
    }
}
