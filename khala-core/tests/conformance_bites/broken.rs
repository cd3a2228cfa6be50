//! A memory journal with one fault: a decorator, so that everything but the fault is right.
//!
//! A fault that shows only in a race holds the race open for a moment, so that it shows every time.

#![expect(clippy::unwrap_used, reason = "a test: what cannot be made here is a mistake here")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test: a moment passes where a real store waits for its disk"
)]

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use khala_core::{
    Append, Batch, Bounds, Conflict, Cursor, DocKey, Epoch, Error, Kind, MemoryStore, NewUpdate, Payload,
    Receipt, Seq, Stale, Timestamp, Topic, Update, Watermark,
    conformance::{Capabilities, Harness, Place},
    documents::{Documents, Snapshot, SnapshotFrom},
    journal::{
        DueAfter, DuePage, Journal, Keep, Page, ReadFrom, ReadLimit, Replay, Settled, TopicPage, Trimmed,
    },
    position::StaleReason,
    update::DedupKey,
};
use tokio::{sync::Mutex, time::sleep};

use crate::Fault;

#[derive(Clone, Debug)]
pub(crate) struct Broken(Arc<Inner>);

impl Broken {
    pub(crate) fn new(fault: Fault) -> Self {
        let (asked, state) = (AtomicU64::new(0), Mutex::default());
        Self(Arc::new(Inner { fault, whole: MemoryStore::new(), asked, state }))
    }
}

impl Harness for Broken {
    const CAPABILITIES: Capabilities = Capabilities { survives_reopening: true, ..Capabilities::volatile() };

    async fn fresh() -> Self {
        Self::new(Fault::None)
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.0.clone()
    }

    fn documents(&self) -> Arc<dyn Documents> {
        self.0.clone()
    }

    async fn close(self) -> Place {
        Place::new("memory").keeping(self)
    }

    async fn open(place: Place) -> Self {
        let store = Self::clone(&place.kept::<Self>().expect("memory is opened where it was closed"));
        store.0.state.lock().await.openings += 1;
        store
    }
}

#[derive(Debug)]
struct Inner {
    fault: Fault,
    whole: MemoryStore,
    /// How often bounds were asked for, and how often something was appended.
    asked: AtomicU64,
    state: Mutex<State>,
}

/// What faults remember.
#[derive(Debug, Default)]
struct State {
    openings: u64,
    /// Appends under way, and what the topic held before the first of them.
    under_way: HashMap<Topic, (u64, Bounds)>,
    written: HashMap<Topic, Receipt>,
    repeated: HashSet<Topic>,
    names: HashMap<DedupKey, Receipt>,
    /// What is stored and not yet visible.
    hidden: HashSet<(Topic, Seq)>,
    trimmed: HashMap<Topic, Keep>,
    planned: HashSet<Topic>,
    /// Documents that were deleted at some time.
    gone: HashMap<Topic, BTreeSet<DocKey>>,
}

impl State {
    /// The bounds of what is visible.
    fn visible(&self, topic: &Topic, bounds: Bounds) -> Bounds {
        let seqs = (bounds.floor.as_u64() + 1..=bounds.head.as_u64()).filter_map(Seq::new);
        let newest = seqs.rev().find(|seq| !self.hidden.contains(&(topic.clone(), *seq)));
        Bounds { head: newest.map_or(bounds.floor, Seq::watermark), ..bounds }
    }
}

const WHOLE: ReadLimit = ReadLimit::new(NonZeroUsize::MAX, usize::MAX);

const BURNED: &str = "burned";

/// Holds a race open.
async fn meanwhile() {
    sleep(Duration::from_millis(1)).await;
}

fn is_plain(batch: &Batch) -> bool {
    let documents = batch.updates().iter().any(|update| update.doc_key.is_some());
    !documents && batch.expect.is_none() && batch.dedup.is_none()
}

fn is_breach(stale: &Stale) -> bool {
    stale.reasons.contains(&StaleReason::RetentionFloorBreach)
}

