//! The store: one handle that is journal, documents, checkpoints, revocations, sweeps and fanout.
//!
//! It only passes on: whatever writes to the writer's thread, questions to the readers, watches to the local
//! fanout that the change watcher raises.

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use async_trait::async_trait;
use khala_core::{
    Append, Batch, Bounds, Cursor, DocKey, Error, Store, Timestamp, Topic, Update, Watermark,
    auth::{Revocation, RevocationPage, Revocations},
    documents::{Documents, Snapshot, SnapshotFrom},
    fanout::{Fanout, LocalFanout, Watch},
    journal::{DueAfter, DuePage, Journal, Keep, ReadFrom, ReadLimit, Replay, Settled, TopicPage, Trimmed},
    node::NodeId,
    projection::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName},
    retention::{Lease, SweepRecord, Sweeps},
    store::trim::TrimOrder,
};

use crate::{
    checkpoint, connection, due,
    fault::{BACKEND, Fault},
    options::SqliteOptions,
    read,
    readers::Readers,
    revocation, schema,
    site::Site,
    sweep,
    trim::{self, Next},
    watcher::Watcher,
    writer::Writer,
};

/// A journal, its documents, checkpoints, revocations, sweeps and a fanout in one SQLite file, which may be the
/// application's own.
///
/// Cloning it gives another handle to the same connections and threads. Several processes, and several stores in
/// one process, may have the same file open. Every method needs a tokio runtime around it.
///
/// When the last handle is dropped, what waits to be written is written, the threads end, and everything is put
/// into the database file. Dropping it waits for that: for the last commit usually, at worst for the busy timeout.
#[derive(Clone, Debug)]
pub struct SqliteStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    seed: [u8; 16],
    writer: Writer,
    readers: Readers,
    fanout: LocalFanout,
    watcher: Watcher,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer last: the connection that closes last can put everything into the database file.
        self.watcher.stop();
        self.readers.close();
        self.writer.stop();
    }
}

/// What a store has written since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteStats {
    /// Transactions that were committed for appends and advances. How many each has is how well group commit groups.
    pub commits: u64,
    /// Appends and advances that were answered, whatever the answer.
    pub appends: u64,
    /// Updates that were written.
    pub updates: u64,
}

impl SqliteStore {
    /// Opens the file at `path`, or makes it, and brings its schema up to date.
    ///
    /// Puts the file into WAL mode, and leaves what else is in it alone. Blocks while it does so, usually a few
    /// milliseconds; at worst for the busy timeout.
    ///
    /// # Errors
    /// | kind | when |
    /// | --- | --- |
    /// | [`Corrupt`](khala_core::ErrorKind::Corrupt) | the file is damaged, or is no SQLite database |
    /// | [`Full`](khala_core::ErrorKind::Full) | there is no space for the schema |
    /// | [`Invalid`](khala_core::ErrorKind::Invalid) | the path is a directory, its folder does not exist, or the file cannot have a write-ahead log |
    /// | [`ReadOnly`](khala_core::ErrorKind::ReadOnly) | the file may not be written |
    /// | [`Schema`](khala_core::ErrorKind::Schema) | Khala's tables are of a newer version, or are not what they should be |
    /// | [`Unavailable`](khala_core::ErrorKind::Unavailable) | the file is locked for longer than the busy timeout, or cannot be opened |
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, SqliteOptions::default())
    }

    /// [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are made for this call; a later one may be kept"
    )]
    pub fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, Error> {
        let path = connection::locate(path.as_ref())?;
        Self::start(&path, &options).map_err(|fault| {
            let error = Error::from(fault);
            let message = format!("cannot open {}: {error}", path.display());
            Error::caused_by(error.kind(), BACKEND, message, error)
        })
    }

    fn start(path: &Path, options: &SqliteOptions) -> Result<Self, Fault> {
        let mut conn = connection::writer(path, options)?;
        schema::prepare(&mut conn)?;
        let seed = schema::seed(&conn)?;
        let readers = (0..options.readers.get()).map(|_| connection::reader(path, options));
        let site = Arc::new(Site::of(path, &conn, options.health.part("store_file")));
        let readers = Readers::new(readers.collect::<Result<_, Fault>>()?, Arc::clone(&site));
        let fanout = LocalFanout::new();
        let writer = Writer::start(conn, seed, site, options.health.part("store_writer"))?;
        let watcher = Watcher::start(path, options, fanout.clone(), writer.survey())?;
        tracing::info!(path = %path.display(), durability = ?options.durability, "opened the store");
        Ok(Self(Arc::new(Inner { seed, writer, readers, fanout, watcher })))
    }

    /// What this store has written since it was opened.
    pub fn stats(&self) -> SqliteStats {
        let counts = self.0.writer.counts();
        SqliteStats { commits: counts.commits(), appends: counts.appends(), updates: counts.updates() }
    }
}

