//! An append, inside a transaction that somebody else began and will commit: the writer's group, or the
//! application's own.
//!
//! All checks of a batch come before its first write, and see what the batches before it in the same transaction
//! wrote. A topic's row is read once and written back once, by [`Group::finish`]: a head is never stored without
//! the updates up to it (J1, J7).

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use khala_core::{
    Append, Batch, Bounds, DocKey, Epoch, Error, ErrorKind, Receipt, Timestamp, Topic,
    journal::Admission,
    store::rows::{self, int},
    update::DedupKey,
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Statement, ToSql, Transaction, params};

use crate::{
    fault::{BACKEND, Fault, error},
    row::{self, StoredRow, TopicRow},
    schema, sql,
};

/// Appends a batch as part of the caller's own transaction, on the caller's own connection to a file that
/// [`SqliteStore::open`](crate::SqliteStore::open) or [`prepare`](crate::prepare) has prepared.
///
/// The answer, dedup keys, `expect` and document versions are those of
/// [`Journal::append`](khala_core::journal::Journal::append); `now` becomes `published_at`. Nothing is visible to anybody
/// before the transaction is committed, and if it is rolled back, nothing ever was. A failed call leaves nothing
/// of the batch in the transaction.
///
/// After the commit, [`announce`](khala_core::fanout::Fanout::announce) `receipt.cursor()` to wake subscribers at once;
/// a store that is open on the file notices within [`watch_interval`](crate::SqliteOptions::watch_interval) anyway.
///
/// Begin with [`TransactionBehavior::Immediate`](rusqlite::TransactionBehavior::Immediate): a transaction that
/// has read before somebody else wrote can write no more, which is an error of
/// [`ErrorKind::Unavailable`] and calls for running it again. Keep it short: while it is open, no
/// other append to the file gets through. The commit is as durable as the connection's `synchronous` setting
/// makes it; SQLite's own default is `FULL`.
///
/// # Errors
/// [`ErrorKind::Schema`] where the file was not prepared, and whatever SQLite has to say. After
/// [`ErrorKind::Full`] and other failures of the disk, SQLite may have rolled the whole transaction back.
pub fn append_in(
    transaction: &Transaction<'_>,
    topic: &Topic,
    batch: &Batch,
    now: Timestamp,
) -> Result<Append, Error> {
    append_on(transaction, topic, batch, now)
}

/// [`append_in`] for a transaction that was not begun by rusqlite: on a connection of another driver, wrapped by
/// [`Connection::from_handle`] for the call. `docs/drivers.md` has the lines for sqlx and diesel.
///
/// # Errors
/// [`ErrorKind::Invalid`] where no transaction is open on the connection, and those of [`append_in`].
pub fn append_on(conn: &Connection, topic: &Topic, batch: &Batch, now: Timestamp) -> Result<Append, Error> {
    if conn.is_autocommit() {
        return Err(error(ErrorKind::Invalid, "no transaction is open on this connection; begin one first"));
    }
    let seed = schema::seed(conn)?;
    let append = || -> Result<Append, Fault> {
        let mut group = Group::new(conn, &seed);
        let append = group.append(topic, batch, now)?;
        group.finish()?;
        Ok(append?)
    };
    conn.execute_batch(sql::SAVEPOINT).map_err(Fault::from)?;
    let answer = append();
    let end = if answer.is_ok() { sql::RELEASE } else { sql::ROLLBACK_TO };
    match (answer, conn.execute_batch(end)) {
        (Ok(append), Ok(())) => Ok(append),
        (Ok(_), Err(fault)) => Err(Fault::from(fault).into()),
        // Where going back fails too, SQLite has rolled everything back already; the first fault tells why.
        (Err(fault), _) => Err(fault.into()),
    }
}

/// The appends of one transaction.
#[derive(Debug)]
pub(crate) struct Group<'c> {
    seed: &'c [u8; 16],
    topics: HashMap<Topic, Standing>,
    updates: usize,
    statements: Statements<'c>,
}