fn normalised(mut update: NewUpdate) -> NewUpdate {
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(update.payload.as_str()) {
        update.payload = Payload::of(&value).unwrap();
    }
    update
}

/// Whether `text` starts with what the pattern stands for, where `_` is any character.
fn matches(text: &str, pattern: &str) -> bool {
    text.len() >= pattern.len() && text.bytes().zip(pattern.bytes()).all(|(t, p)| p == b'_' || t == p)
}

impl Inner {
    fn topic(&self, topic: &Topic) -> Topic {
        match self.fault {
            Fault::TopicsFolded => Topic::parse(&topic.as_str().to_lowercase()).unwrap(),
            _ => topic.clone(),
        }
    }

    fn turn(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed)
    }

    /// Says that an append is under way, and whether another is.
    async fn begin(&self, topic: &Topic) -> Result<bool, Error> {
        let mut state = self.state.lock().await;
        let bounds = self.whole.bounds(topic).await?;
        let (count, _) = state.under_way.entry(topic.clone()).or_insert((0, bounds));
        *count += 1;
        Ok(*count > 1)
    }

    /// What a fault makes of what is to be kept.
    async fn keep(&self, topic: &Topic, mut keep: Keep, now: Timestamp) -> Result<Keep, Error> {
        match self.fault {
            Fault::AgeInTheMiddle => {
                let bounds = self.whole.bounds(topic).await?;
                if let (Some(age), Replay::Page(page)) =
                    (keep.age, self.whole.read(topic, bounds.at_floor().into(), WHOLE).await?)
                {
                    let old = page.updates.iter().rfind(|update| now.since(update.published_at) > age);
                    keep.updates =
                        old.map(|old| old.seq.watermark().distance_to(bounds.head)).or(keep.updates);
                }
            }
            Fault::PassesNotPast => keep.never_past = None,
            _ => {}
        }
        Ok(keep)
    }

    /// When the oldest update that is kept now was published.
    async fn oldest(&self, topic: &Topic) -> Result<Option<Timestamp>, Error> {
        let everything = Keep::everything();
        Ok(self.whole.plan_trim(topic, everything, Timestamp::default()).await?.oldest)
    }

    /// What a fault tells of a trim, before which the oldest update was of that moment.
    fn told(&self, mut trimmed: Trimmed, was: Option<Timestamp>) -> Trimmed {
        if self.fault == Fault::OldestThatWent && trimmed.updates > 0 {
            trimmed.oldest = was;
        }
        trimmed
    }

    async fn end(&self, topic: &Topic) {
        let mut state = self.state.lock().await;
        let (count, _) = state.under_way.get_mut(topic).unwrap();
        *count -= 1;
        if *count == 0 {
            state.under_way.remove(topic);
        }
    }

    /// What a fault does with the whole log from `start`, before a page is cut from it.
    async fn seen(
        &self,
        topic: &Topic,
        start: ReadFrom,
        sees: impl Fn(&State, &Update) -> bool,
    ) -> Result<Replay, Error> {
        let state = self.state.lock().await;
        let mut replay = self.whole.read(topic, start, WHOLE).await?;
        if let Replay::Page(page) = &mut replay {
            page.updates.retain(|update| sees(&state, update));
            page.bounds = state.visible(topic, page.bounds);
        }
        Ok(replay)
    }
}

fn cut(mut replay: Replay, limit: ReadLimit) -> Replay {
    if let Replay::Page(page) = &mut replay {
        let (mut count, mut bytes) = (0, 0);
        page.updates.retain(|update| {
            let admitted = limit.admits(count, bytes, update.size());
            count += 1;
            bytes += update.size();
            admitted
        });
    }
    replay
}

