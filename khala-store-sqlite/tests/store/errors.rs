//! What an operator is told: each fault of a file, its kind, and what to do about it.

use std::{fs, path::Path, time::Duration};

use khala_core::{
    Error, ErrorKind,
    journal::{Journal, ReadFrom, ReadLimit},
};
use khala_store_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::TransactionBehavior;

use crate::support::{NOW, Place, batch, log, topic, written};

fn refused(path: &Path) -> Error {
    let options = SqliteOptions { busy_timeout: Duration::from_millis(50), ..SqliteOptions::default() };
    SqliteStore::open_with(path, options).expect_err("it cannot be opened")
}

/// The error is of that kind, and says where, what, and what to do.
#[track_caller]
fn says(error: &Error, kind: ErrorKind, texts: &[&str]) {
    assert_eq!((error.kind(), error.backend()), (kind, "sqlite"), "{error}");
    for text in texts {
        assert!(error.to_string().contains(text), "'{error}' does not say '{text}'");
    }
}

#[test]
fn paths_that_cannot_be_a_file() {
    let place = Place::new();
    says(&refused(place.folder.path()), ErrorKind::Invalid, &["is a directory", "name a file in it"]);
    let nowhere = place.folder.path().join("missing/khala.db");
    says(&refused(&nowhere), ErrorKind::Invalid, &["missing does not exist", "create it first"]);
    says(&refused(Path::new(":memory:")), ErrorKind::Invalid, &["MemoryStore"]);
    says(&refused(Path::new("")), ErrorKind::Invalid, &["name a file"]);
}

#[tokio::test]
async fn a_path_that_looks_like_a_uri_is_a_path() {
    let place = Place::new();
    let odd = place.folder.path().join("file:khala.db?mode=memory");
    let store = SqliteStore::open(&odd).unwrap();
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    assert!(odd.is_file());
}

#[test]
fn a_file_that_is_no_database() {
    let place = Place::new();
    fs::write(&place.path, "This is a letter, and a rather long one, to nobody in particular. ".repeat(20))
        .unwrap();
    says(
        &refused(&place.path),
        ErrorKind::Corrupt,
        &["khala.db", "not a SQLite database", "name another file"],
    );
}

