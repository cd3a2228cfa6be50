//! What the tests share.

use std::{future::Future, num::NonZeroUsize, path::PathBuf, time::Duration};

use khala_core::{
    Append, Batch, Cursor, DocKey, Epoch, Kind, NewUpdate, Payload, Receipt, Timestamp, Topic, Update,
    Watermark,
    auth::{Revocation, RevocationId, RevocationTarget, Revocations},
    journal::{Journal, ReadFrom, ReadLimit, Replay},
    projection::{Advance, Advanced, Checkpoint, Entity, ProjectionName},
    update::PayloadHash,
};
use khala_store_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A file for a store, gone at the end of the test.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("khala.db");
        Self { folder, path }
    }

    pub(crate) fn open(&self) -> SqliteStore {
        self.open_with(SqliteOptions::default())
    }

    pub(crate) fn open_with(&self, options: SqliteOptions) -> SqliteStore {
        SqliteStore::open_with(&self.path, options).unwrap()
    }

    /// A connection as the application has it.
    pub(crate) fn connect(&self) -> Connection {
        let conn = Connection::open(&self.path).unwrap();
        conn.busy_timeout(Duration::from_secs(10)).unwrap();
        conn
    }
}

pub(crate) fn topic(text: &str) -> Topic {
    Topic::parse(text).unwrap()
}

pub(crate) fn update(number: u64) -> NewUpdate {
    NewUpdate::new(Kind::parse("test").unwrap(), Payload::of(&number).unwrap())
}

pub(crate) fn batch(numbers: impl IntoIterator<Item = u64>) -> Batch {
    Batch::new(numbers.into_iter().map(update).collect()).unwrap()
}

pub(crate) fn written(answer: Append) -> Receipt {
    match answer {
        Append::Written(receipt) => receipt,
        other => panic!("not written: {other:?}"),
    }
}

/// The whole log of a topic that was never trimmed.
pub(crate) async fn log(journal: &impl Journal, topic: &Topic) -> Vec<Update> {
    let (mut start, mut log) = (ReadFrom::Origin, Vec::new());
    loop {
        match journal.read(topic, start, ReadLimit::PAGE).await.unwrap() {
            Replay::Page(page) => {
                start = page.cursor().into();
                let complete = page.is_complete();
                log.extend(page.updates);
                if complete {
                    return log;
                }
            }
            Replay::Stale(stale) => panic!("{stale:?}"),
        }
    }
}

pub(crate) fn advanced(answer: Advanced) -> Option<Receipt> {
    match answer {
        Advanced::Written(receipt) => receipt,
        other => panic!("not written: {other:?}"),
    }
}

pub(crate) fn projection() -> ProjectionName {
    ProjectionName::parse("runs").unwrap()
}

pub(crate) fn entity(name: &str) -> Entity {
    Entity::parse(name).unwrap()
}

pub(crate) fn checkpoint(number: u64) -> Checkpoint {
    Checkpoint {
        source: Cursor::new(Epoch::from_bits(7), Watermark::new(number).unwrap()),
        version: 1,
        summary_hash: PayloadHash::of(&Payload::of(&number).unwrap()).unwrap(),
    }
}

/// The step of an entity to a number from the one before, with the document of its name, in the topic `folded`.
pub(crate) fn step(name: &str, number: u64) -> Advance {
    let from = (number > 1).then(|| checkpoint(number - 1));
    let state = update(number).doc_key(DocKey::parse(name).unwrap());
    Advance::new(projection(), entity(name), from, checkpoint(number))
        .with_batch(topic("folded"), state.try_into().unwrap())
}

/// A revocation of the subject `id`, made now.
pub(crate) fn revocation(id: &str) -> Revocation {
    Revocation::new(RevocationTarget::Sub(RevocationId::parse(id).unwrap()), NOW)
}

/// The whole log of revocations.
pub(crate) async fn revoked(revocations: &impl Revocations) -> Vec<(Watermark, Revocation)> {
    revocations.revocations(Watermark::ORIGIN, NonZeroUsize::MAX).await.unwrap().revocations
}

/// Waits for what must happen, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it happens within 30 s")
}