#[async_trait]
impl Journal for Inner {
    async fn append(&self, topic: &Topic, mut batch: Batch, now: Timestamp) -> Result<Append, Error> {
        let (topic, whole) = (&self.topic(topic), &self.whole);
        let before = whole.bounds(topic).await?;
        match self.fault {
            Fault::BoundsAfterPage | Fault::BoundsBeforePage | Fault::LateWatermark => {
                meanwhile().await;
                whole.append(topic, batch, now).await
            }
            Fault::ConflictKeepsName | Fault::NamesAcrossTopics => {
                let mut state = self.state.lock().await;
                let name = batch.dedup.clone();
                if let Some(known) = name.as_ref().and_then(|name| state.names.get(name)) {
                    return Ok(Append::Duplicate(*known));
                }
                let answer = whole.append(topic, batch, now).await?;
                let receipt = match &answer {
                    Append::Conflict(Conflict::Head { .. }) if self.fault == Fault::ConflictKeepsName => {
                        Some(Receipt { epoch: before.epoch, first: Seq::FIRST, last: Seq::FIRST })
                    }
                    Append::Written(receipt) if self.fault == Fault::NamesAcrossTopics => Some(*receipt),
                    _ => None,
                };
                state.names.extend(name.zip(receipt));
                Ok(answer)
            }
            Fault::ChainIgnored => {
                batch.chain = None;
                whole.append(topic, batch, now).await
            }
            Fault::NamesWithoutContent => match whole.append(topic, batch, now).await? {
                Append::Conflict(Conflict::Dedup { first }) => Ok(Append::Duplicate(first)),
                answer => Ok(answer),
            },
            Fault::NamesWithoutPublisher => {
                let name = batch.dedup.take();
                let bare = name.as_ref().and_then(|name| name.as_str().rsplit('\u{1f}').next());
                batch.dedup = bare.and_then(|bare| DedupKey::parse(bare).ok());
                whole.append(topic, batch, now).await
            }
            Fault::ConflictWrites => {
                let answer = whole.append(topic, batch.clone(), now).await?;
                if let Append::Conflict(Conflict::Head { expected, found }) = answer
                    && expected > found
                    && found > Watermark::ORIGIN
                {
                    (batch.expect, batch.dedup) = (None, None);
                    whole.append(topic, batch, now).await?;
                }
                Ok(answer)
            }
            Fault::ConflictWritesRest => {
                let answer = whole.append(topic, batch.clone(), now).await?;
                if let Append::Conflict(Conflict::DocVersion { doc_key, .. }) = &answer {
                    let mut rest = batch.into_updates();
                    rest.retain(|update| update.doc_key.as_ref() != Some(doc_key));
                    if let Ok(rest) = Batch::new(rest) {
                        whole.append(topic, rest, now).await?;
                    }
                }
                Ok(answer)
            }
            Fault::ExpectBeforeName => match batch.expect.filter(|expected| *expected != before.head) {
                Some(expected) => Ok(Append::Conflict(Conflict::Head { expected, found: before.head })),
                None => whole.append(topic, batch, now).await,
            },
            Fault::LaggingReplica | Fault::LostUpdate | Fault::NameRace => {
                let busy = self.begin(topic).await?;
                let single = is_plain(&batch) && batch.updates().len() == 1;
                let overwriting = self.state.lock().await.written.get(topic).copied();
                if self.fault == Fault::NameRace && busy {
                    batch.dedup = None;
                }
                let answer = match overwriting {
                    Some(receipt) if self.fault == Fault::LostUpdate && busy && single => {
                        Append::Written(receipt)
                    }
                    _ => whole.append(topic, batch, now).await?,
                };
                if let Append::Written(receipt) = answer {
                    self.state.lock().await.written.insert(topic.clone(), receipt);
                }
                meanwhile().await;
                self.end(topic).await;
                Ok(answer)
            }
            Fault::LateCommit if is_plain(&batch) && self.turn().is_multiple_of(2) => {
                let mut state = self.state.lock().await;
                let answer = whole.append(topic, batch, now).await?;
                if let Append::Written(Receipt { first, last, .. }) = answer {
                    let seqs = (first.as_u64()..=last.as_u64()).filter_map(Seq::new);
                    let names: Vec<_> = seqs.map(|seq| (topic.clone(), seq)).collect();
                    state.hidden.extend(names.iter().cloned());
                    drop(state);
                    meanwhile().await;
                    self.state.lock().await.hidden.retain(|name| !names.contains(name));
                }
                Ok(answer)
            }
            Fault::PayloadNormalised => {
                let (expect, dedup, chain) = (batch.expect, batch.dedup.clone(), batch.chain.clone());
                batch = Batch::new(batch.into_updates().into_iter().map(normalised).collect()).unwrap();
                (batch.expect, batch.dedup, batch.chain) = (expect, dedup, chain);
                whole.append(topic, batch, now).await
            }
            Fault::Renumbered => match whole.append(topic, batch, now).await? {
                Append::Written(Receipt { epoch, first, last }) if before.floor == before.head => {
                    let counted = |seq: Seq| Seq::new(seq.as_u64() - before.floor.as_u64()).unwrap();
                    Ok(Append::Written(Receipt { epoch, first: counted(first), last: counted(last) }))
                }
                answer => Ok(answer),
            },
            Fault::PlanForgetsNames if self.state.lock().await.planned.contains(topic) => {
                batch.dedup = None;
                whole.append(topic, batch, now).await
            }
            Fault::RepeatBurnsSeq => {
                if is_plain(&batch) && self.state.lock().await.repeated.remove(topic) {
                    let burned = NewUpdate::new(Kind::parse(BURNED).unwrap(), Payload::null());
                    whole.append(topic, Batch::try_from(burned).unwrap(), now).await?;
                }
                let answer = whole.append(topic, batch, now).await?;
                if matches!(answer, Append::Duplicate(_)) {
                    self.state.lock().await.repeated.insert(topic.clone());
                }
                Ok(answer)
            }
            Fault::TombstonesInSnapshot => {
                let gone = batch.updates().iter().filter(|update| update.deleted);
                let gone: Vec<DocKey> = gone.filter_map(|update| update.doc_key.clone()).collect();
                self.state.lock().await.gone.entry(topic.clone()).or_default().extend(gone);
                whole.append(topic, batch, now).await
            }
            Fault::TornBatch if is_plain(&batch) && batch.updates().len() > 1 => {
                let mut first = batch.into_updates();
                let second = first.split_off(first.len() / 2);
                let first = whole.append(topic, Batch::new(first).unwrap(), now).await?;
                meanwhile().await;
                let second = whole.append(topic, Batch::new(second).unwrap(), now).await?;
                match (first, second) {
                    (Append::Written(first), Append::Written(second)) => {
                        Ok(Append::Written(Receipt { last: second.last, ..first }))
                    }
                    (_, answer) => Ok(answer),
                }
            }
            Fault::TrimmedName => match whole.append(topic, batch.clone(), now).await? {
                Append::Duplicate(receipt) if before.floor.covers(receipt.last) => {
                    batch.dedup = None;
                    whole.append(topic, batch, now).await
                }
                answer => Ok(answer),
            },
            _ => whole.append(topic, batch, now).await,
        }
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        let (topic, whole) = (&self.topic(topic), &self.whole);
        let before = whole.bounds(topic).await?;
        let cursor = start.cursor(&before);
        match self.fault {
            Fault::AheadIsEmpty => match whole.read(topic, start, limit).await? {
                Replay::Stale(stale) if stale.reasons.contains(&StaleReason::CursorAhead) => {
                    Ok(Replay::Page(Page { after: cursor.watermark, updates: Vec::new(), bounds: before }))
                }
                replay => Ok(replay),
            },
            Fault::BoundsAfterPage | Fault::BoundsBeforePage => {
                if self.fault == Fault::BoundsBeforePage {
                    meanwhile().await;
                }
                let mut replay = whole.read(topic, start, limit).await?;
                if let Replay::Page(page) = &mut replay {
                    page.bounds = before;
                    if self.fault == Fault::BoundsAfterPage {
                        meanwhile().await;
                        page.bounds = whole.bounds(topic).await?;
                    }
                }
                Ok(replay)
            }
            Fault::BytesWithoutLimit => {
                whole.read(topic, start, ReadLimit { bytes: usize::MAX, ..limit }).await
            }
            Fault::EmptyPageBeforeLarge => {
                let mut replay = whole.read(topic, start, limit).await?;
                if let Replay::Page(page) = &mut replay {
                    page.updates.retain(|update| update.size() <= limit.bytes);
                }
                Ok(replay)
            }
            Fault::ForgottenEpoch => {
                whole.read(topic, Cursor::new(before.epoch, cursor.watermark).into(), limit).await
            }
            Fault::InclusiveCursor if before.admit(cursor).is_ok() && cursor.watermark > before.floor => {
                let earlier = Watermark::new(cursor.watermark.as_u64() - 1).unwrap();
                let mut replay = whole.read(topic, Cursor::new(cursor.epoch, earlier).into(), limit).await?;
                if let Replay::Page(page) = &mut replay {
                    page.after = cursor.watermark;
                }
                Ok(replay)
            }
            Fault::LateCommit => {
                let hidden = |state: &State, seq| state.hidden.contains(&(topic.clone(), seq));
                let seen = self.seen(topic, start, |state, update| !hidden(state, update.seq)).await?;
                Ok(cut(seen, limit))
            }
            Fault::RepeatBurnsSeq => {
                let seen = self.seen(topic, start, |_, update| update.kind.as_str() != BURNED).await?;
                Ok(cut(seen, limit))
            }
            Fault::SilentSkip => match whole.read(topic, start, limit).await? {
                Replay::Stale(stale) if is_breach(&stale) => {
                    whole.read(topic, stale.bounds.at_floor().into(), limit).await
                }
                replay => Ok(replay),
            },
            Fault::StaleFloor if cursor == before.at_floor() && before.floor > Watermark::ORIGIN => {
                let reasons = vec![StaleReason::RetentionFloorBreach];
                Ok(Replay::Stale(Stale { cursor, bounds: before, reasons }))
            }
            _ => whole.read(topic, start, limit).await,
        }
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.whole.check_writable().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        let (topic, state) = (&self.topic(topic), self.state.lock().await);
        let bounds = self.whole.bounds(topic).await?;
        let redrawn = |bits| Ok(Bounds { epoch: Epoch::from_bits(bits), ..bounds });
        match self.fault {
            Fault::EpochPerOpening if bounds.head > Watermark::ORIGIN => {
                redrawn(bounds.epoch.bits() ^ state.openings)
            }
            Fault::EpochRedrawn if bounds.head == Watermark::ORIGIN => redrawn(self.turn()),
            Fault::FloorGoesBack => {
                let kept = state.trimmed.get(topic).and_then(|keep| keep.updates).unwrap_or_default();
                let floor = Watermark::new(bounds.head.as_u64().saturating_sub(kept)).unwrap();
                Ok(Bounds { floor: floor.min(bounds.floor), ..bounds })
            }
            Fault::LaggingReplica if self.turn() % 2 == 1 => {
                Ok(state.under_way.get(topic).map_or(bounds, |(_, before)| *before))
            }
            Fault::LateCommit => Ok(state.visible(topic, bounds)),
            _ => Ok(bounds),
        }
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let topic = &self.topic(topic);
        let (mut keep, was) = (self.keep(topic, keep, now).await?, self.oldest(topic).await?);
        if self.fault == Fault::TombstonesGoEarly {
            keep.tombstones = keep.tombstones.map(|_| Duration::ZERO);
        }
        if self.fault == Fault::FloorGoesBack {
            self.state.lock().await.trimmed.insert(topic.clone(), keep);
        }
        let trimmed = self.whole.trim(topic, keep, now).await?;
        Ok(self.told(trimmed, was))
    }