/// The statements of an append, each looked up once for the whole group.
#[derive(Debug)]
struct Statements<'c> {
    conn: &'c Connection,
    add_update: Held<'c>,
    document_version: Held<'c>,
    put_document: Held<'c>,
    receipt: Held<'c>,
    topic: Held<'c>,
}

/// A statement, once it was needed.
#[derive(Default)]
struct Held<'c>(Option<CachedStatement<'c>>);

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.is_some()).finish()
    }
}

impl<'c> Held<'c> {
    fn get(&mut self, conn: &'c Connection, sql: &str) -> Result<&mut CachedStatement<'c>, Fault> {
        Ok(match &mut self.0 {
            Some(statement) => statement,
            none => none.insert(conn.prepare_cached(sql)?),
        })
    }
}

/// Where a topic stands, inside the transaction.
#[derive(Debug)]
enum Standing {
    Moved(TopicRow),
    Untouched(Epoch),
    Unmoved(TopicRow),
}

impl Standing {
    fn row(&self) -> Option<&TopicRow> {
        match self {
            Self::Moved(row) | Self::Unmoved(row) => Some(row),
            Self::Untouched(_) => None,
        }
    }

    fn bounds(&self) -> Bounds {
        match self {
            Self::Moved(row) | Self::Unmoved(row) => row.bounds,
            Self::Untouched(epoch) => Bounds::untouched(*epoch),
        }
    }
}

impl<'c> Group<'c> {
    /// Appends in the transaction that is open on `conn`.
    pub(crate) fn new(conn: &'c Connection, seed: &'c [u8; 16]) -> Self {
        let statements = Statements {
            conn,
            add_update: Held::default(),
            document_version: Held::default(),
            put_document: Held::default(),
            receipt: Held::default(),
            topic: Held::default(),
        };
        Self { seed, topics: HashMap::new(), updates: 0, statements }
    }

    /// How many updates were written so far.
    pub(crate) fn updates(&self) -> usize {
        self.updates
    }

    /// The connection whose transaction it is.
    pub(crate) fn conn(&self) -> &'c Connection {
        self.statements.conn
    }

    /// Checks a batch and writes it if nothing speaks against it.
    ///
    /// The inner error is this batch's alone, and nothing of it was written; after the outer one, the
    /// transaction may hold a part of it and must be rolled back.
    pub(crate) fn append(
        &mut self,
        topic: &Topic,
        batch: &Batch,
        now: Timestamp,
    ) -> Result<Result<Append, Error>, Fault> {
        let statements = &mut self.statements;
        let conn = statements.conn;
        let standing = match self.topics.entry(topic.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let row = TopicRow::read(statements.topic.get(conn, sql::TOPIC)?, topic)?;
                let untouched = || Standing::Untouched(Epoch::derive(self.seed, topic));
                unknown.insert(row.map_or_else(untouched, Standing::Unmoved))
            }
        };
        let receipt = match admit(statements, standing, topic, batch)? {
            Admission::Answered(answer) => return Ok(answer),
            Admission::Write(receipt) => receipt,
        };
        let mut row = match standing.row() {
            Some(row) => *row,
            None => {
                conn.prepare_cached(sql::ADD_TOPIC)?
                    .execute(params![topic.as_str(), int(receipt.epoch.bits())])?;
                TopicRow { id: conn.last_insert_rowid(), bounds: standing.bounds(), bytes: 0, put_off: false }
            }
        };
        let written = write(statements, row.id, batch, &receipt, now)?;
        row.bytes = row.bytes.checked_add(written).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(
            || Fault::corrupt(format!("the topic {topic} is said to hold {} bytes", row.bytes)),
        )?;
        row.bounds.head = receipt.last.watermark();
        *standing = Standing::Moved(row);
        self.updates += batch.updates().len();
        Ok(Ok(Append::Written(receipt)))
    }

    /// Writes the rows of the topics that moved. What is left to do is COMMIT.
    pub(crate) fn finish(self) -> Result<(), Fault> {
        let moved = self.topics.values().filter_map(|standing| match standing {
            Standing::Moved(row) => Some(row),
            Standing::Untouched(_) | Standing::Unmoved(_) => None,
        });
        let mut moved = moved.peekable();
        if moved.peek().is_none() {
            return Ok(());
        }
        let conn = self.statements.conn;
        let mark: i64 = conn.prepare_cached(sql::NEXT_MARK)?.query_row([], |row| row.get(0))?;
        let mut move_head = conn.prepare_cached(sql::MOVE_HEAD)?;
        for row in moved {
            if row.put_off {
                let mut move_head = conn.prepare_cached(sql::MOVE_HEAD_DUE)?;
                move_head.execute(params![row.id, int(row.bounds.head.as_u64()), int(row.bytes), mark])?;
                continue;
            }
            move_head.execute(params![row.id, int(row.bounds.head.as_u64()), int(row.bytes), mark])?;
        }
        Ok(())
    }
}

