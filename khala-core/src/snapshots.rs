//! Snapshots that many read at the same time: each page is read once and encoded once, for all who come by.
//!
//! When history was trimmed past a crowd, all of them start again from the same documents. Whoever starts within a
//! second of another joins that one's snapshot: the log continues from its watermark for both. What must stay true: a
//! snapshot is joined only while the log still continues from it, and what is kept is bounded.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

use crate::{
    documents::{Documents, Snapshot, SnapshotFrom, SnapshotPage},
    error::Error,
    journal::ReadLimit,
    position::{Bounds, Cursor, Stale},
    topic::Topic,
    update::{DocKey, Timestamp},
    wire::{Serializer, event, write_document_page},
};

/// How old a snapshot may be that others join.
const JOINED_WITHIN: Duration = Duration::from_secs(1);
/// Bytes of pages that one snapshot keeps for those who come after.
const KEPT_BYTES: usize = 4 << 20;
/// Snapshots, each of another topic, whose pages are kept.
const KEPT_TOPICS: usize = 16;

/// A page of a snapshot, with its frames once somebody has asked for them.
#[derive(Debug)]
pub struct SharedSnapshotPage {
    topic: Topic,
    page: SnapshotPage,
    frames: [OnceLock<Bytes>; 2],
}

impl SharedSnapshotPage {
    /// A page of `topic`'s documents.
    pub fn new(topic: Topic, page: SnapshotPage) -> Self {
        Self { topic, page, frames: [OnceLock::new(), OnceLock::new()] }
    }

    /// The page itself.
    pub fn page(&self) -> &SnapshotPage {
        &self.page
    }

    /// The page as a `sync:snapshot` frame. Its `join_ref` is null, which lets one frame serve everybody.
    pub fn frame(&self, serializer: Serializer) -> Bytes {
        let slot = match serializer {
            Serializer::V1 => &self.frames[0],
            Serializer::V2 => &self.frames[1],
        };
        let encode = || {
            let write = |out: &mut Vec<u8>| write_document_page(out, &self.page);
            serializer.encode(None, None, self.topic.as_str(), event::SNAPSHOT, write)
        };
        slot.get_or_init(encode).clone()
    }

