//! Following a topic within the process: the attach rule in a loop.
//!
//! Watch, read until caught up, sleep until the watch shows more or it is time to poll, read again. Because the
//! hint is a level and the cursor moves only with what was returned, there is nothing to buffer or de-duplicate.

use std::{sync::Arc, time::Duration};

use futures::{Stream, future::Either, stream};

use super::Khala;
use crate::{
    documents::{Snapshot, SnapshotFrom, SnapshotPage},
    error::Error,
    fanout::Watch,
    journal::{Journal as _, ReadLimit},
    position::{Cursor, Stale},
    tail::{Followed, SharedPage, Wanted},
    topic::Topic,
    wire::{JoinRequest, OnStale, Resume},
};

/// The one answer to a subscribe.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum Subscribed {
    /// It follows.
    Following(Subscription),
    /// The cursor cannot be resumed from.
    Stale(Stale),
}

/// What a subscription brings.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum Delivery {
    /// Documents of a snapshot; the log continues from its watermark once it is complete.
    Snapshot(SnapshotPage),
    /// The subscription can go no further: the log was trimmed past it, or its epoch is over. It stays so.
    Stale(Stale),
    /// Updates, right after those before.
    Updates(Arc<SharedPage>),
}

/// A topic that is followed within the process.
#[derive(Debug)]
pub struct Subscription {
    khala: Khala,
    topic: Topic,
    on_stale: OnStale,
    watch: Watch,
    cursor: Cursor,
    snapshot: Option<SnapshotFrom>,
}

impl Subscription {
    pub(super) async fn open(khala: Khala, topic: Topic, request: JoinRequest) -> Result<Subscribed, Error> {
        // The watch comes first: what is appended after the bounds were read is then heard of.
        let watch = khala.fanout().watch(&topic).await?;
        let bounds = khala.journal().bounds(&topic).await?;
        let (cursor, snapshot) = match request.resume {
            Resume::After(cursor) => match bounds.admit(cursor) {
                Ok(()) => (cursor, None),
                Err(stale) if request.on_stale == OnStale::Error => return Ok(Subscribed::Stale(stale)),
                Err(_) => (bounds.at_head(), Some(SnapshotFrom::Start)),
            },
            Resume::Floor => (bounds.at_floor(), None),
            Resume::Head => (bounds.at_head(), None),
            Resume::Snapshot => (bounds.at_head(), Some(SnapshotFrom::Start)),
        };
        let on_stale = request.on_stale;
        Ok(Subscribed::Following(Self { khala, topic, on_stale, watch, cursor, snapshot }))
    }

    /// Where it stands: everything up to here was returned. Means nothing while a snapshot is being read.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Waits for what comes next.
    ///
    /// Cancel safe: what was not returned is returned by the next call.
    ///
    /// # Errors
    /// An [`Error`] when the journal cannot be read now. The subscription stands where it stood; call again.
    pub async fn next(&mut self) -> Result<Delivery, Error> {
        loop {
            if let Some(from) = self.snapshot.clone() {
                return self.next_documents(from).await;
            }
            let now = self.khala.now();
            let poll_every = self.khala.sessions().poll_every;
            let wanted = Wanted { head: self.watch.head(), not_older_than: now.minus(poll_every) };
            match self.khala.journal().follow(&self.topic, self.cursor, wanted, now).await? {
                Followed::Page { page, .. } => {
                    self.cursor = page.page().cursor();
                    return Ok(Delivery::Updates(page));
                }
                Followed::Stale(_) if self.on_stale == OnStale::Snapshot => {
                    self.snapshot = Some(SnapshotFrom::Start);
                }
                Followed::Stale(stale) => return Ok(Delivery::Stale(stale)),
                Followed::CaughtUp { .. } => self.sleep(poll_every).await,
            }
        }
    }

    async fn next_documents(&mut self, from: SnapshotFrom) -> Result<Delivery, Error> {
        let mut from = from;
        loop {
            match self.khala.documents().snapshot(&self.topic, from, ReadLimit::PAGE).await? {
                Snapshot::Page(page) => {
                    self.cursor = page.at;
                    self.snapshot = page.next();
                    return Ok(Delivery::Snapshot(page));
                }
                // The log no longer continues from the watermark of page one: from the start.
                Snapshot::Stale(_) => from = SnapshotFrom::Start,
            }
        }
    }

    /// Sleeps until a head is announced that is news, or it is time to poll.
    async fn sleep(&mut self, poll_every: Duration) {
        let mut poll = self.khala.clock().sleep(poll_every);
        loop {
            let moved = std::pin::pin!(self.watch.moved());
            match futures::future::select(moved, poll).await {
                Either::Left((head, rest)) if !Khala::is_news(head, self.cursor) => poll = rest,
                Either::Left(_) | Either::Right(_) => return,
            }
        }
    }

    /// The same as a stream, which ends after [`Delivery::Stale`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Delivery, Error>> + Send {
        stream::unfold(Some(self), |subscription| async move {
            let mut subscription = subscription?;
            let next = subscription.next().await;
            let goes_on = !matches!(next, Ok(Delivery::Stale(_)));
            Some((next, goes_on.then_some(subscription)))
        })
    }
}