#[tokio::test]
async fn a_file_that_is_damaged() {
    let place = Place::new();
    let store = place.open();
    for _ in 0..20 {
        written(store.append(&topic("t"), batch(0..1_000), NOW).await.unwrap());
    }
    drop(store);
    let mut bytes = fs::read(&place.path).unwrap();
    // All but the pages where the schema and the topics stand.
    let damaged = bytes.len() / 8;
    bytes[damaged..].fill(0x5a);
    fs::write(&place.path, bytes).unwrap();
    let store = place.open();
    let mut start = ReadFrom::Origin;
    let error = loop {
        match store.read(&topic("t"), start, ReadLimit::PAGE).await {
            Ok(khala_core::journal::Replay::Page(page)) => start = page.cursor().into(),
            Ok(stale) => panic!("{stale:?}"),
            Err(error) => break error,
        }
    };
    says(&error, ErrorKind::Corrupt, &["Restore it from a backup"]);
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_log_with_a_hole_is_an_error_and_not_a_page() {
    let place = Place::new();
    let store = place.open();
    written(store.append(&topic("t"), batch(1..=10), NOW).await.unwrap());
    for (hole, missing) in [("seq = 10", "update 10"), ("seq = 4", "update 4"), ("seq = 1", "update 1")] {
        place.connect().execute(&format!("DELETE FROM khala_update WHERE {hole}"), []).unwrap();
        let error = store.read(&topic("t"), ReadFrom::Origin, ReadLimit::PAGE).await.unwrap_err();
        says(&error, ErrorKind::Corrupt, &[missing, "is missing"]);
    }
}

#[tokio::test]
async fn a_file_that_is_locked() {
    let place = Place::new();
    let own = place.connect();
    own.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE t (x)").unwrap();
    says(
        &refused(&place.path),
        ErrorKind::Unavailable,
        &["locked by another connection", "long transaction"],
    );
    drop(own);

    let store = place
        .open_with(SqliteOptions { busy_timeout: Duration::from_millis(50), ..SqliteOptions::default() });
    let mut own = place.connect();
    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let error = store.append(&topic("t"), batch([1]), NOW).await.unwrap_err();
    says(&error, ErrorKind::Unavailable, &["locked by another connection"]);
    assert!(error.is_retryable());
    assert!(log(&store, &topic("t")).await.is_empty(), "reading goes on meanwhile");
    drop(transaction);
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
}

#[tokio::test]
async fn a_disk_that_is_full() {
    let place = Place::new();
    let tiny =
        SqliteStore::open_with(&place.path, SqliteOptions { max_pages: Some(3), ..SqliteOptions::default() });
    says(&tiny.unwrap_err(), ErrorKind::Full, &["no space left", "Free disk space"]);
    // Room again: the file opens as if nothing had been.
    let store = place.open();
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
}

#[tokio::test]
async fn a_row_that_counts_less_than_nothing_costs_its_own_topic_alone() {
    let place = Place::new();
    let store = place.open();
    for name in ["bad", "good"] {
        written(store.append(&topic(name), batch([1]), NOW).await.unwrap());
    }
    let own = place.connect();
    for (bytes, text) in
        [(-1, "the topic bad is said to hold -1 bytes"), (i64::MAX, "the topic bad is said to hold")]
    {
        own.execute("UPDATE khala_topic SET bytes = ?1 WHERE topic = 'bad'", [bytes]).unwrap();
        let (bad, good) = (topic("bad"), topic("good"));
        let (bad, good) =
            futures::join!(store.append(&bad, batch([2]), NOW), store.append(&good, batch([2]), NOW));
        says(&bad.unwrap_err(), ErrorKind::Corrupt, &[text, "Restore it from a backup"]);
        written(good.unwrap());
    }
    store.check_writable().await.unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_write_says_so_when_it_is_asked() {
    let place = Place::new();
    let store = place
        .open_with(SqliteOptions { busy_timeout: Duration::from_millis(50), ..SqliteOptions::default() });
    let mut own = place.connect();
    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let error = store.check_writable().await.unwrap_err();
    says(&error, ErrorKind::Unavailable, &["locked by another connection"]);
    drop(transaction);
    store.check_writable().await.unwrap();
    // What was proved just now is not proved again.
    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    store.check_writable().await.unwrap();
    drop(transaction);
    assert!(log(&store, &topic("t")).await.is_empty());
}

#[test]
fn a_schema_that_is_newer_or_changed() {
    let place = Place::new();
    drop(place.open());
    let own = place.connect();
    own.execute_batch("DROP TABLE khala_receipt").unwrap();
    says(&refused(&place.path), ErrorKind::Schema, &["khala.db", "table khala_receipt is missing"]);
    own.execute_batch("UPDATE khala_meta SET value = 99 WHERE name = 'schema_version'").unwrap();
    says(
        &refused(&place.path),
        ErrorKind::Schema,
        &["version 99", "a newer version of Khala wrote it; run that version or a later one"],
    );
}

#[test]
fn the_application_keeps_its_version_and_its_tables() {
    let place = Place::new();
    let own = place.connect();
    own.execute_batch("PRAGMA user_version = 7; CREATE TABLE orders (id INTEGER PRIMARY KEY)").unwrap();
    drop((place.open(), place.open()));
    drop(place.open());
    let version: i64 = own.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    // `sqlite_sequence` is SQLite's own, for whoever asks for AUTOINCREMENT.
    let theirs =
        "SELECT count(*) FROM sqlite_schema WHERE name NOT GLOB '*khala_*' AND name NOT GLOB 'sqlite_*'";
    let theirs: i64 = own.query_row(theirs, [], |row| row.get(0)).unwrap();
    assert_eq!((version, theirs), (7, 1));
}

/// As a user meets it: a file that this process may not write. Root may write whatever the permissions say, so
/// where root runs the tests, this one runs once more as nobody.
#[cfg(unix)]
mod read_only {
    use std::{
        env,
        fs::Permissions,
        os::unix::fs::PermissionsExt,
        process::{Command, Stdio},
    };

    use super::*;

    /// Where the process that is not root finds the file.
    const FILE: &str = "KHALA_SQLITE_TEST_READ_ONLY";

    fn check(path: &Path) {
        says(&refused(path), ErrorKind::ReadOnly, &["khala.db", "check its permissions", "mounted"]);
    }

    #[test]
    fn a_file_that_may_not_be_written() {
        let place = Place::new();
        drop(place.open());
        fs::set_permissions(&place.path, Permissions::from_mode(0o444)).unwrap();
        fs::set_permissions(place.folder.path(), Permissions::from_mode(0o755)).unwrap();
        if fs::OpenOptions::new().append(true).open(&place.path).is_err() {
            return check(&place.path);
        }
        // A binary of its own: nobody may not be let into the folder that this one is in.
        let binary = place.folder.path().join("tests");
        fs::copy(env::current_exe().unwrap(), &binary).unwrap();
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(["errors::read_only::as_nobody", "--exact", "--ignored", "--test-threads=1"])
            .env(FILE, &place.path)
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .expect("root needs setpriv (util-linux) for this test, or run the tests as another user");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "not a test: what the test above runs as nobody"]
    fn as_nobody() {
        if let Ok(file) = env::var(FILE) {
            check(Path::new(&file));
        }
    }
}

#[tokio::test]
async fn what_is_corrupt_of_one_topic_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.db");
    let store = SqliteStore::open(&path).unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        written(store.append(&topic(name), batch([0]), NOW).await.unwrap());
    }
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch(
        "UPDATE khala_topic SET floor = 9 WHERE topic = 'b'; UPDATE khala_topic SET topic = 'c c' WHERE topic = 'c';
         UPDATE khala_topic SET head = -1 WHERE topic = 'd'",
    )
    .unwrap();
    let page = store.topics("", None, 4.try_into().unwrap()).await.unwrap();
    let names: Vec<_> = page.topics.iter().map(|(topic, _)| topic.as_str()).collect();
    let corrupt: Vec<_> = page.corrupt.iter().map(|corrupt| corrupt.name.as_str()).collect();
    assert_eq!((names, corrupt, page.next.as_deref()), (vec!["a"], vec!["b", "c c", "d"], Some("d")));
    assert!(page.corrupt.iter().all(|corrupt| corrupt.error.kind() == ErrorKind::Corrupt), "{page:?}");
    let rest = store.topics("", page.next.as_deref(), 4.try_into().unwrap()).await.unwrap();
    assert_eq!((rest.topics[0].0.as_str(), rest.topics.len(), rest.next), ("e", 1, None));

    let (good, bad) = (topic("a"), topic("b"));
    let (good, bad) = tokio::join!(store.append(&good, batch([1]), NOW), store.append(&bad, batch([1]), NOW));
    written(good.unwrap());
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.bounds(&topic("b")).await.unwrap_err().kind(), ErrorKind::Corrupt);
}