#[async_trait]
impl Journal for SqliteStore {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        self.0.writer.append(topic.clone(), batch, now).await
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        let (seed, topic) = (self.0.seed, topic.clone());
        self.0.readers.ask(move |conn| read::page(conn, &seed, &topic, start, limit)).await
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.0.writer.check().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        let (seed, topic) = (self.0.seed, topic.clone());
        self.0.readers.ask(move |conn| read::bounds(conn, &seed, &topic)).await
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.0.writer.trim(TrimOrder { topic: topic.clone(), keep, now }).await
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let (seed, order) = (self.0.seed, TrimOrder { topic: topic.clone(), keep, now });
        let mut progress = None;
        loop {
            // Each step is a question of its own, so that others go in between and none holds on to a moment.
            let order = order.clone();
            match self.0.readers.ask(move |conn| trim::plan(&order, conn, &seed, progress)).await? {
                (reached, Next::Step) => progress = Some(reached),
                (reached, Next::Done) => return Ok(reached.trimmed()),
            }
        }
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.0.readers.ask(move |conn| read::topics(conn, &prefix, after.as_deref(), limit)).await
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        let after = after.cloned();
        self.0.readers.ask(move |conn| due::page(conn, rules, after.as_ref(), until, limit)).await
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        let settled: Arc<[Settled]> = settled.into();
        loop {
            // In steps, so that what else is to be written goes in between.
            let settled = Arc::clone(&settled);
            match self.0.writer.change(move |conn| due::settle(conn, rules, &settled)).await? {
                None => {}
                Some(retired) => return Ok(retired),
            }
        }
    }
}

#[async_trait]
impl Documents for SqliteStore {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        let (topic, key) = (topic.clone(), key.clone());
        self.0.readers.ask(move |conn| read::document(conn, &topic, &key)).await
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        let (seed, topic) = (self.0.seed, topic.clone());
        self.0.readers.ask(move |conn| read::snapshot(conn, &seed, &topic, &from, limit)).await
    }
}

#[async_trait]
impl Checkpoints for SqliteStore {
    async fn advance(&self, advance: Advance, now: Timestamp) -> Result<Advanced, Error> {
        self.0.writer.advance(advance, now).await
    }

    async fn checkpoint(
        &self,
        projection: &ProjectionName,
        entity: &Entity,
    ) -> Result<Option<Checkpoint>, Error> {
        let (projection, entity) = (projection.clone(), entity.clone());
        self.0.readers.ask(move |conn| checkpoint::find(conn, &projection, &entity)).await
    }

    async fn checkpoints(
        &self,
        projection: &ProjectionName,
        after: Option<&Entity>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Entity, Checkpoint)>, Error> {
        let (projection, after) = (projection.clone(), after.cloned());
        self.0.readers.ask(move |conn| checkpoint::page(conn, &projection, after.as_ref(), limit)).await
    }

    async fn remove(&self, projection: &ProjectionName, entity: &Entity) -> Result<bool, Error> {
        let (projection, entity) = (projection.clone(), entity.clone());
        self.0.writer.change(move |conn| checkpoint::remove(conn, &projection, &entity)).await
    }

    async fn remove_all(&self, projection: &ProjectionName) -> Result<u64, Error> {
        let (mut removed, mut after) = (0, Vec::new());
        loop {
            // In steps, so that what else is to be written goes in between.
            let projection = projection.clone();
            let step = move |conn: &_| checkpoint::remove_step(conn, &projection, &after);
            let (some, last) = self.0.writer.change(step).await?;
            removed += some;
            match last {
                Some(last) => after = last,
                None => return Ok(removed),
            }
        }
    }
}

#[async_trait]
impl Revocations for SqliteStore {
    async fn revoke(&self, revocation: Revocation) -> Result<Watermark, Error> {
        self.0.writer.change(move |conn| revocation::store(conn, revocation)).await
    }

    async fn revocations(&self, after: Watermark, limit: NonZeroUsize) -> Result<RevocationPage, Error> {
        self.0.readers.ask(move |conn| revocation::page(conn, after, limit)).await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Error> {
        let mut forgotten = 0;
        loop {
            // In steps, so that what else is to be written goes in between.
            match self.0.writer.change(move |conn| revocation::prune(conn, now)).await {
                Ok((some, Next::Step)) => forgotten += some,
                Ok((some, Next::Done)) => return Ok(forgotten + some),
                // An error means that nothing is known to be forgotten; what was, is told.
                Err(error) if forgotten == 0 => return Err(error),
                Err(_) => return Ok(forgotten),
            }
        }
    }
}

#[async_trait]
impl Sweeps for SqliteStore {
    async fn try_acquire(&self, node: &NodeId, now: Timestamp, until: Timestamp) -> Result<Lease, Error> {
        let node = node.clone();
        self.0.writer.change(move |conn| sweep::try_acquire(conn, &node, now, until)).await
    }

    async fn record(&self, record: &SweepRecord) -> Result<(), Error> {
        let text = sweep::text(record)?;
        self.0.writer.change(move |conn| sweep::record(conn, &text)).await
    }

    async fn records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error> {
        self.0.readers.ask(move |conn| sweep::records(conn, limit)).await
    }
}

#[async_trait]
impl Fanout for SqliteStore {
    async fn announce(&self, topic: &Topic, head: Cursor) -> Result<(), Error> {
        self.0.fanout.announce(topic, head).await
    }

    async fn watch(&self, topic: &Topic) -> Result<Watch, Error> {
        let watch = self.0.fanout.observe(topic);
        self.0.watcher.wake();
        Ok(watch)
    }

    async fn announce_revoked(&self, newest: Watermark) -> Result<(), Error> {
        self.0.fanout.announce_revoked(newest).await
    }

    async fn watch_revoked(&self) -> Result<Watch<Watermark>, Error> {
        let watch = self.0.fanout.observe_revoked();
        self.0.watcher.wake();
        Ok(watch)
    }
}

impl Store for SqliteStore {
    fn fanout(&self) -> Arc<dyn Fanout> {
        Arc::new(self.clone())
    }
}