    async fn plan_trim(&self, topic: &Topic, mut keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let topic = &self.topic(topic);
        let was = self.oldest(topic).await?;
        keep = self.keep(topic, keep, now).await?;
        match self.fault {
            Fault::PlanForgetsNames => {
                self.state.lock().await.planned.insert(topic.clone());
            }
            Fault::PlanPassesNotPast => keep.never_past = None,
            Fault::PlanTrims => return self.whole.trim(topic, keep, now).await,
            _ => {}
        }
        let mut plan = self.whole.plan_trim(topic, keep, now).await?;
        if self.fault == Fault::PlanCountsAll && plan.updates > 0 {
            let before = self.whole.bounds(topic).await?;
            plan.updates = before.floor.distance_to(before.head);
        }
        Ok(self.told(plan, was))
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        let state = self.state.lock().await;
        match self.fault {
            Fault::LateCommit => {
                let mut page = self.whole.topics(prefix, after, limit).await?;
                for (topic, bounds) in &mut page.topics {
                    *bounds = state.visible(topic, *bounds);
                }
                Ok(page)
            }
            Fault::PrefixIsPattern => {
                let mut page = self.whole.topics("", after, NonZeroUsize::MAX).await?;
                page.topics.retain(|(topic, _)| matches(topic.as_str(), prefix));
                page.topics.truncate(limit.get());
                let last = page.topics.last().filter(|_| page.topics.len() == limit.get());
                page.next = last.map(|(topic, _)| topic.as_str().to_owned());
                Ok(page)
            }
            _ => self.whole.topics(prefix, after, limit).await,
        }
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        let rules = if self.fault == Fault::RulesForgotten { 1 } else { rules };
        self.whole.due(rules, after, until, limit).await
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        match self.fault {
            Fault::PutsOffWhatCame => {
                let mut settled = settled.to_vec();
                for settled in &mut settled {
                    settled.head = self.whole.bounds(&settled.topic).await?.at_head();
                }
                self.whole.settle(rules, &settled).await
            }
            Fault::RulesForgotten => self.whole.settle(1, settled).await,
            Fault::RetiresAtOnce => {
                let mut settled = settled.to_vec();
                for settled in &mut settled {
                    settled.retire_idle_since = settled.retire_idle_since.map(|_| settled.seen_at);
                }
                self.whole.settle(rules, &settled).await
            }
            _ => self.whole.settle(rules, settled).await,
        }
    }
}

