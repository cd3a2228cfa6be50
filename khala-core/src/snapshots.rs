//! Snapshots that many read at the same time: each page is read once and encoded once, for all who come by.
//!
//! When history was trimmed past a crowd, all of them start again from the same documents. A subscriber that starts within a
//! second of another joins its snapshot: the log continues from the same watermark for both.
//!
//! # Invariants
//! A snapshot is joined only while the log still continues from it; and what is kept is bounded, and counts in the budget.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;

use crate::{
    budget::{MemoryBudget, MemoryPart, MemoryShare},
    clock::Moment,
    documents::{Documents, Snapshot, SnapshotFrom, SnapshotPage},
    error::Error,
    journal::ReadLimit,
    position::{Bounds, Cursor, Stale},
    single_flight::{Flight, SingleFlight},
    tail::SharedPage,
    topic::Topic,
    update::DocKey,
    wire::{Encoded, Frames, Serializer, event, write_document_page},
};

/// How old a snapshot may be that others join.
const JOINED_WITHIN: Duration = Duration::from_secs(1);
/// Bytes of pages that one snapshot keeps for those who come after, beside its first page, which whoever joins it needs.
const KEPT_BYTES: u64 = 8 << 20;
/// The same of all snapshots, and the part of the memory budget that they take at most.
const KEPT_IN_ALL: u64 = 64 << 20;
const KEPT_OF_BUDGET: u64 = 8;
/// Snapshots that others may read along. One topic may have several: whoever reads one goes on with it when another is
/// started.
const KEPT_RUNS: usize = 256;
/// How long the pages of one are kept after it was started.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// A page of a snapshot, with its frames once somebody has asked for them.
#[derive(Debug)]
pub struct SharedSnapshotPage {
    topic: Topic,
    page: SnapshotPage,
    frames: Frames,
}

impl SharedSnapshotPage {
    /// A page of `topic`'s documents.
    pub fn new(topic: Topic, page: SnapshotPage) -> Self {
        Self { topic, page, frames: Frames::default() }
    }

    /// The page itself.
    pub fn page(&self) -> &SnapshotPage {
        &self.page
    }

    /// The page as a `sync:snapshot` frame. Its `join_ref` is null, which lets one frame serve everybody.
    pub fn frame(&self, serializer: Serializer) -> Encoded {
        let encode = || {
            let write = |out: &mut Vec<u8>| write_document_page(out, &self.page);
            serializer.encode(None, None, self.topic.as_str(), event::SNAPSHOT, write)
        };
        self.frames.get_or_encode(serializer, encode)
    }

    /// What it takes in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.page.documents.iter().map(SharedPage::weigh).sum()
    }
}

/// What a snapshot read gives.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum SharedSnapshot {
    /// Some of the documents.
    Page(Arc<SharedSnapshotPage>),
    /// The log no longer continues from where this snapshot was started. Start a new one.
    Stale(Stale),
}

type Read = Flight<Result<SharedSnapshot, Error>>;

/// The snapshots that are being read on this node.
#[derive(Debug)]
pub(crate) struct Snapshots {
    documents: Arc<dyn Documents>,
    /// What one page holds.
    limit: ReadLimit,
    runs: Arc<Mutex<Runs>>,
}

/// The one that was started first in front.
#[derive(Debug)]
struct Runs {
    runs: VecDeque<Run>,
    memory: MemoryBudget,
    /// Bytes that all of them may keep.
    most: u64,
    next: u64,
}

/// One snapshot of one topic.
#[derive(Debug)]
struct Run {
    topic: Topic,
    number: u64,
    started_at: Moment,
    /// The newest evidence of a journal that went back, as it was when this was started: what was read before newer
    /// evidence is joined by nobody.
    evidence: u64,
    /// Where the log continues; none until page one is there.
    at: Option<Cursor>,
    /// By the key that they follow.
    under_way: SingleFlight<Option<DocKey>, Result<SharedSnapshot, Error>>,
    pages: VecDeque<(Option<DocKey>, Arc<SharedSnapshotPage>)>,
    /// What the pages take.
    share: MemoryShare,
}

impl Run {
    /// Whether somebody who starts now may read along.
    fn may_be_joined(&self, bounds: Option<&Bounds>, evidence: u64, now: Moment) -> bool {
        let young = now.since(self.started_at) <= JOINED_WITHIN;
        // Its head may be older than what is known by now; only its own floor and epoch matter.
        let continues =
            |at: Cursor| bounds.is_none_or(|bounds| at.epoch == bounds.epoch && at.watermark >= bounds.floor);
        young && self.evidence == evidence && self.at.is_none_or(continues)
    }

    /// Whether somebody reads it at this moment. A read that was given up unfinished is nobody's.
    fn is_read(&self) -> bool {
        !self.under_way.is_idle()
    }

    /// The page after `key`, as it is there or on its way.
    fn find(&self, key: &Option<DocKey>) -> Option<Read> {
        if let Some((_, page)) = self.pages.iter().find(|(after, _)| after == key) {
            let page = Arc::clone(page);
            return Some(async move { Ok(SharedSnapshot::Page(page)) }.boxed().shared());
        }
        self.under_way.join(key)
    }

