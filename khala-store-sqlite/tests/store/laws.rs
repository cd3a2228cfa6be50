//! The laws: on a store that is alone on its file, on the tail over it, and on a file that two stores and the
//! application's own transactions write to in turn.

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
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
use khala_store_sqlite::{SqliteOptions, SqliteStore, append_in};
use rusqlite::{Connection, TransactionBehavior};
use tempfile::TempDir;

#[derive(Debug)]
struct Alone {
    store: SqliteStore,
    place: Place,
}

impl Harness for Alone {
    const CAPABILITIES: Capabilities = Capabilities::durable();

    async fn fresh() -> Self {
        let folder = TempDir::new().unwrap();
        let place = Place::new(folder.path().join("khala.db").to_str().unwrap()).keeping(folder);
        Self::open(place).await
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.store.clone())
    }

    fn documents(&self) -> Arc<dyn Documents> {
        Arc::new(self.store.clone())
    }

    async fn close(self) -> Place {
        self.place
    }

    async fn open(place: Place) -> Self {
        let path = PathBuf::from(place.as_str());
        Self { store: SqliteStore::open(path, SqliteOptions::new()).unwrap(), place }
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
    khala_core::revocation_laws!(super::Alone);
    khala_core::sweep_laws!(super::Alone);
    khala_core::checkpoint_laws!(super::Alone);
}

mod tail_over_alone {
    khala_core::laws!(super::Tailed<super::Alone>);
}

/// Two stores on one file and the application's own transactions beside them: every call takes the next way in.
#[derive(Debug)]
struct Together {
    ways: Arc<Ways>,
    place: Place,
}

#[derive(Debug)]
struct Ways {
    path: PathBuf,
    stores: [SqliteStore; 2],
    calls: AtomicUsize,
}

impl Ways {
    fn turn(&self, ways: usize) -> usize {
        self.calls.fetch_add(1, Ordering::Relaxed) % ways
    }

    fn store(&self) -> &SqliteStore {
        &self.stores[self.turn(2)]
    }
}

impl Harness for Together {
    const CAPABILITIES: Capabilities = Capabilities::durable();

    async fn fresh() -> Self {
        let folder = TempDir::new().unwrap();
        let place = Place::new(folder.path().join("khala.db").to_str().unwrap()).keeping(folder);
        Self::open(place).await
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.ways.clone()
    }

    fn documents(&self) -> Arc<dyn Documents> {
        self.ways.clone()
    }

    async fn close(self) -> Place {
        self.place
    }

    async fn open(place: Place) -> Self {
        let path = PathBuf::from(place.as_str());
        let stores = [(); 2].map(|()| SqliteStore::open(&path, SqliteOptions::new()).unwrap());
        Self { ways: Arc::new(Ways { path, stores, calls: AtomicUsize::new(0) }), place }
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
        let turn = self.turn(3);
        if let Some(store) = self.stores.get(turn) {
            return store.append(topic, batch, now).await;
        }
        let (path, topic) = (self.path.clone(), topic.clone());
        let own = tokio::task::spawn_blocking(move || {
            let mut conn = Connection::open(path).unwrap();
            conn.busy_timeout(Duration::from_secs(10)).unwrap();
            let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
            let answer = append_in(&transaction, &topic, &batch, now)?;
            transaction.commit().unwrap();
            Ok(answer)
        });
        own.await.unwrap()
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
    khala_core::revocation_laws!(super::Together);
    khala_core::sweep_laws!(super::Together);
    khala_core::checkpoint_laws!(super::Together);
}
