//! Any store with a tail over it: the tail is a journal, and so it is held to the same laws.

use std::{num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;

use super::{Capabilities, Harness, Place};
use crate::{
    documents::Documents,
    error::Error,
    journal::{Append, Batch, Journal, Keep, ReadLimit, Receipt, Replay, Start, Trimmed},
    position::{Bounds, Cursor, Watermark},
    tail::{Followed, TailJournal, TailOptions, Wanted},
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
        let options = TailOptions::default().with_topic_bytes(64 << 10);
        let followed = Arc::new(FollowedJournal(TailJournal::new(store.journal(), options)));
        Self { store, followed }
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

/// A tail that takes in what is appended at once, as it does for a topic that somebody follows. Without a follower
/// it would pass everything on, and the laws would say nothing about it.
#[derive(Debug)]
struct FollowedJournal(TailJournal);

impl FollowedJournal {
    async fn follow(&self, topic: &Topic, receipt: &Receipt, now: Timestamp) -> Result<(), Error> {
        let before = receipt.first.as_u64() - 1;
        let mut cursor = Cursor::new(receipt.epoch, Watermark::new(before).unwrap_or_default());
        let wanted = Wanted { head: Some(receipt.cursor()), not_older_than: Timestamp::default() };
        while let Followed::Page { page, .. } = self.0.follow(topic, cursor, wanted, now).await? {
            cursor = page.page().cursor();
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Journal for FollowedJournal {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        let answer = self.0.append(topic, batch, now).await?;
        if let Append::Written(receipt) = &answer {
            self.follow(topic, receipt, now).await?;
        }
        Ok(answer)
    }

    async fn read(&self, topic: &Topic, start: Start, limit: ReadLimit) -> Result<Replay, Error> {
        self.0.read(topic, start, limit).await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        self.0.bounds(topic).await
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.0.trim(topic, keep, now).await
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&Topic>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Topic, Bounds)>, Error> {
        self.0.topics(prefix, after, limit).await
    }
}
