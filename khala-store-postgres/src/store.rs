//! The store: one handle with every role.
//!
//! It only passes on: appends to the writers, everything else to the connections.

use std::{num::NonZeroUsize, sync::Arc, time::Instant};

use async_trait::async_trait;
use khala_core::{
    Append, Batch, Bounds, DocKey, Error, Store, Timestamp, Topic, Update, Watermark,
    auth::{Revocation, RevocationPage, Revocations},
    documents::{Documents, Snapshot, SnapshotFrom},
    fanout::{Fanout, LocalFanout},
    journal::{DueAfter, DuePage, Journal, Keep, ReadFrom, ReadLimit, Replay, Settled, TopicPage, Trimmed},
    node::NodeId,
    projection::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName},
    retention::{Lease, SweepRecord, Sweeps},
    store::trim::TrimOrder,
};
use sqlx::PgPool;

use crate::{
    checkpoint,
    database::Database,
    due,
    fanout::PostgresFanout,
    options::PostgresOptions,
    read::Reader,
    revocation, schema,
    sweep::{self, Leading},
    trim,
    writer::Writers,
};

/// A journal, its documents, checkpoints, revocations and sweeps in one schema of a PostgreSQL database, which may be the application's
/// own.
///
/// Cloning it gives another handle to the same connections. Several processes, and several stores in one process, may have
/// the same database open. Every method needs a tokio runtime around it: that in which the store was opened.
///
/// When the last handle is dropped, what waits to be written is written still; [`close`](Self::close) waits for nothing
/// else but the connections.
#[derive(Clone, Debug)]
pub struct PostgresStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    seed: [u8; 16],
    database: Arc<Database>,
    writers: Writers,
    leading: Leading,
    fanout: Arc<PostgresFanout>,
}

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresStats {
    /// Transactions that were committed for appends. Appends per commit is how well group commit groups.
    pub commits: u64,
    /// Appends and advances of checkpoints that were answered, whatever the answer.
    pub appends: u64,
    /// Updates that were written.
    pub updates: u64,
    /// Questions that readers have asked the database.
    pub reads: u64,
    /// Connections that are in use now. Those that listen, or hold the lead of a sweep, are not counted.
    pub connections_busy: u32,
    /// Connections that are open and rest.
    pub connections_idle: u32,
}

impl PostgresStore {
    /// Connects to the database at `url`, `postgres://user:password@host:port/database?sslmode=…`, and brings its schema up
    /// to date, or finds that it is.
    ///
    /// # Errors
    /// | kind | when |
    /// | --- | --- |
    /// | [`Invalid`](khala_core::ErrorKind::Invalid) | the address cannot be used, the server is older than 14, or the database's encoding is not UTF8 |
    /// | [`ReadOnly`](khala_core::ErrorKind::ReadOnly) | the role may not make or use the tables |
    /// | [`Schema`](khala_core::ErrorKind::Schema) | the tables are of a version that this one cannot work with, or are not there and may not be made |
    /// | [`Unavailable`](khala_core::ErrorKind::Unavailable) | the database cannot be reached, or refuses the user |
    pub async fn open(url: &str) -> Result<Self, Error> {
        Self::open_with(url, PostgresOptions::default()).await
    }

    /// [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(url: &str, options: PostgresOptions) -> Result<Self, Error> {
        Self::start(Database::connect(url, options).await?).await
    }

    /// Opens a store on the connections of an application's own pool, so that both together have no more of them than the
    /// pool allows. The pool must allow two connections at least. [`close`](Self::close) leaves it open.
    ///
    /// A connection of its own listens, and another one holds the lease while this process sweeps; they are made with the
    /// pool's address. The options `connections` and `connect_timeout` mean nothing here. [`new_epochs`](crate::new_epochs)
    /// does not notice such a store: stop the application before.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Invalid`](khala_core::ErrorKind::Invalid) also where the pool allows one connection only.
    pub async fn from_pool(pool: PgPool, options: PostgresOptions) -> Result<Self, Error> {
        Self::start(Database::of_pool(pool, options).await?).await
    }

    async fn start(database: Database) -> Result<Self, Error> {
        let database = Arc::new(database);
        let seed = schema::prepare(&database).await?;
        let listen = database.options.listen.clone();
        let fanout = PostgresFanout::new(Arc::clone(&database), &seed, listen, LocalFanout::new())?;
        let writers = Writers::start(&database);
        tracing::info!(schema = %database.options.schema, pooler = database.options.pooler, "opened the store");
        Ok(Self(Arc::new(Inner {
            seed,
            database,
            writers,
            leading: Leading::default(),
            fanout: Arc::new(fanout),
        })))
    }

    /// What this store has done since it was opened, and what it has.
    pub fn stats(&self) -> PostgresStats {
        let counts = self.0.writers.counts();
        let (connections_busy, connections_idle) = self.0.database.connections();
        PostgresStats {
            commits: counts.commits(),
            appends: counts.appends(),
            updates: counts.updates(),
            reads: self.0.database.asked(),
            connections_busy,
            connections_idle,
        }
    }

    /// The store's own fanout. It listens from the moment on at which it is first used.
    pub fn postgres_fanout(&self) -> &Arc<PostgresFanout> {
        &self.0.fanout
    }

    /// Closes the connections, and waits for those that are in use. Whatever is asked later is
    /// [`Unavailable`](khala_core::ErrorKind::Unavailable).
    pub async fn close(&self) {
        self.0.database.close().await;
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.0.database
    }

    pub(crate) fn seed(&self) -> &[u8; 16] {
        &self.0.seed
    }

    fn reader(&self) -> Reader<'_> {
        Reader { database: &self.0.database, seed: &self.0.seed }
    }
}

