//! A journal that holds its trims, fails them, or stops half way.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use khala_core::{
    Append, Batch, Bounds, DocKey, Error, ErrorKind, MemoryStore, Timestamp, Topic, Update,
    documents::{Documents, Snapshot, SnapshotFrom},
    journal::{DueAfter, DuePage, Journal, Keep, ReadFrom, ReadLimit, Replay, Settled, TopicPage, Trimmed},
};
use tokio::sync::watch;

/// A memory journal that counts what it is asked, holds trims, and fails for some topics.
#[derive(Debug)]
pub struct Trimming {
    pub inner: MemoryStore,
    pub plans: AtomicUsize,
    pub trims: AtomicUsize,
    pub pages: AtomicUsize,
    pub settles: AtomicUsize,
    pub held: watch::Sender<bool>,
    /// Topics that cannot be trimmed; the empty name stands for all.
    pub failing: Mutex<BTreeSet<String>>,
    /// Whether a trim stops half way.
    pub half: Mutex<bool>,
}

impl Trimming {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            plans: AtomicUsize::new(0),
            trims: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            settles: AtomicUsize::new(0),
            held: watch::Sender::new(false),
            failing: Mutex::default(),
            half: Mutex::new(false),
        })
    }

    pub fn fail(&self, topics: &[&str]) {
        *self.failing.lock().unwrap() = topics.iter().map(ToString::to_string).collect();
    }

    fn check(&self, topic: &Topic) -> Result<(), Error> {
        let failing = self.failing.lock().unwrap();
        if failing.contains("") || failing.contains(topic.as_str()) {
            return Err(Error::new(ErrorKind::Full, "test", "no space is left"));
        }
        Ok(())
    }

    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Journal for Trimming {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        self.inner.append(topic, batch, now).await
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        self.inner.read(topic, start, limit).await
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.inner.check_writable().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        self.inner.bounds(topic).await
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held).await.expect("the journal outlives who trims it");
        self.trims.fetch_add(1, Ordering::Relaxed);
        self.check(topic)?;
        if *self.half.lock().unwrap() {
            let planned = self.inner.plan_trim(topic, keep, now).await?;
            let bounds = self.inner.bounds(topic).await?;
            let half = bounds.floor.distance_to(bounds.head) - planned.updates / 2;
            return self.inner.trim(topic, Keep { updates: Some(half), ..Keep::everything() }, now).await;
        }
        self.inner.trim(topic, keep, now).await
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.plans.fetch_add(1, Ordering::Relaxed);
        if topic.as_str().starts_with("unread") {
            self.check(topic)?;
        }
        self.inner.plan_trim(topic, keep, now).await
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        if self.failing.lock().unwrap().contains("(topics)") {
            return Err(Error::new(ErrorKind::Unavailable, "test", "out of order"));
        }
        self.inner.topics(prefix, after, limit).await
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        if self.failing.lock().unwrap().contains("(topics)") {
            return Err(Error::new(ErrorKind::Unavailable, "test", "out of order"));
        }
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.inner.due(rules, after, until, limit).await
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        self.settles.fetch_add(1, Ordering::Relaxed);
        self.inner.settle(rules, settled).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Documents for Trimming {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        self.inner.document(topic, key).await
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        self.inner.snapshot(topic, from, limit).await
    }
}