    fn keep(&mut self, key: Option<DocKey>, page: &Arc<SharedSnapshotPage>, memory: &MemoryBudget) {
        self.share.hold(self.share.bytes() + page.bytes() as u64);
        self.pages.push_back((key, Arc::clone(page)));
        while (self.share.bytes() > KEPT_BYTES || memory.is_spent())
            && let Some((_, oldest)) = self.pages.remove(1)
        {
            self.share.shrink_to(self.share.bytes() - oldest.bytes() as u64);
        }
    }
}

impl Runs {
    fn start(&mut self, topic: &Topic, evidence: u64, now: Moment) -> &mut Run {
        let kept = |run: &Run| now.since(run.started_at) <= KEPT_FOR || run.is_read();
        self.runs.retain(kept);
        while self.runs.len() >= KEPT_RUNS || self.bytes() > self.most {
            self.runs.pop_front();
        }
        self.next += 1;
        self.runs.push_back(Run {
            topic: topic.clone(),
            number: self.next,
            started_at: now,
            evidence,
            at: None,
            under_way: SingleFlight::default(),
            pages: VecDeque::new(),
            share: self.memory.share(MemoryPart::Snapshots),
        });
        self.runs.back_mut().expect("it was put there")
    }

    fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.share.bytes()).sum()
    }

    /// Lets go of those that nobody reads at this moment, the oldest first, while there is too much.
    fn let_go(&mut self) {
        while (self.bytes() > self.most || self.memory.is_spent())
            && let Some(index) = self.runs.iter().position(|run| !run.is_read())
        {
            self.runs.remove(index);
        }
    }

    /// The newest snapshot of a topic.
    fn newest(&self, topic: &Topic) -> Option<&Run> {
        self.runs.iter().rev().find(|run| run.topic == *topic)
    }

    /// The newest snapshot of a topic that the log continues from at `at`.
    fn at(&mut self, topic: &Topic, at: Cursor, evidence: u64) -> Option<&mut Run> {
        let is = |run: &&mut Run| run.topic == *topic && run.at == Some(at) && run.evidence == evidence;
        self.runs.iter_mut().rev().find(is)
    }

    /// Takes in what the read of a run's page gave.
    fn done(&mut self, number: u64, key: Option<DocKey>, read: &Result<SharedSnapshot, Error>) {
        let Some(run) = self.runs.iter_mut().find(|run| run.number == number) else { return };
        match read {
            Ok(SharedSnapshot::Page(page)) => {
                run.at = Some(page.page().at);
                run.keep(key, page, &self.memory);
                self.let_go();
            }
            // The next one who starts gets a new one.
            Ok(SharedSnapshot::Stale(_)) | Err(_) => self.runs.retain(|run| run.number != number),
        }
    }
}

impl Snapshots {
    pub(crate) fn new(documents: Arc<dyn Documents>, limit: ReadLimit, memory: MemoryBudget) -> Self {
        let most = memory.limit().map_or(KEPT_IN_ALL, |limit| KEPT_IN_ALL.min(limit / KEPT_OF_BUDGET));
        let runs = Runs { runs: VecDeque::new(), memory, most, next: 0 };
        Self { documents, limit, runs: Arc::new(Mutex::new(runs)) }
    }

    /// Lets go of what nobody reads at this moment, while there is too much.
    pub(crate) fn let_go(&self) {
        Self::lock(&self.runs).let_go();
    }

    fn lock(runs: &Mutex<Runs>) -> MutexGuard<'_, Runs> {
        runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page that is there or on its way, if its topic has at least those bounds; none if it has to be read.
    pub(crate) fn find(
        &self,
        topic: &Topic,
        from: &SnapshotFrom,
        bounds: Option<&Bounds>,
        evidence: u64,
        now: Moment,
    ) -> Option<Read> {
        let mut runs = Self::lock(&self.runs);
        match from {
            SnapshotFrom::Start => {
                runs.newest(topic).filter(|run| run.may_be_joined(bounds, evidence, now))?.find(&None)
            }
            SnapshotFrom::After { at, key } => runs.at(topic, *at, evidence)?.find(&Some(key.clone())),
        }
    }

