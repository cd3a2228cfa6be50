//! Opening a file that was not closed: what its write-ahead log holds may not be on the disk yet.

use std::fs;

use khala_core::{Batch, Kind, NewUpdate, Payload, journal::Journal};

use crate::support::{NOW, Place, batch, log, topic, written};

/// The test cannot cut the power. What it sees is the checkpoint that opening makes, which syncs the log first.
#[tokio::test]
async fn what_a_killed_process_left_in_the_log_is_made_durable_before_it_is_shown() {
    let (here, there) = (Place::new(), Place::new());
    let mark = "left in the write-ahead log";
    let update = NewUpdate::new(Kind::parse("test").unwrap(), Payload::of(&mark).unwrap());
    let store = here.open();
    written(store.append(&topic("t"), Batch::new(vec![update]).unwrap(), NOW).await.unwrap());
    // As after `kill -9`: nobody has closed the file.
    for end in ["", "-wal"] {
        let file = |place: &Place| format!("{}{end}", place.path.display());
        fs::copy(file(&here), file(&there)).unwrap();
    }
    let is_in_the_database = || {
        let bytes = fs::read(&there.path).unwrap();
        bytes.windows(mark.len()).any(|text| text == mark.as_bytes())
    };
    assert!(!is_in_the_database());
    let reopened = there.open();
    assert!(is_in_the_database());
    assert_eq!(log(&reopened, &topic("t")).await.len(), 1);
}

/// Whoever reads an older moment keeps the log from being emptied, and nobody from opening.
#[tokio::test]
async fn a_reader_of_an_older_moment_does_not_keep_the_file_from_being_opened() {
    let place = Place::new();
    let store = place.open();
    let own = place.connect();
    own.execute_batch("BEGIN; SELECT count(*) FROM khala_update").unwrap();
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    assert_eq!(log(&place.open(), &topic("t")).await.len(), 1);
    own.execute_batch("COMMIT").unwrap();
}
