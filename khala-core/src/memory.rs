//! The reference store: the laws in plain code, for tests and for state that may be lost.
//!
//! Everything stands under one lock and nothing is on stable storage. A store that is not sure what a law
//! means looks here.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    num::NonZeroUsize,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    auth::{MemoryRevocations, Revocation, RevocationPage, Revocations},
    documents::{Documents, Snapshot, SnapshotFrom, SnapshotPage},
    error::Error,
    fanout::{Fanout, LocalFanout},
    journal::{
        Admission, Append, Batch, DEDUP_FOR, DueAfter, DuePage, Journal, Keep, Page, ReadFrom, ReadLimit,
        Receipt, Replay, Settled, TopicPage, Trimmed, is_ahead,
    },
    node::NodeId,
    position::{Bounds, Epoch, Watermark},
    projection::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName},
    retention::{Lease, MemorySweeps, SweepRecord, Sweeps},
    store::{Store, trim::ages},
    topic::Topic,
    update::{DedupKey, DocKey, Timestamp, Update},
};

/// A store in memory, with every role.
///
/// ```
/// # use khala_core::{Append, Batch, Kind, MemoryStore, NewUpdate, Payload, Timestamp, Topic, journal::Journal};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let journal = MemoryStore::new();
/// let topic = Topic::parse("run:7:events")?;
/// let update = NewUpdate::new(Kind::parse("started")?, Payload::parse("{}")?);
/// let answer = journal.append(&topic, Batch::new(vec![update])?, Timestamp::from_millis(0)).await?;
/// assert!(matches!(answer, Append::Written(receipt) if receipt.last.as_u64() == 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    seed: [u8; 16],
    state: Mutex<State>,
    revocations: MemoryRevocations,
    sweeps: MemorySweeps,
    fanout: LocalFanout,
}

#[derive(Clone, Debug, Default)]
struct State {
    logs: BTreeMap<Topic, Log>,
    /// Under which rules topics were settled.
    rules: u64,
    checkpoints: BTreeMap<ProjectionName, BTreeMap<Entity, Checkpoint>>,
}

#[derive(Clone, Debug)]
struct Log {
    bounds: Bounds,
    updates: VecDeque<Update>,
    documents: BTreeMap<DocKey, Update>,
    receipts: HashMap<DedupKey, (Receipt, [u8; 16], Timestamp)>,
    /// From when on it is to be looked at for what may go. None: it is retired.
    due: Option<Timestamp>,
    /// Since when a topic that is put off has not moved.
    idle_since: Option<Timestamp>,
}

