//! Hot paths of the journals: appending within a transaction, and reading a page of 200.

use khala_benches::{fill, update};
use khala_core::{
    Append, Batch, Cursor, MemoryStore, Topic, Watermark,
    journal::{Journal, ReadLimit, Replay},
};
use khala_store_sqlite::{SqliteOptions, SqliteStore, append_in, prepare};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{HotPath, NOW, memory, now, topic};

/// Batches of one update in one transaction, without what syncing it costs.
pub(crate) struct AppendIn {
    connection: Connection,
    topic: Topic,
    batches: Vec<Batch>,
}

impl AppendIn {
    /// `batches` batches.
    pub(crate) fn new(batches: usize) -> Self {
        let mut connection = Connection::open_in_memory().expect("a database");
        prepare(&mut connection).expect("tables");
        let batch = || Batch::new(vec![update()]).expect("a batch");
        let batches = std::iter::repeat_with(batch).take(batches).collect();
        let mut path = Self { connection, topic: topic(), batches };
        // Statements are prepared once.
        path.run();
        path
    }
}

impl HotPath for AppendIn {
    type Made = ();

    fn run(&mut self) {
        let transaction = self.connection.transaction().expect("a transaction");
        for batch in &self.batches {
            let answer = append_in(&transaction, &self.topic, batch, NOW).expect("it is taken");
            assert!(matches!(answer, Append::Written(_)));
        }
        transaction.commit().expect("a commit");
    }
}

/// From the memory journal, copied.
pub(crate) struct Page {
    journal: MemoryStore,
    topic: Topic,
    start: Cursor,
}

impl Page {
    /// A page in the middle of a log.
    pub(crate) fn new() -> Self {
        let (journal, topic) = (memory(1_000), topic());
        let epoch = now(journal.bounds(&topic)).expect("bounds").epoch;
        Self { journal, topic, start: Cursor::new(epoch, Watermark::new(400).expect("a watermark")) }
    }
}

impl HotPath for Page {
    type Made = Replay;

    fn run(&mut self) -> Replay {
        now(self.journal.read(&self.topic, self.start.into(), ReadLimit::PAGE)).expect("a page")
    }
}

/// From SQLite, on one of its threads.
pub(crate) struct SqlitePage {
    store: SqliteStore,
    runtime: Runtime,
    topic: Topic,
    start: Cursor,
    limit: ReadLimit,
    _folder: TempDir,
}

impl SqlitePage {
    /// A page of `updates` updates in the middle of a log.
    pub(crate) fn new(updates: usize) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let options = SqliteOptions { readers: std::num::NonZeroUsize::MIN, ..SqliteOptions::default() };
        let store = {
            let _entered = runtime.enter();
            SqliteStore::open_with(folder.path().join("bench.db"), options).expect("a store")
        };
        let topic = topic();
        runtime.block_on(fill(&store, &topic, 2_000));
        let epoch = runtime.block_on(store.bounds(&topic)).expect("bounds").epoch;
        let start = Cursor::new(epoch, Watermark::new(400).expect("a watermark"));
        let limit = ReadLimit::new(updates.try_into().expect("some"), 2 << 20);
        Self { store, runtime, topic, start, limit, _folder: folder }
    }
}

impl HotPath for SqlitePage {
    type Made = Replay;

    fn run(&mut self) -> Replay {
        self.runtime.block_on(self.store.read(&self.topic, self.start.into(), self.limit)).expect("a page")
    }
}
