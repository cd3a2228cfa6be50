//! What an operator has done to a file: its schema made, compared, and new epochs drawn after a restore.
//!
//! All of it blocks. What must stay true: looking changes nothing, and makes no file.

use std::path::Path;

use khala_core::Error;
use rusqlite::{Connection, TransactionBehavior};

use crate::{connection, fault::Fault, options::SqliteOptions, schema, sql};

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
    if !path.exists() {
        return Ok(vec![format!("there is no file {}", path.display())]);
    }
    let conn = connection::reader(&path, options)?;
    Ok(schema::compare(&conn)?)
}

/// After a restore from a backup: draws a new epoch for every topic, so that a cursor from the lost future is told
/// `epoch_mismatch`. Gives how many topics that were.
///
/// To be run while nobody has the file open. Dedup keys are forgotten with the epochs that their receipts name.
///
/// # Errors
/// [`ErrorKind::Schema`](khala_core::ErrorKind::Schema) when the tables are not those of this version, and whatever
/// SQLite has to say; then nothing was changed.
pub fn new_epochs(path: &Path, options: &SqliteOptions) -> Result<u64, Error> {
    let path = connection::locate(path)?;
    if !path.exists() {
        return Err(schema::missing(&path));
    }
    let mut conn = connection::writer(&path, options)?;
    schema::verify_schema(&conn)?;
    Ok(draw(&mut conn)?)
}

fn draw(conn: &mut Connection) -> Result<u64, Fault> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let topics = transaction.execute(sql::NEW_EPOCHS, [])?;
    transaction.execute(sql::NEW_SEED, [])?;
    transaction.execute(sql::FORGET_RECEIPTS, [])?;
    transaction.commit()?;
    Ok(topics as u64)
}
