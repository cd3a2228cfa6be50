//! What an operator has done to a file: its schema made, compared, and new epochs drawn after a restore.
//!
//! All of it blocks.
//!
//! # Invariants
//! Looking changes neither the file nor the write-ahead log that a crash left beside it, and makes none. The index of that log
//! (`-shm`), which every reader of it needs, is made and stays with it.

use std::path::Path;

use khala_core::{Error, ErrorKind};
use rusqlite::{Connection, TransactionBehavior};

use crate::{
    connection,
    fault::{Fault, error},
    options::SqliteOptions,
    schema, sql,
};

/// Makes the file at `path` where there is none, and makes or updates Khala's tables in it, as
/// [`SqliteStore::open`](crate::SqliteStore::open) does.
///
/// # Errors
/// As there.
pub fn migrate(path: &Path, options: &SqliteOptions) -> Result<(), Error> {
    let path = connection::locate(path)?;
    let mut conn = connection::writer(&path, options)?;
    schema::prepare(&mut conn)
}

/// What differs between Khala's tables in the file at `path` and what this version works with: nothing where it would
/// start.
///
/// # Errors
/// An [`Error`] when that cannot be found out.
pub fn check(path: &Path, options: &SqliteOptions) -> Result<Vec<String>, Error> {
    let path = connection::locate(path)?;
    if !is_there(&path)? {
        return Ok(vec![format!("there is no file {}", path.display())]);
    }
    let conn = connection::onlooker(&path, options)?;
    Ok(schema::compare(&conn)?)
}

/// After a restore from a backup: draws a new epoch for every topic, so that a cursor from the lost future is told
/// `epoch_mismatch`. Gives how many topics that were.
///
/// To be run while nobody has the file open: a server that had it open would go on with the epochs of before. Updates, documents
/// and dedup keys stay what they are: a batch that is in the backup is not stored again, and its receipt names the new epoch.
///
/// # Errors
/// [`ErrorKind::Unavailable`](khala_core::ErrorKind::Unavailable) when anybody has the file open,
/// [`ErrorKind::Schema`](khala_core::ErrorKind::Schema) when the tables are not those of this version, and whatever
/// SQLite has to say; then nothing was changed.
pub fn new_epochs(path: &Path, options: &SqliteOptions) -> Result<u64, Error> {
    let path = connection::locate(path)?;
    if !is_there(&path)? {
        return Err(schema::missing(&path));
    }
    let mut conn = connection::sole(&path, options)?;
    schema::verify_schema(&conn)?;
    Ok(draw(&mut conn)?)
}

/// Whether there is a file. A folder that may not be looked into is no answer.
fn is_there(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(|cause| {
        let message = format!("it cannot be found out whether there is a file {}: {cause}", path.display());
        error(ErrorKind::Unavailable, message)
    })
}

fn draw(conn: &mut Connection) -> Result<u64, Fault> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let topics = transaction.execute(sql::NEW_EPOCHS, [])?;
    transaction.execute(sql::NEW_SEED, [])?;
    transaction.execute(sql::MOVE_RECEIPTS, [])?;
    transaction.commit()?;
    Ok(topics as u64)
}
