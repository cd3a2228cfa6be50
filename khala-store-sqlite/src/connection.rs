//! Connections to the file: how each is opened and set up.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use khala_core::{Error, ErrorKind};
use rusqlite::{Connection, MAIN_DB, OpenFlags, config::DbConfig};

use crate::{
    fault::{Fault, error},
    options::{Durability, SqliteOptions},
    sql,
};

/// How many prepared statements a connection of the store keeps: all that it uses.
const STATEMENTS: usize = 32;

/// How long to wait for others to close a file that is to be had alone.
const SOLE_WAITS: Duration = Duration::from_millis(500);

/// The file that `path` names, in a form that keeps its meaning: SQLite reads a leading `file:` as a URI, and a
/// later change of the working directory would move a relative path.
pub(crate) fn locate(path: &Path) -> Result<PathBuf, Error> {
    let shown = path.display();
    let invalid = |message: String| error(ErrorKind::Invalid, message);
    if path == Path::new(":memory:") {
        return Err(invalid("a store in memory is `khala_core::MemoryStore`; name a file".to_owned()));
    }
    let path = std::path::absolute(path)
        .map_err(|fault| invalid(format!("'{shown}' is not a path to a file: {fault}; name a file")))?;
    if path.is_dir() {
        return Err(invalid(format!("{shown} is a directory; name a file in it")));
    }
    match path.parent() {
        Some(folder) if !folder.is_dir() => Err(invalid(format!(
            "{shown} cannot be opened: the folder {} does not exist; create it first",
            folder.display()
        ))),
        _ => Ok(path),
    }
}

/// The connection that writes. Makes the file if there is none, puts it into WAL mode, and makes durable what an
/// earlier process left in the write-ahead log.
pub(crate) fn writer(path: &Path, options: &SqliteOptions) -> Result<Connection, Fault> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = connect(path, flags, options)?;
    // SQLite opens what it may not write for reading only, and does not say so.
    if conn.is_readonly(MAIN_DB)? {
        return Err(error(
            ErrorKind::ReadOnly,
            "the file may be read and not written; check its permissions and how the file system is mounted",
        )
        .into());
    }
    use_wal(&conn, options.busy_timeout)?;
    conn.execute_batch(match options.durability {
        Durability::Full => sql::SYNC_EVERY_COMMIT,
        Durability::MayLoseLastCommitsOnPowerLoss => sql::SYNC_CHECKPOINTS,
    })?;
    // Its answer, which tells whether another connection was in its way, does not matter. The log is synced before it is copied: on
    // a full disk only the copying fails, and readers are served.
    if let Err(fault) = set(&conn, sql::SYNC_LOG) {
        if !fault.is_full() {
            return Err(fault);
        }
        tracing::warn!(path = %path.display(), "the disk is full: what the log holds stays there until there is room");
    }
    set(&conn, sql::WRITER_SETTINGS)?;
    if let Some(pages) = options.max_pages {
        set(&conn, &format!("{}{pages}", sql::MAX_PAGES))?;
    }
    Ok(conn)
}

/// A connection that only reads.
pub(crate) fn reader(path: &Path, options: &SqliteOptions) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = connect(path, flags, options)?;
    set(&conn, sql::READER_SETTINGS)?;
    Ok(conn)
}

/// A connection that only reads, and leaves a write-ahead log as it is: any other, when it is the last one to close,
/// puts the log into the file and removes it. Where there is none, it makes an empty one and has to remove that.
pub(crate) fn onlooker(path: &Path, options: &SqliteOptions) -> Result<Connection, Fault> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let left = fs::metadata(log).is_ok_and(|log| log.len() > 0);
    let conn = reader(path, options)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, left)?;
    Ok(conn)
}

/// A connection that writes and has the file to itself: nobody else can have it open, in this process or another.
pub(crate) fn sole(path: &Path, options: &SqliteOptions) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = connect(path, flags, options)?;
    conn.busy_timeout(options.busy_timeout.min(SOLE_WAITS))?;
    // The lock is taken by the first statement that reads, and kept.
    let taken = set(&conn, sql::ALONE).and_then(|()| {
        conn.execute_batch(sql::SYNC_EVERY_COMMIT)?;
        conn.execute_batch(sql::BEGIN_WRITE)?;
        Ok(conn.execute_batch(sql::ROLLBACK)?)
    });
    match taken {
        Ok(()) => Ok(conn),
        Err(fault) if fault.is_busy() => Err(error(
            ErrorKind::Unavailable,
            "another process has the file open: stop every server and application that uses it, and try again",
        )
        .into()),
        Err(fault) => Err(fault),
    }
}

fn connect(path: &Path, flags: OpenFlags, options: &SqliteOptions) -> Result<Connection, Fault> {
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(options.busy_timeout)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

/// Sets a PRAGMA that may or may not answer with a row.
fn set(conn: &Connection, pragma: &str) -> Result<(), Fault> {
    conn.prepare(pragma)?.query([])?.next()?;
    Ok(())
}

/// Two processes that switch a new file to WAL at once meet a lock for which SQLite does not use its busy timeout, since
/// waiting could be a deadlock. So this function waits by itself.
fn use_wal(conn: &Connection, patience: Duration) -> Result<(), Fault> {
    let until = Instant::now() + patience;
    loop {
        let mode = conn.query_row(sql::USE_WAL, [], |row| row.get::<_, String>(0)).map_err(Fault::from);
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let message = format!(
                    "the file cannot be used with a write-ahead log (its journal mode stays '{mode}'); put it on \
                     a local file system"
                );
                return Err(error(ErrorKind::Invalid, message).into());
            }
            Err(fault) if fault.is_busy() && Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(fault) => return Err(fault),
        }
    }
}