/// What becomes of a batch in a topic that stands there.
fn admit(
    statements: &mut Statements<'_>,
    standing: &Standing,
    topic: &Topic,
    batch: &Batch,
) -> Result<Admission, Fault> {
    let Statements { conn, receipt, document_version: find_version, .. } = statements;
    let row = standing.row();
    let kept = |key: &DedupKey| {
        let Some(row) = row else { return Ok(None) };
        let found = receipt.get(conn, sql::RECEIPT)?.query_row(params![row.id, key.as_str()], |row| {
            Ok((rows::receipt(&StoredRow(row), 0), row.get::<_, Option<[u8; 16]>>(3)?))
        });
        found.optional()?.map(|(receipt, content)| Ok((receipt?, content))).transpose()
    };
    let version = |key: &DocKey| match row {
        Some(row) => document_version(find_version.get(conn, sql::DOCUMENT_VERSION)?, row.id, key),
        None => Ok(None),
    };
    batch.admit(topic, standing.bounds(), BACKEND, kept, version)
}

fn document_version(find: &mut Statement<'_>, topic: i64, key: &DocKey) -> Result<Option<u64>, Fault> {
    let version = find.query_row(params![topic, key.as_str()], |row| row.get::<_, i64>(0)).optional()?;
    Ok(version.map(i64::cast_unsigned))
}

/// Writes a batch that nothing speaks against, and says what it counts in bytes.
fn write(
    statements: &mut Statements<'_>,
    topic: i64,
    batch: &Batch,
    receipt: &Receipt,
    now: Timestamp,
) -> Result<u64, Fault> {
    let now = int(now.as_millis());
    let conn = statements.conn;
    let add = statements.add_update.get(conn, sql::ADD_UPDATE)?;
    let mut bytes = 0;
    for (update, seq) in batch.updates().iter().zip(receipt.first.as_u64()..) {
        let doc_key = update.doc_key.as_ref().map(DocKey::as_str);
        let doc_version = doc_key.map(|_| int(update.doc_version.unwrap_or(seq)));
        let hash: Option<&str> = update.payload_hash.as_ref().map(AsRef::as_ref);
        let trace = update.trace.as_ref().map(row::trace_text).transpose()?;
        let columns: [&dyn ToSql; 10] = [
            &topic,
            &int(seq),
            &now,
            &update.kind.as_str(),
            &doc_key,
            &doc_version,
            &update.deleted,
            &hash,
            &trace,
            &update.payload.as_str(),
        ];
        add.execute(&columns[..])?;
        if doc_key.is_some() {
            statements.put_document.get(conn, sql::PUT_DOCUMENT)?.execute(&columns[..])?;
        }
        bytes += update.size() as u64;
    }
    if let Some(key) = &batch.dedup {
        conn.prepare_cached(sql::ADD_RECEIPT)?.execute(params![
            topic,
            key.as_str(),
            int(receipt.epoch.bits()),
            int(receipt.first.as_u64()),
            int(receipt.last.as_u64()),
            now,
            batch.content_hash()
        ])?;
    }
    Ok(bytes)
}
