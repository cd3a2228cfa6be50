//! The laws: on a store that is alone on its database, on the tail over it, and on a database that two stores and the
//! application's own transactions write to in turn.

use std::sync::{Arc, OnceLock};

use khala_core::{
    Append, Batch, Error, Timestamp, Topic,
    auth::Revocations,
    conformance::{
        Capabilities, CheckpointsHarness, Harness, InTurn, Place, RevocationsHarness, SweepsHarness, Tailed,
        Ways,
    },
    documents::Documents,
    journal::Journal,
    projection::Checkpoints,
    retention::Sweeps,
};
use khala_store_postgres::{PostgresOptions, PostgresStore, append_in};
use khala_testing::{Cluster, Pgbouncer};
use sqlx::{Connection as _, PgConnection};

use crate::support::{open, patient};

const DURABLE: Capabilities = Capabilities { lease_ends_with_its_node: true, ..Capabilities::durable() };

/// A store that is alone on its database, straight or through a pooler in transaction mode.
#[derive(Debug)]
struct One<const POOLER: bool> {
    store: PostgresStore,
    place: Place,
}

impl<const POOLER: bool> Harness for One<POOLER> {
    const CAPABILITIES: Capabilities = DURABLE;

    async fn fresh() -> Self {
        let url = Cluster::shared().database();
        let pooled = || pooler().url(url.rsplit('/').next().unwrap());
        Self::open(Place::new(if POOLER { pooled() } else { url })).await
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
        let options = PostgresOptions { pooler: POOLER, ..patient() };
        Self { store: PostgresStore::open_with(place.as_str(), options).await.unwrap(), place }
    }
}

impl<const POOLER: bool> CheckpointsHarness for One<POOLER> {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        Arc::new(self.store.clone())
    }
}

impl<const POOLER: bool> RevocationsHarness for One<POOLER> {
    fn revocations(&self) -> Arc<dyn Revocations> {
        Arc::new(self.store.clone())
    }
}

impl<const POOLER: bool> SweepsHarness for One<POOLER> {
    fn sweeps(&self) -> Arc<dyn Sweeps> {
        Arc::new(self.store.clone())
    }
}

/// The one pooler that all tests share. A store has up to sixteen connections to it, and it has fewer to the database.
fn pooler() -> &'static Pgbouncer {
    static SHARED: OnceLock<Pgbouncer> = OnceLock::new();
    SHARED.get_or_init(|| Pgbouncer::start(Cluster::shared().port(), 6))
}

mod alone {
    khala_core::laws!(super::One<false>);
    khala_core::checkpoint_laws!(super::One<false>);
    khala_core::revocation_laws!(super::One<false>);
    khala_core::sweep_laws!(super::One<false>);
}

mod tail_over_alone {
    khala_core::laws!(super::Tailed<super::One<false>>);
}

mod pooled {
    khala_core::laws!(super::One<true>);
    khala_core::checkpoint_laws!(super::One<true>);
    khala_core::revocation_laws!(super::One<true>);
    khala_core::sweep_laws!(super::One<true>);
}

/// Two stores on one database and the application's own transactions beside them.
#[derive(Debug)]
struct Together {
    ways: Arc<InTurn<Two>>,
    place: Place,
}

#[derive(Debug)]
struct Two {
    url: String,
    stores: [PostgresStore; 2],
}

impl Ways for Two {
    type Store = PostgresStore;

    fn stores(&self) -> &[PostgresStore] {
        &self.stores
    }

    async fn append_beside(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        let mut transaction = conn.begin().await.unwrap();
        let answer = append_in(&mut transaction, topic, &batch, now).await?;
        transaction.commit().await.unwrap();
        Ok(answer)
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
        for store in self.ways.ways().stores() {
            store.close().await;
        }
        self.place
    }

    async fn open(place: Place) -> Self {
        let url = place.as_str().to_owned();
        let stores = [open(&url).await, open(&url).await];
        Self { ways: Arc::new(InTurn::new(Two { url, stores })), place }
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

mod together {
    khala_core::laws!(super::Together);
    khala_core::checkpoint_laws!(super::Together);
    khala_core::revocation_laws!(super::Together);
    khala_core::sweep_laws!(super::Together);
}