    fn bytes(&self) -> usize {
        self.page.documents.iter().map(|document| 2 * document.size()).sum()
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

type Read = Shared<BoxFuture<'static, Result<SharedSnapshot, Error>>>;

/// The snapshots that are being read on this node.
#[derive(Debug)]
pub(crate) struct Snapshots {
    documents: Arc<dyn Documents>,
    runs: Arc<Mutex<Runs>>,
}

#[derive(Debug, Default)]
struct Runs {
    by_topic: HashMap<Topic, Run>,
    /// The topics of `by_topic`, the one whose snapshot was started first in front.
    order: VecDeque<Topic>,
    next: u64,
}

/// One snapshot of one topic.
#[derive(Debug)]
struct Run {
    number: u64,
    started_at: Timestamp,
    /// Where the log continues; none until page one is there.
    at: Option<Cursor>,
    /// By the key that they follow.
    under_way: HashMap<Option<DocKey>, WeakShared<BoxFuture<'static, Result<SharedSnapshot, Error>>>>,
    pages: VecDeque<(Option<DocKey>, Arc<SharedSnapshotPage>)>,
    bytes: usize,
}

impl Run {
    /// Whether somebody who starts now may read along.
    fn may_be_joined(&self, bounds: Option<&Bounds>, now: Timestamp) -> bool {
        let young = now >= self.started_at && now.since(self.started_at) <= JOINED_WITHIN;
        // Its head may be older than what is known by now; only its own floor and epoch matter.
        let continues =
            |at: Cursor| bounds.is_none_or(|bounds| at.epoch == bounds.epoch && at.watermark >= bounds.floor);
        young && self.at.is_none_or(continues)
    }

    /// The page after `key`, as it is there or on its way.
    fn find(&self, key: &Option<DocKey>) -> Option<Read> {
        if let Some((_, page)) = self.pages.iter().find(|(after, _)| after == key) {
            let page = Arc::clone(page);
            return Some(async move { Ok(SharedSnapshot::Page(page)) }.boxed().shared());
        }
        self.under_way.get(key).and_then(WeakShared::upgrade)
    }

    fn keep(&mut self, key: Option<DocKey>, page: &Arc<SharedSnapshotPage>) {
        self.bytes += page.bytes();
        self.pages.push_back((key, Arc::clone(page)));
        while self.bytes > KEPT_BYTES
            && let Some((_, oldest)) = self.pages.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }
}

impl Runs {
    fn start(&mut self, topic: &Topic, now: Timestamp) -> &mut Run {
        self.end(topic);
        while self.order.len() >= KEPT_TOPICS
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_topic.remove(&oldest);
        }
        self.order.push_back(topic.clone());
        self.next += 1;
        let number = self.next;
        self.by_topic.entry(topic.clone()).insert_entry(Run {
            number,
            started_at: now,
            at: None,
            under_way: HashMap::new(),
            pages: VecDeque::new(),
            bytes: 0,
        });
        self.by_topic.get_mut(topic).expect("it was put there")
    }

    fn end(&mut self, topic: &Topic) {
        if self.by_topic.remove(topic).is_some() {
            self.order.retain(|other| other != topic);
        }
    }

    /// Takes in what the read of a run's page gave.
    fn done(
        &mut self,
        topic: &Topic,
        number: u64,
        key: Option<DocKey>,
        read: &Result<SharedSnapshot, Error>,
    ) {
        let Some(run) = self.by_topic.get_mut(topic).filter(|run| run.number == number) else { return };
        run.under_way.remove(&key);
        match read {
            Ok(SharedSnapshot::Page(page)) => {
                run.at = Some(page.page().at);
                run.keep(key, page);
            }
            // The next one who starts gets a new one.
            Ok(SharedSnapshot::Stale(_)) | Err(_) => self.end(topic),
        }
    }
}

impl Snapshots {
    pub(crate) fn new(documents: Arc<dyn Documents>) -> Self {
        Self { documents, runs: Arc::default() }
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
        now: Timestamp,
    ) -> Option<Read> {
        let runs = Self::lock(&self.runs);
        let run = runs.by_topic.get(topic)?;
        match from {
            SnapshotFrom::Start => run.may_be_joined(bounds, now).then(|| run.find(&None)).flatten(),
            SnapshotFrom::After { at, key } if run.at == Some(*at) => run.find(&Some(key.clone())),
            SnapshotFrom::After { .. } => None,
        }
    }

    /// Reads a page. Whoever looks for the same meanwhile finds this read.
    pub(crate) fn read(&self, topic: &Topic, from: SnapshotFrom, now: Timestamp) -> Read {
        let mut runs = Self::lock(&self.runs);
        let (run, key) = match &from {
            SnapshotFrom::Start => (Some(runs.start(topic, now)), None),
            SnapshotFrom::After { at, key } => {
                let own = runs.by_topic.get_mut(topic).filter(|run| run.at == Some(*at));
                (own, Some(key.clone()))
            }
        };
        let number = run.as_ref().map(|run| run.number);
        let (documents, topic, after) = (Arc::clone(&self.documents), topic.clone(), key.clone());
        let runs_of_all = Arc::clone(&self.runs);
        let read = async move {
            let read = documents.snapshot(&topic, from, ReadLimit::PAGE).await.map(|read| match read {
                Snapshot::Page(page) => {
                    SharedSnapshot::Page(Arc::new(SharedSnapshotPage::new(topic.clone(), page)))
                }
                Snapshot::Stale(stale) => SharedSnapshot::Stale(stale),
            });
            if let Some(number) = number {
                Self::lock(&runs_of_all).done(&topic, number, after, &read);
            }
            read
        };
        let read = read.boxed().shared();
        if let (Some(run), Some(weak)) = (run, read.downgrade()) {
            run.under_way.insert(key, weak);
        }
        read
    }
}