    /// Reads a page. Another reader that looks for the same page meanwhile finds this read.
    pub(crate) fn read(&self, topic: &Topic, from: SnapshotFrom, evidence: u64, now: Moment) -> Read {
        let mut runs = Self::lock(&self.runs);
        let (run, key) = match &from {
            SnapshotFrom::Start => (Some(runs.start(topic, evidence, now)), None),
            SnapshotFrom::After { at, key } => (runs.at(topic, *at, evidence), Some(key.clone())),
        };
        let (documents, topic, limit) = (Arc::clone(&self.documents), topic.clone(), self.limit);
        let begin = move || {
            let read = async move {
                documents.snapshot(&topic, from, limit).await.map(|read| match read {
                    Snapshot::Page(page) => {
                        SharedSnapshot::Page(Arc::new(SharedSnapshotPage::new(topic.clone(), page)))
                    }
                    Snapshot::Stale(stale) => SharedSnapshot::Stale(stale),
                })
            };
            read.boxed()
        };
        let Some(run) = run else { return begin().shared() };
        let (runs_of_all, number, after) = (Arc::clone(&self.runs), run.number, key.clone());
        run.under_way.share_then(key, begin, move |read| Self::lock(&runs_of_all).done(number, after, read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        journal::{Batch, Journal as _},
        memory::MemoryStore,
        update::{Kind, NewUpdate, Payload, Timestamp},
    };

    fn topic(name: &str) -> Topic {
        Topic::parse(name).unwrap()
    }

    /// Documents of a few topics, 100,000 bytes of each, and the snapshots of them within `limit`.
    fn snapshots(limit: u64, topics: &[&str]) -> (Snapshots, MemoryBudget) {
        let (journal, memory) = (Arc::new(MemoryStore::new()), MemoryBudget::new(Some(limit)));
        for name in topics {
            let updates = (0..10).map(|number| {
                let payload = Payload::parse(&format!("\"{}\"", "x".repeat(10_000))).unwrap();
                let mut update = NewUpdate::new(Kind::parse("k").unwrap(), payload);
                update.doc_key = Some(DocKey::parse(&format!("d{number}")).unwrap());
                update
            });
            let batch = Batch::new(updates.collect()).unwrap();
            journal.append(&topic(name), batch, Timestamp::default()).now_or_never().unwrap().unwrap();
        }
        (Snapshots::new(journal, ReadLimit::PAGE, memory.clone()), memory)
    }

    fn read(snapshots: &Snapshots, name: &str, seconds: u64) -> u64 {
        let now = Moment::from_millis(1_000_000 + seconds * 1_000);
        let read = snapshots.read(&topic(name), SnapshotFrom::Start, 0, now).now_or_never();
        let Ok(SharedSnapshot::Page(page)) = read.unwrap() else { panic!("there is a page") };
        page.bytes() as u64
    }

    #[test]
    fn pages_that_are_kept_count_in_the_budget() {
        let (snapshots, memory) = snapshots(100 << 20, &["a", "b"]);
        let taken = || memory.taken_by(MemoryPart::Snapshots);
        let a = read(&snapshots, "a", 0);
        assert!((200_000..300_000).contains(&a), "{a}");
        assert_eq!(taken(), a);
        let b = read(&snapshots, "b", 1);
        assert_eq!(taken(), a + b);
        read(&snapshots, "b", 31);
        assert_eq!(taken(), 2 * b, "the first is forgotten after a while");
        drop(snapshots);
        assert_eq!(taken(), 0);
    }

    #[test]
    fn a_read_that_was_given_up_keeps_nothing() {
        let (snapshots, memory) = snapshots(100 << 20, &["a", "b"]);
        let taken = || memory.taken_by(MemoryPart::Snapshots);
        let a = read(&snapshots, "a", 0);
        // The second page of it is read, until its reader goes away.
        let now = Moment::from_millis(1_000_000);
        let at = snapshots.runs.lock().unwrap().newest(&topic("a")).unwrap().at.unwrap();
        let from = SnapshotFrom::After { at, key: DocKey::parse("d4").unwrap() };
        let given_up = snapshots.read(&topic("a"), from, 0, now);
        let mut others = memory.share(MemoryPart::Frames);
        others.hold(100 << 20);
        snapshots.let_go();
        assert_eq!(taken(), a, "it is read");
        drop(given_up);
        snapshots.let_go();
        assert_eq!(taken(), 0);
        drop(others);
        read(&snapshots, "a", 10);
        let at = snapshots.runs.lock().unwrap().newest(&topic("a")).unwrap().at.unwrap();
        let from = SnapshotFrom::After { at, key: DocKey::parse("d4").unwrap() };
        drop(snapshots.read(&topic("a"), from, 0, now));
        let b = read(&snapshots, "b", 41);
        assert_eq!(taken(), b, "it is forgotten after a while as any other");
    }

    #[test]
    fn snapshots_take_an_eighth_of_the_budget_and_go_when_it_is_spent() {
        let (snapshots, memory) = snapshots(4 << 20, &["a", "b", "c", "d"]);
        let taken = || memory.taken_by(MemoryPart::Snapshots);
        for (seconds, name) in ["a", "b", "c", "d", "a"].iter().enumerate() {
            read(&snapshots, name, seconds as u64);
            assert!((200_000..=512 << 10).contains(&taken()), "{}", taken());
        }
        let now = Moment::from_millis(1_004_000);
        assert!(
            snapshots.find(&topic("a"), &SnapshotFrom::Start, None, 0, now).is_some(),
            "the newest is kept"
        );
        let mut others = memory.share(MemoryPart::Frames);
        others.hold(4 << 20);
        snapshots.let_go();
        assert_eq!(taken(), 0);
        read(&snapshots, "a", 5);
        assert_eq!(taken(), 0, "what was read without memory is handed over and not kept");
        drop(others);
        let a = read(&snapshots, "a", 6);
        assert_eq!(taken(), a);
    }
}
