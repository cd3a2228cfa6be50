//! The schema: made, brought up to date, and compared with what this version works with.
//!
//! It lives in the application's own file, so it touches nothing that is not called `khala_…` and keeps its
//! version in a table of its own. A migration is one transaction under the write lock: two processes that open
//! the file at once do it once.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use khala_core::{Error, ErrorKind};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::{
    fault::{Fault, error},
    sql,
};

/// Each takes the schema from the version that is its index to the next.
const MIGRATIONS: [&str; 6] =
    [sql::MIGRATE_1, sql::MIGRATE_2, sql::MIGRATE_3, sql::MIGRATE_4, sql::MIGRATE_5, sql::MIGRATE_6];

/// The version that this code works with.
const VERSION: usize = MIGRATIONS.len();

/// Makes or updates Khala's tables in the file that `conn` is open on, and verifies them.
///
/// For an application that appends by [`append_in`](crate::append_in) before any
/// [`SqliteStore`](crate::SqliteStore) has opened the file; opening one does the same. Changes no setting of the
/// connection or of the file, and does nothing where there is nothing to do.
///
/// # Errors
/// [`ErrorKind::Schema`] when the tables are of a newer version or not what they should be, and whatever SQLite
/// has to say.
pub fn prepare(conn: &mut Connection) -> Result<(), Error> {
    migrate(conn)?;
    verify_schema(conn)
}

/// Compares Khala's tables with what this version works with.
///
/// # Errors
/// [`ErrorKind::Schema`] with every difference by name: a missing table, a missing, unexpected or different
/// column, a missing index, a version that is older or newer.
pub fn verify_schema(conn: &Connection) -> Result<(), Error> {
    require_version(conn)?;
    let differences = differences(&expected()?, &shape(conn)?);
    if differences.is_empty() {
        return Ok(());
    }
    Err(schema(format!(
        "Khala's tables are not those of version {VERSION}: {}. Undo what changed them, or restore the file from \
         a backup",
        differences.join("; ")
    )))
}

/// The differences one by one, as [`verify_schema`] finds them.
pub(crate) fn compare(conn: &Connection) -> Result<Vec<String>, Fault> {
    match require_version(conn) {
        Ok(()) => Ok(differences(&expected()?, &shape(conn)?)),
        Err(Fault::Reported(said)) if said.kind() == ErrorKind::Schema => Ok(vec![said.to_string()]),
        Err(fault) => Err(fault),
    }
}

fn require_version(conn: &Connection) -> Result<(), Fault> {
    match version(conn)? {
        VERSION => Ok(()),
        0 => Err(schema("the file has none of Khala's tables; call `prepare` on its connection").into()),
        found => Err(wrong_version(found).into()),
    }
}

/// There is no file, and so no schema.
pub(crate) fn missing(path: &Path) -> Error {
    schema(format!("there is no file {}", path.display()))
}

/// The random identity of the file, which the epochs of untouched topics derive from (J16).
pub(crate) fn seed(conn: &Connection) -> Result<[u8; 16], Fault> {
    let seed = conn.prepare_cached(sql::SEED)?.query_row([], |row| row.get::<_, [u8; 16]>(0)).optional()?;
    seed.ok_or_else(|| schema("khala_meta has no seed; restore the file from a backup").into())
}

fn migrate(conn: &mut Connection) -> Result<(), Fault> {
    // The usual case takes no lock.
    if version(conn)? == VERSION {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let found = version(&tx)?;
    if found > VERSION {
        return Err(wrong_version(found).into());
    }
    for (migration, reached) in MIGRATIONS.iter().zip(1_i64..).skip(found) {
        tx.execute_batch(sql::CREATE_META)?;
        tx.execute_batch(migration)?;
        tx.execute(sql::SET_VERSION, params![reached])?;
    }
    tx.commit()?;
    tracing::info!(from = found, to = VERSION, "migrated the schema");
    Ok(())
}

/// The version of the schema; 0 where there is none.
fn version(conn: &Connection) -> Result<usize, Fault> {
    if !conn.query_row(sql::HAS_META, [], |row| row.get::<_, bool>(0))? {
        return Ok(0);
    }
    let version = conn.query_row(sql::VERSION, [], |row| row.get::<_, i64>(0)).optional()?;
    let version = version.and_then(|version| usize::try_from(version).ok());
    version.ok_or_else(|| schema("khala_meta has no schema_version; restore the file from a backup").into())
}

fn wrong_version(found: usize) -> Error {
    let what = if found > VERSION {
        "a newer version of Khala wrote it; run that version or a later one on this file"
    } else {
        "call `prepare` on its connection, or open it with `SqliteStore::open`"
    };
    schema(format!("the file's schema is version {found} and this is version {VERSION}: {what}"))
}

fn schema(message: impl Into<String>) -> Error {
    error(ErrorKind::Schema, message)
}

/// A table, as far as its name and its statements depend on it.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    columns: BTreeMap<String, String>,
    indexes: Vec<String>,
}

/// What the migrations make, as SQLite itself describes it.
fn expected() -> Result<BTreeMap<String, Table>, Fault> {
    let conn = Connection::open_in_memory()?;
    conn.execute_batch(sql::CREATE_META)?;
    for migration in MIGRATIONS {
        conn.execute_batch(migration)?;
    }
    shape(&conn)
}

