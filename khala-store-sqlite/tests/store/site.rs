//! The files go away under a store that is open: the next process that opens the file finds what was acknowledged, and a file
//! that nobody can open any more is not written to.

use std::{fs, path::PathBuf, time::Duration};

use khala_core::{
    ErrorKind,
    health::Health,
    journal::{Journal, ReadFrom, ReadLimit},
};
use khala_store_sqlite::{SqliteOptions, SqliteStore};
use tokio::time::{sleep, timeout};

use crate::support::{NOW, Place, batch, log, topic, written};

fn beside(place: &Place, ending: &str) -> PathBuf {
    place.folder.path().join(format!("khala.db{ending}"))
}

fn watched(place: &Place) -> (SqliteStore, Health) {
    let health = Health::new();
    (place.open_with(SqliteOptions { health: health.clone(), ..SqliteOptions::default() }), health)
}

/// How many updates a process finds that opens the database file alone, as after `kill -9` of the one that has it open.
async fn found(place: &Place) -> usize {
    let copy = Place::new();
    fs::copy(&place.path, &copy.path).unwrap();
    log(&copy.open(), &topic("t")).await.len()
}

/// Waits until `told` gives something that names the part of the files.
async fn told(told: impl Fn() -> Vec<(&'static str, String)> + Send + Sync) -> String {
    let about = async {
        loop {
            match told().into_iter().find(|(part, _)| *part == "store_file") {
                Some((_, reason)) => return reason,
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(Duration::from_secs(20), about).await.expect("it is noticed within seconds")
}

#[tokio::test]
async fn what_is_acknowledged_after_the_log_was_removed_is_in_the_file() {
    for gone in [&["-wal", "-shm"][..], &["-wal"], &["-shm"]] {
        let place = Place::new();
        let (store, health) = watched(&place);
        written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
        for ending in gone {
            fs::remove_file(beside(&place, ending)).unwrap();
        }
        for n in 2..5 {
            written(store.append(&topic("t"), batch([n]), NOW).await.unwrap());
            assert_eq!(found(&place).await, n as usize, "{gone:?}");
        }
        let reason = told(|| health.notes()).await;
        assert!(
            reason.contains("write-ahead log") && reason.contains("Start this process again"),
            "{reason}"
        );
        assert!(!reason.contains("khala.db"), "it names no path: {reason}");
        drop(store);
        assert_eq!(log(&place.open(), &topic("t")).await.len(), 4, "{gone:?}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_before_the_log_was_removed_is_put_into_the_file_though_nothing_is_written() {
    let place = Place::new();
    let (store, health) = watched(&place);
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    fs::remove_file(beside(&place, "-wal")).unwrap();
    told(|| health.notes()).await;
    assert_eq!(found(&place).await, 1);
    drop(store);
}

/// Somebody reads for long while there is no log: what cannot be copied is refused, and nothing is stored twice.
#[tokio::test]
async fn without_a_log_nothing_is_stored_twice_because_somebody_reads_for_long() {
    let place = Place::new();
    let patience = Duration::from_millis(50);
    let store = place.open_with(SqliteOptions { busy_timeout: patience, ..SqliteOptions::default() });
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    let reader = place.connect();
    reader.execute_batch("BEGIN; SELECT count(*) FROM khala_update").unwrap();
    fs::remove_file(beside(&place, "-wal")).unwrap();
    let appends = (2..40).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.append(&topic("t"), batch([n]), NOW).await })
    });
    let appends: Vec<_> = appends.collect();
    let mut refused = 0;
    for append in appends {
        if let Err(error) = append.await.unwrap() {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            refused += 1;
        }
    }
    assert!(refused > 0, "the reader was in the way");
    reader.execute_batch("COMMIT").unwrap();
    written(store.append(&topic("t"), batch([40]), NOW).await.unwrap());
    let log = log(&store, &topic("t")).await;
    let mut payloads: Vec<&str> = log.iter().map(|update| update.payload.as_str()).collect();
    let stored = payloads.len();
    payloads.sort_unstable();
    payloads.dedup();
    assert_eq!(payloads.len(), stored, "none is there twice");
    assert_eq!(found(&place).await, stored);
}

#[tokio::test]
async fn a_file_that_was_removed_is_neither_written_nor_read() {
    let place = Place::new();
    let (store, health) = watched(&place);
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    let moved = beside(&place, ".moved");
    fs::rename(&place.path, &moved).unwrap();
    let refused = store.append(&topic("t"), batch([2]), NOW).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("was removed while it was open"), "{refused}");
    let reason = told(|| health.failures()).await;
    assert_eq!(reason, "the database file was removed while it was open; the log says more");
    let read = store.read(&topic("t"), ReadFrom::Origin, ReadLimit::PAGE).await.unwrap_err();
    assert!(read.to_string().contains("was removed while it was open"), "{read}");
    assert!(store.check_writable().await.is_err());
}

#[tokio::test]
async fn a_file_that_took_its_place_stays_as_it_is() {
    let (place, other) = (Place::new(), Place::new());
    let restored = other.open();
    written(restored.append(&topic("t"), batch([7, 8, 9]), NOW).await.unwrap());
    drop(restored);
    let (store, health) = watched(&place);
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    let content = fs::read(&other.path).unwrap();
    fs::rename(&other.path, &place.path).unwrap();

    // Noticed though nobody writes.
    let reason = told(|| health.failures()).await;
    assert!(reason.contains("the database file was replaced"), "{reason}");
    store.append(&topic("t"), batch([2]), NOW).await.unwrap_err();
    drop(store);
    assert_eq!(fs::read(&place.path).unwrap(), content);
}

#[tokio::test]
async fn a_log_that_somebody_else_has_begun_ends_what_is_written_to_the_old_one() {
    let place = Place::new();
    let (store, health) = watched(&place);
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    fs::remove_file(beside(&place, "-wal")).unwrap();
    fs::write(beside(&place, "-wal"), "what another process has written").unwrap();
    let content = fs::read(&place.path).unwrap();
    let refused = store.append(&topic("t"), batch([2]), NOW).await.unwrap_err();
    assert!(refused.to_string().contains("another process has begun a new one"), "{refused}");
    assert!(!health.failures().is_empty());
    drop(store);
    assert_eq!(fs::read(beside(&place, "-wal")).unwrap(), b"what another process has written");
    assert_eq!(fs::read(&place.path).unwrap(), content, "nothing of the old log went over it");
}