#[async_trait]
impl Journal for PostgresStore {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        self.0.writers.append(topic, batch, now).await
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        Ok(self.reader().page(topic, start, limit).await?)
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.0.writers.check().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        Ok(self.reader().bounds(topic).await?)
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let order = TrimOrder { topic: topic.clone(), keep, now };
        trim::trim(&order, &self.0.seed, &self.0.database).await
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let order = TrimOrder { topic: topic.clone(), keep, now };
        Ok(trim::plan(&order, &self.0.seed, &self.0.database).await?)
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        Ok(self.reader().topics(prefix, after, limit).await?)
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        Ok(due::page(&self.0.database, rules, after, until, limit).await?)
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        due::settle(&self.0.database, rules, settled).await
    }
}

#[async_trait]
impl Documents for PostgresStore {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        Ok(self.reader().document(topic, key).await?)
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        Ok(self.reader().snapshot(topic, &from, limit).await?)
    }
}

#[async_trait]
impl Checkpoints for PostgresStore {
    async fn advance(&self, advance: Advance, now: Timestamp) -> Result<Advanced, Error> {
        let (database, begun) = (&self.0.database, Instant::now());
        let advanced = database.transaction(checkpoint::Move::new(database, &advance, now)).await;
        let (counts, now) = (self.0.writers.counts(), Instant::now());
        match advanced {
            Ok((advanced, written)) => {
                counts.committed(1, written, now - begun, now);
                Ok(advanced)
            }
            Err(fault) => {
                counts.failed(1, now - begun);
                Err(fault.into())
            }
        }
    }

    async fn checkpoint(
        &self,
        projection: &ProjectionName,
        entity: &Entity,
    ) -> Result<Option<Checkpoint>, Error> {
        Ok(checkpoint::find(&self.0.database, projection, entity).await?)
    }

    async fn checkpoints(
        &self,
        projection: &ProjectionName,
        after: Option<&Entity>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Entity, Checkpoint)>, Error> {
        Ok(checkpoint::page(&self.0.database, projection, after, limit).await?)
    }

    async fn remove(&self, projection: &ProjectionName, entity: &Entity) -> Result<bool, Error> {
        Ok(self.0.database.transaction(checkpoint::Remove(projection, entity)).await?)
    }

    async fn remove_all(&self, projection: &ProjectionName) -> Result<u64, Error> {
        Ok(checkpoint::remove_all(&self.0.database, projection).await?)
    }
}

#[async_trait]
impl Revocations for PostgresStore {
    async fn revoke(&self, revocation: Revocation) -> Result<Watermark, Error> {
        Ok(self.0.database.transaction(revocation::Store(revocation)).await?)
    }

    async fn revocations(&self, after: Watermark, limit: NonZeroUsize) -> Result<RevocationPage, Error> {
        Ok(revocation::page(&self.0.database, after, limit).await?)
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Error> {
        revocation::prune(&self.0.database, now).await
    }
}

#[async_trait]
impl Sweeps for PostgresStore {
    async fn try_acquire(&self, node: &NodeId, now: Timestamp, until: Timestamp) -> Result<Lease, Error> {
        Ok(self.0.leading.try_acquire(&self.0.database, node, now, until).await?)
    }

    async fn record(&self, record: &SweepRecord) -> Result<(), Error> {
        Ok(sweep::record(&self.0.database, record).await?)
    }

    async fn records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error> {
        Ok(sweep::records(&self.0.database, limit).await?)
    }
}

impl Store for PostgresStore {
    fn fanout(&self) -> Arc<dyn Fanout> {
        Arc::<PostgresFanout>::clone(&self.0.fanout)
    }
}