impl State {
    fn append(
        &mut self,
        seed: &[u8; 16],
        topic: &Topic,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Append, Error> {
        let untouched = || Log::new(Epoch::derive(seed, topic));
        let log = self.logs.entry(topic.clone()).or_insert_with(untouched);
        let kept = |key: &DedupKey| {
            Ok::<_, Infallible>(log.receipts.get(key).map(|(first, content, _)| (*first, Some(*content))))
        };
        let version = |key: &DocKey| Ok(log.documents.get(key).and_then(|document| document.doc_version));
        let Ok(admission) = batch.admit(topic, log.bounds, "memory", kept, version);
        let receipt = match admission {
            Admission::Answered(answer) => return answer,
            Admission::Write(receipt) => receipt,
        };
        if let Some(key) = &batch.dedup {
            log.receipts.insert(key.clone(), (receipt, batch.content_hash(), now));
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
        (log.due, log.idle_since) = (Some(Timestamp::default()), None);
        Ok(Append::Written(receipt))
    }

    fn advance(&mut self, seed: &[u8; 16], advance: Advance, now: Timestamp) -> Result<Advanced, Error> {
        let stored = self.checkpoints.get(&advance.projection).and_then(|kept| kept.get(&advance.entity));
        if let Some(answer) = advance.objection(stored.cloned()) {
            return Ok(answer);
        }
        let receipt = match advance.batch {
            None => None,
            Some((topic, batch)) => match self.append(seed, &topic, batch, now)? {
                Append::Written(receipt) | Append::Duplicate(receipt) => Some(receipt),
                Append::Conflict(conflict) => return Ok(Advanced::Conflict(conflict)),
            },
        };
        self.checkpoints.entry(advance.projection).or_default().insert(advance.entity, advance.to);
        Ok(Advanced::Written(receipt))
    }
}

impl Log {
    fn new(epoch: Epoch) -> Self {
        Self {
            bounds: Bounds::untouched(epoch),
            updates: VecDeque::new(),
            documents: BTreeMap::new(),
            receipts: HashMap::new(),
            due: Some(Timestamp::default()),
            idle_since: None,
        }
    }

    fn was_put_off(&self) -> bool {
        self.due.is_some_and(|due| due > Timestamp::default())
    }

    /// Whether nothing is kept but its epoch and its head, and tombstones that are never to go.
    fn holds_nothing(&self, tombstones_go: bool) -> bool {
        let no_documents = self.documents.values().all(|document| document.deleted && !tombstones_go);
        self.updates.is_empty() && self.receipts.is_empty() && no_documents
    }

    /// When the oldest dedup key may be forgotten whose updates are gone.
    fn forgets_at(&self) -> Option<Timestamp> {
        let gone = self.receipts.values().filter(|(receipt, ..)| self.bounds.floor.covers(receipt.last));
        gone.map(|(_, _, at)| at.plus(DEDUP_FOR)).min()
    }

    /// When the oldest tombstone may go whose update is gone.
    fn buries_at(&self, age: Duration) -> Option<Timestamp> {
        let gone = self
            .documents
            .values()
            .filter(|document| document.deleted && self.bounds.floor.covers(document.seq));
        gone.map(|tombstone| tombstone.published_at.plus(age).plus(Duration::from_millis(1))).min()
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
        let ages = ages(self.updates.iter().map(|update| update.published_at), None, now);
        for (update, at) in self.updates.iter().zip(ages) {
            if !keep.lets_go(update.seq, at, left, held, now) {
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

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store with epochs of its own.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    pub fn new() -> Self {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).expect("the operating system gives randomness");
        Self::with(seed, State::default())
    }

    /// What a backup of this moment restores: the same journal, documents, checkpoints and epochs; no revocations, and nobody
    /// who watches.
    #[must_use]
    pub fn backup(&self) -> Self {
        Self::with(self.seed, self.state().clone())
    }

    fn with(seed: [u8; 16], state: State) -> Self {
        Self {
            seed,
            state: Mutex::new(state),
            revocations: MemoryRevocations::new(),
            sweeps: MemorySweeps::new(),
            fanout: LocalFanout::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made only after all of its checks, so a panic elsewhere leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
impl Journal for MemoryStore {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        self.state().append(&self.seed, topic, batch, now)
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        let state = self.state();
        let log = state.logs.get(topic);
        let bounds = log.map_or_else(|| self.untouched(topic), |log| log.bounds);
        let cursor = start.cursor(&bounds);
        if let Err(stale) = bounds.admit(cursor) {
            return Ok(Replay::Stale(stale));
        }
        let updates = log.map(|log| log.page(cursor.watermark, limit)).unwrap_or_default();
        Ok(Replay::Page(Page { after: cursor.watermark, updates, bounds }))
    }

    async fn check_writable(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        Ok(self.state().logs.get(topic).map_or_else(|| self.untouched(topic), |log| log.bounds))
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let mut state = self.state();
        let Some(log) = state.logs.get_mut(topic) else {
            return Ok(nothing_of(self.untouched(topic)));
        };
        let plan = log.plan(&keep, now);
        let floor = plan.bounds.floor;
        while log.updates.front().is_some_and(|oldest| floor.covers(oldest.seq)) {
            log.updates.pop_front();
        }
        log.bounds.floor = floor;
        log.receipts.retain(|_, (receipt, _, at)| !floor.covers(receipt.last) || now.since(*at) < DEDUP_FOR);
        if let Some(age) = keep.tombstones {
            let goes = |document: &Update| {
                document.deleted && floor.covers(document.seq) && now.since(document.published_at) > age
            };
            // Those of a clock that was ahead go with what follows them.
            let last =
                log.documents.values().filter(|document| goes(document)).map(|document| document.seq).max();
            log.documents.retain(|_, document| {
                let ahead =
                    document.deleted && is_ahead(document.published_at, now) && last >= Some(document.seq);
                !goes(document) && !ahead
            });
        }
        Ok(plan)
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let state = self.state();
        Ok(state
            .logs
            .get(topic)
            .map_or_else(|| nothing_of(self.untouched(topic)), |log| log.plan(&keep, now)))
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        let state = self.state();
        let from = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let from_there = state.logs.range::<str, _>((from, Bound::Unbounded));
        let matching = from_there.take_while(|(topic, _)| topic.as_str().starts_with(prefix));
        let listed = |log: &Log| log.bounds.head > Watermark::ORIGIN && log.due.is_some();
        let written = matching.filter(|(_, log)| listed(log));
        let topics: Vec<_> =
            written.take(limit.get()).map(|(topic, log)| (topic.clone(), log.bounds)).collect();
        let next = topics.last().filter(|_| topics.len() == limit.get());
        let next = next.map(|(topic, _)| topic.as_str().to_owned());
        Ok(TopicPage { topics, corrupt: Vec::new(), next })
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        let state = self.state();
        let until = if rules == state.rules { until } else { Timestamp::from_millis(u64::MAX) };
        let after = after.map(|after| (after.at, &*after.name));
        let written = state.logs.iter().filter(|(_, log)| log.bounds.head > Watermark::ORIGIN);
        let due = written.filter_map(|(topic, log)| log.due.map(|due| (due, topic, log.bounds)));
        let due = due.filter(|(due, topic, _)| {
            *due <= until && after.is_none_or(|after| (*due, topic.as_str()) > after)
        });
        let mut topics: Vec<_> = due.map(|(due, topic, bounds)| (due, topic.clone(), bounds)).collect();
        // Of one moment, they are in order of their names already.
        topics.sort_by_key(|(at, ..)| *at);
        topics.truncate(limit.get());
        let next = topics.last().filter(|_| topics.len() == limit.get());
        let next = next.map(|(at, topic, _)| DueAfter { at: *at, name: topic.as_str().to_owned() });
        Ok(DuePage { topics, corrupt: Vec::new(), next })
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        let mut state = self.state();
        if state.rules != rules {
            state.rules = rules;
            for log in state.logs.values_mut().filter(|log| log.due.is_some()) {
                (log.due, log.idle_since) = (Some(Timestamp::default()), None);
            }
        }
        let mut retired = 0;
        for Settled { topic, head, due, seen_at, tombstones, retire_idle_since } in settled {
            let Some(log) = state.logs.get_mut(topic).filter(|log| log.bounds.at_head() == *head) else {
                continue;
            };
            let idle_since = *log.idle_since.get_or_insert(*seen_at);
            let retires = log.was_put_off() && retire_idle_since.is_some_and(|since| idle_since <= since);
            if log.due.is_some() && retires && log.holds_nothing(tombstones.is_some()) {
                log.due = None;
                retired += 1;
            } else if log.due.is_some() {
                let goes = [log.forgets_at(), tombstones.and_then(|age| log.buries_at(age))];
                log.due = Some(goes.into_iter().flatten().fold(*due, Timestamp::min));
            }
        }
        Ok(retired)
    }
}

#[async_trait]
impl Documents for MemoryStore {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        Ok(self.state().logs.get(topic).and_then(|log| log.documents.get(key)).cloned())
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        let state = self.state();
        let log = state.logs.get(topic);
        let bounds = log.map_or_else(|| self.untouched(topic), |log| log.bounds);
        let at = from.cursor(&bounds);
        if let Err(stale) = bounds.admit(at) {
            return Ok(Snapshot::Stale(stale));
        }
        let kept =
            log.map(|log| log.documents.range::<str, _>((Bound::Excluded(from.after()), Bound::Unbounded)));
        let kept = kept.into_iter().flatten().filter(|(_, document)| !document.deleted);
        let Ok(page) = SnapshotPage::of(
            at,
            bounds,
            limit,
            kept.map(|(_, document)| Ok::<_, Infallible>(document.clone())),
        );
        Ok(Snapshot::Page(page))
    }
}

#[async_trait]
impl Checkpoints for MemoryStore {
    async fn advance(&self, advance: Advance, now: Timestamp) -> Result<Advanced, Error> {
        self.state().advance(&self.seed, advance, now)
    }

    async fn checkpoint(
        &self,
        projection: &ProjectionName,
        entity: &Entity,
    ) -> Result<Option<Checkpoint>, Error> {
        Ok(self.state().checkpoints.get(projection).and_then(|kept| kept.get(entity)).cloned())
    }

    async fn checkpoints(
        &self,
        projection: &ProjectionName,
        after: Option<&Entity>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Entity, Checkpoint)>, Error> {
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let kept = state.checkpoints.get(projection).into_iter();
        let kept = kept.flat_map(|kept| kept.range::<Entity, _>((from, Bound::Unbounded)));
        Ok(kept.take(limit.get()).map(|(entity, kept)| (entity.clone(), kept.clone())).collect())
    }

    async fn remove(&self, projection: &ProjectionName, entity: &Entity) -> Result<bool, Error> {
        let mut state = self.state();
        Ok(state.checkpoints.get_mut(projection).and_then(|kept| kept.remove(entity)).is_some())
    }

    async fn remove_all(&self, projection: &ProjectionName) -> Result<u64, Error> {
        Ok(self.state().checkpoints.remove(projection).map_or(0, |kept| kept.len() as u64))
    }
}

#[async_trait]
impl Revocations for MemoryStore {
    async fn revoke(&self, revocation: Revocation) -> Result<Watermark, Error> {
        self.revocations.revoke(revocation).await
    }

    async fn revocations(&self, after: Watermark, limit: NonZeroUsize) -> Result<RevocationPage, Error> {
        self.revocations.revocations(after, limit).await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Error> {
        self.revocations.prune(now).await
    }
}

#[async_trait]
impl Sweeps for MemoryStore {
    async fn try_acquire(&self, node: &NodeId, now: Timestamp, until: Timestamp) -> Result<Lease, Error> {
        self.sweeps.try_acquire(node, now, until).await
    }

    async fn record(&self, record: &SweepRecord) -> Result<(), Error> {
        self.sweeps.record(record).await
    }

    async fn records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error> {
        self.sweeps.records(limit).await
    }
}

impl Store for MemoryStore {
    fn fanout(&self) -> Arc<dyn Fanout> {
        Arc::new(self.fanout.clone())
    }
}
