//! The laws: on a store that is alone on its database, on the tail over it, and on a database that two stores and the
//! application's own transactions write to in turn.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use khala_core::{
    Advance, Advanced, Append, Batch, Bounds, Checkpoint, Checkpoints, DocKey, Documents, Entity, Error,
    Journal, Keep, Lead, NodeId, ProjectionName, ReadLimit, Replay, Revocation, Revocations, Snapshot,
    SnapshotFrom, Start, SweepRecord, Sweeps, Timestamp, Topic, Trimmed, Update, Watermark,
    conformance::{
        Capabilities, CheckpointsHarness, Harness, Place, RevocationsHarness, SweepsHarness, Tailed,
    },
};
use khala_store_postgres::{PostgresOptions, PostgresStore, append_in};
use khala_testing::{Cluster, Pgbouncer};
use sqlx::{Connection as _, PgConnection};

use crate::support::open;

const DURABLE: Capabilities = Capabilities::durable().with_lead_ends_with_its_node(true);

#[derive(Debug)]
struct Alone {
    store: PostgresStore,
    place: Place,
}

impl Harness for Alone {
    const CAPABILITIES: Capabilities = DURABLE;

    async fn fresh() -> Self {
        Self::open(Place::new(Cluster::shared().database())).await
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.store.clone())
    }

    fn documents(&self) -> Arc<dyn Documents> {
        Arc::new(self.store.clone())
    }

    async fn close(self) -> Place {
        self.store.close().await;
        self.place
    }

    async fn open(place: Place) -> Self {
        Self { store: open(place.as_str()).await, place }
    }
}

impl CheckpointsHarness for Alone {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        Arc::new(self.store.clone())
    }
}

impl RevocationsHarness for Alone {
    fn revocations(&self) -> Arc<dyn Revocations> {
        Arc::new(self.store.clone())
    }
}

impl SweepsHarness for Alone {
    fn sweeps(&self) -> Arc<dyn Sweeps> {
        Arc::new(self.store.clone())
    }
}

mod alone {
    khala_core::laws!(super::Alone);
    khala_core::checkpoint_laws!(super::Alone);
    khala_core::revocation_laws!(super::Alone);
    khala_core::sweep_laws!(super::Alone);
}

mod tail_over_alone {
    khala_core::laws!(super::Tailed<super::Alone>);
}

/// The same through a pooler in transaction mode.
#[derive(Debug)]
struct Pooled {
    store: PostgresStore,
    place: Place,
}

impl Harness for Pooled {
    const CAPABILITIES: Capabilities = DURABLE;

    async fn fresh() -> Self {
        let url = Cluster::shared().database();
        Self::open(Place::new(pooler().url(url.rsplit('/').next().unwrap()))).await
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.store.clone())
    }

    fn documents(&self) -> Arc<dyn Documents> {
        Arc::new(self.store.clone())
    }

    async fn close(self) -> Place {
        self.store.close().await;
        self.place
    }

    async fn open(place: Place) -> Self {
        let options = PostgresOptions::new().with_pooler(true);
        Self { store: PostgresStore::open(place.as_str(), options).await.unwrap(), place }
    }
}

impl CheckpointsHarness for Pooled {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        Arc::new(self.store.clone())
    }
}

impl RevocationsHarness for Pooled {
    fn revocations(&self) -> Arc<dyn Revocations> {
        Arc::new(self.store.clone())
    }
}

impl SweepsHarness for Pooled {
    fn sweeps(&self) -> Arc<dyn Sweeps> {
        Arc::new(self.store.clone())
    }
}

/// The one pooler that all tests share. A store has up to sixteen connections to it, and it has fewer to the database.
fn pooler() -> &'static Pgbouncer {
    static SHARED: OnceLock<Pgbouncer> = OnceLock::new();
    SHARED.get_or_init(|| Pgbouncer::start(Cluster::shared().port(), 6))
}

mod pooled {
    khala_core::laws!(super::Pooled);
    khala_core::checkpoint_laws!(super::Pooled);
    khala_core::revocation_laws!(super::Pooled);
    khala_core::sweep_laws!(super::Pooled);
}

/// Two stores on one database and the application's own transactions beside them: every call takes the next way in.
#[derive(Debug)]
struct Together {
    ways: Arc<Ways>,
    place: Place,
}

#[derive(Debug)]
struct Ways {
    url: String,
    stores: [PostgresStore; 2],
    calls: AtomicUsize,
}

impl Ways {
    fn turn(&self, ways: usize) -> usize {
        self.calls.fetch_add(1, Ordering::Relaxed) % ways
    }

    fn store(&self) -> &PostgresStore {
        &self.stores[self.turn(2)]
    }
}

impl Harness for Together {
    const CAPABILITIES: Capabilities = DURABLE;

    async fn fresh() -> Self {
        Self::open(Place::new(Cluster::shared().database())).await
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.ways.clone()
    }

    fn documents(&self) -> Arc<dyn Documents> {
        self.ways.clone()
    }

    async fn close(self) -> Place {
        for store in &self.ways.stores {
            store.close().await;
        }
        self.place
    }

    async fn open(place: Place) -> Self {
        let url = place.as_str().to_owned();
        let stores = [open(&url).await, open(&url).await];
        Self { ways: Arc::new(Ways { url, stores, calls: AtomicUsize::new(0) }), place }
    }
}

impl CheckpointsHarness for Together {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        self.ways.clone()
    }
}

impl RevocationsHarness for Together {
    fn revocations(&self) -> Arc<dyn Revocations> {
        self.ways.clone()
    }
}

impl SweepsHarness for Together {
    fn sweeps(&self) -> Arc<dyn Sweeps> {
        self.ways.clone()
    }
}

#[async_trait]
impl Journal for Ways {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        if let Some(store) = self.stores.get(self.turn(3)) {
            return store.append(topic, batch, now).await;
        }
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        let mut transaction = conn.begin().await.unwrap();
        let answer = append_in(&mut transaction, topic, &batch, now).await?;
        transaction.commit().await.unwrap();
        Ok(answer)
    }

    async fn read(&self, topic: &Topic, start: Start, limit: ReadLimit) -> Result<Replay, Error> {
        self.store().read(topic, start, limit).await
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
        after: Option<&Topic>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Topic, Bounds)>, Error> {
        self.store().topics(prefix, after, limit).await
    }
}

#[async_trait]
impl Documents for Ways {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        self.store().document(topic, key).await
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        self.store().snapshot(topic, from, limit).await
    }
}

#[async_trait]
impl Checkpoints for Ways {
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
impl Revocations for Ways {
    async fn revoke(&self, revocation: Revocation) -> Result<Watermark, Error> {
        self.store().revoke(revocation).await
    }

    async fn revocations(
        &self,
        after: Watermark,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Watermark, Revocation)>, Error> {
        self.store().revocations(after, limit).await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Error> {
        self.store().prune(now).await
    }
}

#[async_trait]
impl Sweeps for Ways {
    async fn lead(&self, node: &NodeId, now: Timestamp, until: Timestamp) -> Result<Lead, Error> {
        self.store().lead(node, now, until).await
    }

    async fn record(&self, record: &SweepRecord) -> Result<(), Error> {
        self.store().record(record).await
    }

    async fn records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error> {
        self.store().records(limit).await
    }
}

mod together {
    khala_core::laws!(super::Together);
    khala_core::checkpoint_laws!(super::Together);
    khala_core::revocation_laws!(super::Together);
    khala_core::sweep_laws!(super::Together);
}