fn shape(conn: &Connection) -> Result<BTreeMap<String, Table>, Fault> {
    let names: Vec<String> =
        conn.prepare(sql::TABLES)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut columns = conn.prepare(sql::COLUMNS)?;
    let mut indexes = conn.prepare(sql::INDEXES)?;
    names
        .into_iter()
        .map(|name| {
            let columns = columns.query_map([&name], column)?.collect::<Result<_, _>>()?;
            let indexes = indexes.query_map([&name], index)?.collect::<Result<_, _>>()?;
            Ok((name, Table { columns, indexes }))
        })
        .collect()
}

fn column(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, String)> {
    let mut kind: String = row.get(1)?;
    if row.get(2)? {
        kind.push_str(" NOT NULL");
    }
    let key: i64 = row.get(3)?;
    if key > 0 {
        // Writing into a String cannot fail.
        let _ = write!(kind, ", {key} in the primary key");
    }
    Ok((row.get(0)?, kind))
}

fn index(row: &rusqlite::Row<'_>) -> rusqlite::Result<String> {
    let columns: Option<String> = row.get(0)?;
    let unique = if row.get(1)? { "unique " } else { "" };
    Ok(format!("{unique}index on ({})", columns.unwrap_or_default()))
}

fn differences(expected: &BTreeMap<String, Table>, found: &BTreeMap<String, Table>) -> Vec<String> {
    let mut all = Vec::new();
    for (name, table) in expected {
        let Some(there) = found.get(name) else {
            all.push(format!("table {name} is missing"));
            continue;
        };
        for (column, kind) in &table.columns {
            match there.columns.get(column) {
                None => all.push(format!("column {name}.{column} is missing")),
                Some(other) if other != kind => {
                    all.push(format!("column {name}.{column} is {other} and should be {kind}"));
                }
                Some(_) => {}
            }
        }
        let unexpected = there.columns.keys().filter(|column| !table.columns.contains_key(*column));
        all.extend(unexpected.map(|column| format!("column {name}.{column} is unexpected")));
        let missing = table.indexes.iter().filter(|index| !there.indexes.contains(index));
        all.extend(missing.map(|index| format!("table {name} has no {index}")));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `verify_schema` says about a good schema that `change` was done to.
    fn said(change: &str) -> String {
        let mut conn = Connection::open_in_memory().unwrap();
        prepare(&mut conn).unwrap();
        conn.execute_batch(change).unwrap();
        let error = verify_schema(&conn).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        error.to_string()
    }

    #[test]
    fn every_difference_is_named() {
        for (change, name) in [
            ("DROP TABLE khala_receipt", "table khala_receipt is missing"),
            ("ALTER TABLE khala_update DROP COLUMN trace", "column khala_update.trace is missing"),
            (
                "ALTER TABLE khala_update DROP COLUMN trace; ALTER TABLE khala_update ADD COLUMN trace BLOB",
                "column khala_update.trace is BLOB and should be TEXT",
            ),
            ("ALTER TABLE khala_topic ADD COLUMN mine TEXT", "column khala_topic.mine is unexpected"),
            ("DROP INDEX khala_topic_moved", "table khala_topic has no index on (moved)"),
            ("DROP INDEX khala_topic_due", "table khala_topic has no index on (due_at, topic)"),
            ("DROP INDEX khala_document_gone", "table khala_document has no index on (topic_id, seq)"),
            ("DROP INDEX khala_document_there", "table khala_document has no index on (topic_id, doc_key)"),
            ("DROP TABLE khala_revocation", "table khala_revocation is missing"),
            ("DROP TABLE khala_sweep", "table khala_sweep is missing"),
            ("DROP TABLE khala_checkpoint", "table khala_checkpoint is missing"),
            ("DROP TABLE khala_meta; DROP TABLE khala_topic", "the file has none of Khala's tables"),
            ("UPDATE khala_meta SET value = 99 WHERE name = 'schema_version'", "a newer version of Khala"),
            ("DELETE FROM khala_meta WHERE name = 'schema_version'", "no schema_version"),
        ] {
            assert!(said(change).contains(name), "{change}: {}", said(change));
        }
        let both = said("DROP TABLE khala_receipt; DROP TABLE khala_document");
        assert!(both.contains("khala_document is missing; table khala_receipt is missing"), "{both}");
    }

    #[test]
    fn a_snapshot_reads_no_tombstones() {
        let mut conn = Connection::open_in_memory().unwrap();
        prepare(&mut conn).unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {}", sql::DOCUMENTS);
        let mut plan = conn.prepare(&explain).unwrap();
        let steps = plan.query_map(params![1, ""], |row| row.get(3)).unwrap();
        let steps: Vec<String> = steps.collect::<Result<_, _>>().unwrap();
        let wanted = "SEARCH khala_document USING INDEX khala_document_there (topic_id=? AND doc_key>?)";
        assert_eq!(steps, [wanted], "and nothing is sorted");
    }

    #[test]
    fn tables_of_the_application_are_its_own() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("PRAGMA user_version = 7; CREATE TABLE khalasar (x)").unwrap();
        prepare(&mut conn).unwrap();
        prepare(&mut conn).unwrap();
        let theirs: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(theirs, 7);
    }
}
