//! What an operator does to a file: a backup that is put in the place of a lost one, and the schema looked at.

use khala_core::{
    Append, Batch, Cursor, ErrorKind, Watermark,
    journal::{Journal, ReadFrom, ReadLimit, Replay},
    position::StaleReason,
    update::DedupKey,
};

use khala_store_sqlite::{SqliteOptions, check, migrate, new_epochs};

use crate::support::{NOW, Place, batch, log, topic, written};

fn once() -> Batch {
    batch([3]).with_dedup(DedupKey::parse("once").unwrap())
}

#[tokio::test]
async fn a_restored_file_with_new_epochs_reports_every_cursor_of_before() {
    let place = Place::new();
    let (one, two, untouched) = (topic("one"), topic("two"), topic("untouched"));
    let store = place.open();
    for topic in [&one, &two] {
        written(store.append(topic, batch([1, 2]), NOW).await.unwrap());
    }
    written(store.append(&one, once(), NOW).await.unwrap());
    let before = log(&store, &one).await;
    let mut cursors = Vec::new();
    for topic in [&one, &two, &untouched] {
        let bounds = store.bounds(topic).await.unwrap();
        cursors.push((topic, bounds.at_head()));
        cursors.push((topic, Cursor::new(bounds.epoch, Watermark::ORIGIN)));
    }

    let refused = new_epochs(&place.path, &SqliteOptions::default()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    assert!(refused.to_string().contains("has the file open"), "{refused}");
    assert_eq!(log(&store, &one).await, before, "the store goes on");
    drop(store);
    assert_eq!(new_epochs(&place.path, &SqliteOptions::default()).unwrap(), 2);

    let store = place.open();
    for (topic, cursor) in cursors {
        let answer = store.read(topic, ReadFrom::After(cursor), ReadLimit::PAGE).await.unwrap();
        let Replay::Stale(stale) = answer else { panic!("{topic} resumes from {cursor:?}: {answer:?}") };
        assert_eq!(stale.reasons, [StaleReason::EpochMismatch], "{topic}");
    }
    let [one_epoch, two_epoch] = [&one, &two].map(|topic| store.bounds(topic));
    assert_ne!(one_epoch.await.unwrap().epoch, two_epoch.await.unwrap().epoch, "each topic has its own");
    assert_eq!(log(&store, &one).await, before, "the updates are what they were");
    // The update is there, and so is its receipt, of the history that it belongs to now.
    let again = store.append(&one, once(), NOW).await.unwrap();
    let Append::Duplicate(receipt) = again else { panic!("stored twice: {again:?}") };
    assert_eq!(receipt.cursor(), store.bounds(&one).await.unwrap().at_head());
}

#[test]
fn looking_at_a_file_changes_nothing() {
    let place = Place::new();
    let options = SqliteOptions::default();
    let none = check(&place.path, &options).unwrap();
    assert!(matches!(&none[..], [one] if one.contains("there is no file")), "{none:?}");
    let refused = new_epochs(&place.path, &options).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Schema);
    assert!(!place.path.exists(), "neither made a file");

    for _ in 0..2 {
        migrate(&place.path, &options).unwrap();
        assert!(check(&place.path, &options).unwrap().is_empty());
        let files = std::fs::read_dir(place.folder.path()).unwrap().count();
        assert_eq!(files, 1, "nothing is left beside a file that was closed in order");
    }
    place
        .connect()
        .execute_batch("DROP TABLE khala_receipt; ALTER TABLE khala_topic ADD COLUMN mine TEXT")
        .unwrap();
    let differences = check(&place.path, &options).unwrap();
    assert_eq!(differences, ["table khala_receipt is missing", "column khala_topic.mine is unexpected"]);
    let seed = || -> Vec<u8> {
        let seed = "SELECT value FROM khala_meta WHERE name = 'seed'";
        place.connect().query_row(seed, [], |row| row.get(0)).unwrap()
    };
    let before = seed();
    let refused = new_epochs(&place.path, &options).unwrap_err();
    assert_eq!((refused.kind(), seed()), (ErrorKind::Schema, before), "not in such a file");
}

#[tokio::test]
async fn looking_at_what_a_crash_left_changes_nothing() {
    let (place, left) = (Place::new(), Place::new());
    let store = place.open();
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    let wal = |place: &Place| place.path.with_extension("db-wal");
    std::fs::copy(&place.path, &left.path).unwrap();
    std::fs::copy(wal(&place), wal(&left)).unwrap();
    let files = |place: &Place| (std::fs::read(&place.path).unwrap(), std::fs::read(wal(place)).ok());
    let before = files(&left);
    assert!(before.1.as_ref().is_some_and(|log| !log.is_empty()));
    assert!(check(&left.path, &SqliteOptions::default()).unwrap().is_empty());
    assert!(files(&left) == before, "the files are not what they were");
}

#[test]
fn what_cannot_be_found_out_is_not_taken_for_no_file() {
    let place = Place::new();
    let path = place.folder.path().join("x".repeat(300));
    let options = SqliteOptions::default();
    for refused in [check(&path, &options).unwrap_err(), new_epochs(&path, &options).unwrap_err()] {
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert!(refused.to_string().contains("cannot be found out"), "{refused}");
    }
}
