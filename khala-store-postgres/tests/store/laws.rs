//! The laws: on a store that is alone on its database, on the tail over it, and on a database that two stores and the
//! application's own transactions write to in turn.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use khala_core::{
    Append, Batch, Bounds, DocKey, Documents, Error, Journal, Keep, Lead, NodeId, ReadLimit, Replay,
    Revocation, Revocations, Snapshot, SnapshotFrom, Start, SweepRecord, Sweeps, Timestamp, Topic, Trimmed,
    Update, Watermark,
    conformance::{Capabilities, Harness, Place, RevocationsHarness, SweepsHarness, Tailed},
};
use khala_store_postgres::{PostgresStore, append_in};
use khala_testing::Cluster;
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
}

mod tail_over_alone {
    khala_core::laws!(super::Tailed<super::Alone>);
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
}
