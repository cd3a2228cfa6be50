//! The least that storing takes: plain rows through rusqlite, by one thread, and a bare sync.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use khala_testing::{During as _, Failure, Histogram, ensure};
use rusqlite::Connection;

use super::{Done, Meter};
use crate::PAYLOAD;

fn open(folder: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(folder.join("raw.db")).during("opening a file")?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL)",
        )
        .during("making a table")?;
    Ok(connection)
}

fn insert(connection: &mut Connection, rows: usize) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let mut statement = transaction.prepare_cached("INSERT INTO entry (kind, payload) VALUES (?1, ?2)")?;
    for _ in 0..rows {
        statement.execute(["step", PAYLOAD])?;
    }
    drop(statement);
    transaction.commit()
}

/// Rows in synced transactions of that size. A row's latency is that of its transaction.
pub(super) fn append(folder: &Path, per_transaction: usize, length: Duration) -> Result<Done, Failure> {
    let mut connection = open(folder)?;
    let (mut latency, mut rows) = (Histogram::default(), 0);
    let meter = Meter::start()?;
    let until = Instant::now() + length;
    while Instant::now() < until {
        let begin = Instant::now();
        insert(&mut connection, per_transaction).during("inserting")?;
        latency.add(begin.elapsed().as_micros() as u64, per_transaction as u64);
        rows += per_transaction as u64;
    }
    let done = meter.stop(rows, latency)?;
    let stored: i64 =
        connection.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).during("counting")?;
    Ok(Done { lost: rows.abs_diff(stored as u64), ..done })
}

/// All of `rows` rows.
pub(super) fn read(folder: &Path, rows: usize) -> Result<Done, Failure> {
    let mut connection = open(folder)?;
    insert(&mut connection, rows).during("inserting")?;
    drop(connection);
    let meter = Meter::start()?;
    let connection = open(folder)?;
    let mut statement = connection
        .prepare("SELECT id, kind, payload FROM entry WHERE id > ?1 ORDER BY id")
        .during("reading")?;
    let mut cursor = statement.query([0]).during("reading")?;
    let (mut read, mut bytes) = (0, 0);
    while let Some(row) = cursor.next().during("reading")? {
        bytes += row.get_ref(2).during("reading")?.as_bytes().during("reading")?.len();
        read += 1;
    }
    ensure(bytes == rows * PAYLOAD.len(), || format!("{bytes} bytes were read"))?;
    let done = meter.stop(read, Histogram::default())?;
    Ok(Done { lost: read.abs_diff(rows as u64), ..done })
}

/// A sync for each payload.
pub(super) fn sync(folder: &Path, length: Duration) -> Result<Done, Failure> {
    let mut file = File::create(folder.join("synced")).during("making a file")?;
    let (mut latency, mut syncs) = (Histogram::default(), 0);
    let meter = Meter::start()?;
    let until = Instant::now() + length;
    while Instant::now() < until {
        let begin = Instant::now();
        file.write_all(PAYLOAD.as_bytes()).during("writing")?;
        file.sync_data().during("syncing")?;
        latency.add(begin.elapsed().as_micros() as u64, 1);
        syncs += 1;
    }
    meter.stop(syncs, latency)
}
