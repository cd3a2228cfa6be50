//! The laws: on a store that is alone on its file, on the tail over it, and on a file that two stores and the
//! application's own transactions write to in turn.

use std::{path::PathBuf, sync::Arc, time::Duration};

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
use khala_store_sqlite::{SqliteStore, append_in};
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
        Self { store: SqliteStore::open(path).unwrap(), place }
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

/// Two stores on one file and the application's own transactions beside them.
#[derive(Debug)]
struct Together {
    ways: Arc<InTurn<Two>>,
    place: Place,
}

#[derive(Debug)]
struct Two {
    path: PathBuf,
    stores: [SqliteStore; 2],
}

impl Ways for Two {
    type Store = SqliteStore;

    fn stores(&self) -> &[SqliteStore] {
        &self.stores
    }

    async fn append_beside(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
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
        let stores = [(); 2].map(|()| SqliteStore::open(&path).unwrap());
        Self { ways: Arc::new(InTurn::new(Two { path, stores })), place }
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
    khala_core::revocation_laws!(super::Together);
    khala_core::sweep_laws!(super::Together);
    khala_core::checkpoint_laws!(super::Together);
}
