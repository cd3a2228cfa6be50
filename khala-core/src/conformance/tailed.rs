//! Any store with a tail over it: the tail is a journal, and so it is held to the same laws.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;

use super::harness::{Capabilities, Harness, Place};
use crate::{
    clock::Moment,
    documents::Documents,
    error::Error,
    journal::{
        Append, Batch, DueAfter, DuePage, Journal, Keep, Page, ReadFrom, ReadLimit, Replay, Settled,
        TopicPage, Trimmed,
    },
    position::Bounds,
    tail::{FollowResult, Freshness, TailJournal, TailOptions},
    topic::Topic,
    update::Timestamp,
};

/// The harness of a store, with a [`TailJournal`] over its journal in which every topic is followed.
#[derive(Debug)]
pub struct Tailed<H> {
    store: H,
    followed: Arc<FollowedJournal>,
}

impl<H: Harness> Tailed<H> {
    fn over(store: H) -> Self {
        // Small enough that the laws see it forget.
        let options = TailOptions { topic_bytes: 64 << 10, ..TailOptions::default() };
        let tail = TailJournal::new(store.journal(), options);
        Self { store, followed: Arc::new(FollowedJournal { tail, ticks: AtomicU64::new(1) }) }
    }
}

impl<H: Harness> Harness for Tailed<H> {
    const CAPABILITIES: Capabilities = H::CAPABILITIES;

    async fn fresh() -> Self {
        Self::over(H::fresh().await)
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::<FollowedJournal>::clone(&self.followed)
    }

    fn documents(&self) -> Arc<dyn Documents> {
        self.store.documents()
    }

    async fn close(self) -> Place {
        // The tail holds the store open.
        drop(self.followed);
        self.store.close().await
    }

    async fn open(place: Place) -> Self {
        Self::over(H::open(place).await)
    }
}

/// The tail as its followers see it: every read is a follow that wants to know what is so now. The tail's own `read`
/// passes everything on, and the laws would say nothing about what it holds in memory.
#[derive(Debug)]
struct FollowedJournal {
    tail: TailJournal,
    /// A clock on which no two reads come at the same time.
    ticks: AtomicU64,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Journal for FollowedJournal {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        self.tail.append(topic, batch, now).await
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        let cursor = match start {
            ReadFrom::After(cursor) => cursor,
            ReadFrom::Origin => start.cursor(&self.tail.bounds(topic).await?),
        };
        let now = Moment::from_millis(self.ticks.fetch_add(1, Ordering::SeqCst));
        let wanted = Freshness { head: None, not_older_than: now };
        Ok(match self.tail.follow(topic, cursor, wanted, now).await? {
            FollowResult::CaughtUp { bounds, .. } => {
                Replay::Page(Page { after: cursor.watermark, updates: Vec::new(), bounds })
            }
            FollowResult::Page { page, bounds, .. } => {
                let (mut updates, mut bytes) = (Vec::new(), 0);
                for update in &page.page().updates {
                    if !limit.admits(updates.len(), bytes, update.size()) {
                        break;
                    }
                    bytes += update.size();
                    updates.push(update.clone());
                }
                Replay::Page(Page { after: page.page().after, updates, bounds })
            }
            FollowResult::Stale(stale) => Replay::Stale(stale),
        })
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.tail.check_writable().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        self.tail.bounds(topic).await
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.tail.trim(topic, keep, now).await
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.tail.plan_trim(topic, keep, now).await
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        self.tail.topics(prefix, after, limit).await
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        self.tail.due(rules, after, until, limit).await
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        self.tail.settle(rules, settled).await
    }
}
