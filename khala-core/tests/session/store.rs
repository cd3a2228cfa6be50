//! The journal under test conditions: it counts its reads, fails, pauses, is wiped, and is written behind the tail.

use std::{
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use khala_core::{
    Append, Batch, Bounds, DocKey, Error, ErrorKind, MemoryStore, Roles, Timestamp, Topic, Update,
    documents::{Documents, Snapshot, SnapshotFrom},
    journal::{DueAfter, DuePage, Journal, Keep, ReadFrom, ReadLimit, Replay, Settled, TopicPage, Trimmed},
};

/// A memory journal in a bad neighbourhood.
#[derive(Debug)]
pub struct Store {
    journal: Mutex<Arc<MemoryStore>>,
    /// Updates that one page holds at most, so that short logs have many pages.
    page: NonZeroUsize,
    /// Documents that one page holds at most.
    documents: NonZeroUsize,
    /// How many of the next reads fail.
    failing: AtomicUsize,
    /// A bit for each moment at which a read may pause; it is turned round and round.
    pauses: AtomicU64,
    /// Held while no append is to be answered.
    pub turns: tokio::sync::Mutex<()>,
    /// Held while no read is to be answered.
    pub reading: tokio::sync::Mutex<()>,
    /// Which of the next appends fails.
    pub fail_append: AtomicI64,
    /// Pages of the log that were read.
    pub reads: AtomicUsize,
    /// Updates that were on them.
    pub updates: AtomicUsize,
    /// Bounds that were read.
    pub bounds: AtomicUsize,
    /// Pages of documents that were read.
    pub snapshots: AtomicUsize,
}

/// Pending once.
struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Store {
    pub fn new(page: usize, documents: usize) -> Arc<Self> {
        Arc::new(Self {
            journal: Mutex::new(Arc::new(MemoryStore::new())),
            page: NonZeroUsize::new(page).unwrap(),
            documents: NonZeroUsize::new(documents).unwrap(),
            failing: AtomicUsize::new(0),
            pauses: AtomicU64::new(0),
            turns: tokio::sync::Mutex::new(()),
            reading: tokio::sync::Mutex::new(()),
            fail_append: AtomicI64::new(0),
            reads: AtomicUsize::new(0),
            updates: AtomicUsize::new(0),
            bounds: AtomicUsize::new(0),
            snapshots: AtomicUsize::new(0),
        })
    }

    /// The journal itself, as another process has it.
    pub fn journal(&self) -> Arc<MemoryStore> {
        Arc::clone(&self.journal.lock().unwrap())
    }

    /// Begins a new history of everything.
    pub fn wipe(&self) {
        *self.journal.lock().unwrap() = Arc::new(MemoryStore::new());
    }

    /// The journal as it is now: what a backup is.
    pub fn backup(&self) -> MemoryStore {
        self.journal().backup()
    }

    /// The journal goes back to what it was: what a crash does that loses commits, or a backup that is restored.
    pub fn go_back(&self, backup: MemoryStore) {
        *self.journal.lock().unwrap() = Arc::new(backup);
    }

    /// How many of the next reads fail.
    pub fn failing(&self) -> usize {
        self.failing.load(Ordering::Relaxed)
    }

    /// Fails that many of the next reads.
    pub fn fail(&self, reads: usize) {
        self.failing.store(reads, Ordering::Relaxed);
    }

    /// Lets reads pause where this pattern has a one.
    pub fn pause(&self, pattern: u64) {
        self.pauses.store(pattern, Ordering::Relaxed);
    }

    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    pub async fn turn(&self) {
        let bits = self.pauses.load(Ordering::Relaxed);
        self.pauses.store(bits.rotate_left(1), Ordering::Relaxed);
        Pause(bits & 1 == 0).await;
    }

    async fn trouble(&self) -> Result<(), Error> {
        self.turn().await;
        drop(self.reading.lock().await);
        let failing = self.failing.load(Ordering::Relaxed);
        if failing > 0 {
            self.failing.store(failing - 1, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Unavailable, "test", "out of order"));
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Journal for Store {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        // In the order in which they came, as a store with one writer.
        let turn = self.turns.lock().await;
        let fails = self.fail_append.fetch_sub(1, Ordering::Relaxed) == 1;
        if fails && !batch.is_cut_off() {
            batch.break_chain();
            return Err(Error::new(ErrorKind::Full, "test", "there is no space"));
        }
        drop(turn);
        self.journal().append(topic, batch, now).await
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.trouble().await?;
        let limit = ReadLimit::new(limit.updates.min(self.page), limit.bytes);
        let replay = self.journal().read(topic, start, limit).await;
        if let Ok(Replay::Page(page)) = &replay {
            self.updates.fetch_add(page.updates.len(), Ordering::Relaxed);
        }
        self.turn().await;
        replay
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.journal().check_writable().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        self.bounds.fetch_add(1, Ordering::Relaxed);
        self.trouble().await?;
        let bounds = self.journal().bounds(topic).await;
        self.turn().await;
        bounds
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.journal().trim(topic, keep, now).await
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.journal().plan_trim(topic, keep, now).await
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        self.journal().topics(prefix, after, limit).await
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        self.journal().due(rules, after, until, limit).await
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        self.journal().settle(rules, settled).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Documents for Store {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        self.journal().document(topic, key).await
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        self.trouble().await?;
        let limit = ReadLimit::new(limit.updates.min(self.documents), limit.bytes);
        let snapshot = self.journal().snapshot(topic, from, limit).await;
        self.turn().await;
        snapshot
    }
}

/// A journal with its documents, and in memory every other role.
pub fn roles<J: Journal + Documents>(journal: &Arc<J>) -> Roles {
    Roles {
        journal: Arc::<J>::clone(journal),
        documents: Arc::<J>::clone(journal),
        ..MemoryStore::new().into()
    }
}
