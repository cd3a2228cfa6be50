//! Several stores on one place, and the application's own transactions beside them: every call takes the next way in.

use std::{
    fmt,
    future::Future,
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;

use crate::{
    auth::{Revocation, RevocationPage, Revocations},
    documents::{Documents, Snapshot, SnapshotFrom},
    error::Error,
    journal::{
        Append, Batch, DueAfter, DuePage, Journal, Keep, ReadFrom, ReadLimit, Replay, Settled, TopicPage,
        Trimmed,
    },
    node::NodeId,
    position::{Bounds, Watermark},
    projection::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName},
    retention::{Lease, SweepRecord, Sweeps},
    topic::Topic,
    update::{DocKey, Timestamp, Update},
};

/// The ways into one place.
pub trait Ways: fmt::Debug + Send + Sync + 'static {
    /// A store that is open on it.
    type Store: Journal + Documents + Checkpoints + Revocations + Sweeps;

    /// Those that are; at least one.
    fn stores(&self) -> &[Self::Store];

    /// Appends by none of them, as an application does in a transaction of its own.
    fn append_beside(
        &self,
        topic: &Topic,
        batch: Batch,
        now: Timestamp,
    ) -> impl Future<Output = Result<Append, Error>> + Send;
}

/// A store of [`Ways`]: what one of them has written, the next is asked for.
#[derive(Debug)]
pub struct InTurn<W> {
    ways: W,
    calls: AtomicUsize,
}

impl<W: Ways> InTurn<W> {
    /// Takes these ways in turn.
    pub fn new(ways: W) -> Self {
        Self { ways, calls: AtomicUsize::new(0) }
    }

    /// The ways.
    pub fn ways(&self) -> &W {
        &self.ways
    }

    fn turn(&self, ways: usize) -> usize {
        self.calls.fetch_add(1, Ordering::Relaxed) % ways
    }

    fn store(&self) -> &W::Store {
        let stores = self.ways.stores();
        &stores[self.turn(stores.len())]
    }
}

#[async_trait]
impl<W: Ways> Journal for InTurn<W> {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        let stores = self.ways.stores();
        match stores.get(self.turn(stores.len() + 1)) {
            Some(store) => store.append(topic, batch, now).await,
            None => self.ways.append_beside(topic, batch, now).await,
        }
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        self.store().read(topic, start, limit).await
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.store().check_writable().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        self.store().bounds(topic).await
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.store().trim(topic, keep, now).await
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.store().plan_trim(topic, keep, now).await
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        self.store().topics(prefix, after, limit).await
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        self.store().due(rules, after, until, limit).await
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        self.store().settle(rules, settled).await
    }
}

#[async_trait]
impl<W: Ways> Documents for InTurn<W> {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        self.store().document(topic, key).await
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        self.store().snapshot(topic, from, limit).await
    }
}

#[async_trait]
impl<W: Ways> Checkpoints for InTurn<W> {
    async fn advance(&self, advance: Advance, now: Timestamp) -> Result<Advanced, Error> {
        self.store().advance(advance, now).await
    }

    async fn checkpoint(
        &self,
        projection: &ProjectionName,
        entity: &Entity,
    ) -> Result<Option<Checkpoint>, Error> {
        self.store().checkpoint(projection, entity).await
    }

    async fn checkpoints(
        &self,
        projection: &ProjectionName,
        after: Option<&Entity>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Entity, Checkpoint)>, Error> {
        self.store().checkpoints(projection, after, limit).await
    }

    async fn remove(&self, projection: &ProjectionName, entity: &Entity) -> Result<bool, Error> {
        self.store().remove(projection, entity).await
    }

    async fn remove_all(&self, projection: &ProjectionName) -> Result<u64, Error> {
        self.store().remove_all(projection).await
    }
}

#[async_trait]
impl<W: Ways> Revocations for InTurn<W> {
    async fn revoke(&self, revocation: Revocation) -> Result<Watermark, Error> {
        self.store().revoke(revocation).await
    }

    async fn revocations(&self, after: Watermark, limit: NonZeroUsize) -> Result<RevocationPage, Error> {
        self.store().revocations(after, limit).await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Error> {
        self.store().prune(now).await
    }
}

#[async_trait]
impl<W: Ways> Sweeps for InTurn<W> {
    async fn try_acquire(&self, node: &NodeId, now: Timestamp, until: Timestamp) -> Result<Lease, Error> {
        self.store().try_acquire(node, now, until).await
    }

    async fn record(&self, record: &SweepRecord) -> Result<(), Error> {
        self.store().record(record).await
    }

    async fn records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error> {
        self.store().records(limit).await
    }
}