#[async_trait]
impl Documents for Inner {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        let topic = &self.topic(topic);
        let floor = self.whole.bounds(topic).await?.floor;
        let document = self.whole.document(topic, key).await?;
        let trimmed = |document: &Update| self.fault == Fault::TrimmedDocuments && floor.covers(document.seq);
        Ok(document.filter(|document| !trimmed(document)))
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        let (topic, whole) = (&self.topic(topic), &self.whole);
        let mut snapshot = whole.snapshot(topic, from.clone(), limit).await?;
        let bounds = whole.bounds(topic).await?;
        match (self.fault, &mut snapshot, from) {
            (Fault::LateWatermark, Snapshot::Page(page), SnapshotFrom::Start) => {
                meanwhile().await;
                page.at = whole.bounds(topic).await?.at_head();
            }
            (Fault::SnapshotOverGap, Snapshot::Stale(stale), SnapshotFrom::After { at, key })
                if is_breach(stale) =>
            {
                let from = SnapshotFrom::After { at: bounds.at_floor(), key };
                snapshot = whole.snapshot(topic, from, limit).await?;
                if let Snapshot::Page(page) = &mut snapshot {
                    page.at = at;
                }
            }
            (Fault::TombstonesInSnapshot, Snapshot::Page(page), _) if page.complete => {
                for key in self.state.lock().await.gone.get(topic).into_iter().flatten() {
                    // One that came after the page would be newer than its bounds, which is another fault.
                    let known = |document: &Update| document.deleted && page.bounds.head.covers(document.seq);
                    page.documents.extend(whole.document(topic, key).await?.filter(known));
                }
                page.documents.truncate(limit.updates.get());
            }
            (Fault::TrimmedDocuments, Snapshot::Page(page), _) => {
                page.documents.retain(|document| !bounds.floor.covers(document.seq));
            }
            _ => {}
        }
        Ok(snapshot)
    }
}
