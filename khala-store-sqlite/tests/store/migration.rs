//! Files that earlier versions wrote: `version-1.db`, which the store made when its schema was version 1;
//! `version-2.db`, the same file once version 2 had migrated it and revoked the subject `before`; and `version-3.db`,
//! that file once version 3 had migrated it and recorded a sweep of the node `before`.
//!
//! They hold the topic `orders` with the updates 2 and 3 of three, the last of them with the document `three` and the
//! dedup key `once`; the first nothing of revocations, the first two nothing of sweeps, and none anything of
//! checkpoints.

use std::{fs, num::NonZeroUsize};

use khala_core::{
    Append, Cursor, DocKey, Epoch, ErrorKind, Timestamp, Watermark,
    auth::Revocations,
    documents::Documents,
    journal::{Journal, ReadFrom, ReadLimit, Replay},
    node::NodeId,
    projection::Checkpoints,
    retention::{Lease, SweepOutcome, SweepRecord, SweepTrigger, Sweeps},
    update::DedupKey,
};
use khala_store_sqlite::{SqliteOptions, SqliteStore, prepare, verify_schema};

use crate::support::{
    NOW, Place, advanced, batch, projection, revocation, revoked, step, topic, update, written,
};

/// Each with its version, and with how many revocations and records of sweeps it holds.
const EARLIER: [(&[u8], i64, usize, usize); 3] = [
    (include_bytes!("version-1.db"), 1, 0, 0),
    (include_bytes!("version-2.db"), 2, 1, 0),
    (include_bytes!("version-3.db"), 3, 1, 1),
];

/// The version that every file is migrated to.
const NEWEST: i64 = 6;

fn version_1() -> Place {
    written_by(EARLIER[0].0)
}

fn written_by(bytes: &[u8]) -> Place {
    let place = Place::new();
    fs::write(&place.path, bytes).unwrap();
    place
}

fn version(place: &Place) -> i64 {
    let version = "SELECT value FROM khala_meta WHERE name = 'schema_version'";
    place.connect().query_row(version, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn everything_of_earlier_versions_is_there_and_the_new_is_empty() {
    for (bytes, before, revocations, sweeps) in EARLIER {
        let place = written_by(bytes);
        assert_eq!(version(&place), before);
        // The first opening migrates it, the second finds it done.
        for already in 0..2 {
            let store = place.open();
            assert_eq!(version(&place), NEWEST);
            is_whole(&store).await;
            let due = store.due(1, None, Timestamp::default(), NonZeroUsize::MAX).await.unwrap();
            assert!(
                due.topics.iter().any(|(_, due, _)| *due == topic("orders")),
                "what was there before is due"
            );

            let held = revocations + already;
            assert_eq!(revoked(&store).await.len(), held);
            let given = store.revoke(revocation(&already.to_string())).await.unwrap();
            assert_eq!(given.as_u64(), held as u64 + 1);

            assert_eq!(store.records(NonZeroUsize::MAX).await.unwrap().len(), sweeps + already);
            let oldest = store.records(NonZeroUsize::MAX).await.unwrap().pop();
            let by = oldest.map(|record| record.node.to_string());
            assert!(sweeps == 0 || by.as_deref() == Some("before"), "{by:?}");
            let node = NodeId::parse(&already.to_string()).unwrap();
            assert_eq!(store.try_acquire(&node, NOW, NOW).await.unwrap(), Lease::Held);
            let record = SweepRecord::new(node, NOW, SweepTrigger::Order, SweepOutcome::Swept);
            store.record(&record).await.unwrap();

            let kept = store.checkpoints(&projection(), None, NonZeroUsize::MAX).await.unwrap();
            assert_eq!(kept.len(), already);
            advanced(store.advance(step(&already.to_string(), 1), NOW).await.unwrap());
        }
        let store = place.open();
        let next = store.append(&topic("orders"), update(4).try_into().unwrap(), NOW).await.unwrap();
        assert_eq!(Some(written(next).first), Watermark::new(3).and_then(Watermark::next));
    }
}

/// What the earlier versions wrote is there.
async fn is_whole(store: &SqliteStore) {
    let orders = topic("orders");
    let bounds = store.bounds(&orders).await.unwrap();
    assert_eq!(bounds.epoch, "beb613b09dce473e".parse::<Epoch>().unwrap());
    assert_eq!((bounds.floor.as_u64(), bounds.head.as_u64()), (1, 3));
    let untouched = store.bounds(&topic("untouched")).await.unwrap();
    assert_eq!(untouched.epoch, "3f21451acdc7143b".parse::<Epoch>().unwrap(), "the seed is the same");

    let cursor = Cursor::new(bounds.epoch, bounds.floor);
    let Replay::Page(page) = store.read(&orders, ReadFrom::After(cursor), ReadLimit::PAGE).await.unwrap()
    else {
        panic!("the cursor is at the floor")
    };
    let payloads: Vec<_> = page.updates.iter().map(|update| update.payload.as_str()).collect();
    assert_eq!(payloads, ["2", "3"]);
    let document = store.document(&orders, &DocKey::parse("three").unwrap()).await.unwrap();
    assert_eq!(document.as_ref(), page.updates.last());
    let once = batch([9]).with_dedup(DedupKey::parse("once").unwrap());
    let again = store.append(&orders, once, NOW).await.unwrap();
    assert!(matches!(again, Append::Duplicate(receipt) if receipt.last.as_u64() == 3), "{again:?}");
}

#[test]
fn a_migration_that_fails_leaves_version_1() {
    let place = version_1();
    let own = place.connect();
    own.execute_batch("CREATE TABLE khala_revocation (mine)").unwrap();
    SqliteStore::open(&place.path).expect_err("the name is taken");
    assert_eq!(version(&place), 1);
    own.execute_batch("DROP TABLE khala_revocation").unwrap();

    let pages: u32 = own.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    let full = SqliteStore::open_with(
        &place.path,
        SqliteOptions { max_pages: Some(pages), ..SqliteOptions::default() },
    )
    .unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Full);
    assert_eq!(version(&place), 1);
    assert_eq!(verify_schema(&own).unwrap_err().kind(), ErrorKind::Schema);
    drop(place.open());
    assert_eq!(version(&place), NEWEST);
}

#[test]
fn an_application_prepares_its_file_itself() {
    let place = version_1();
    let mut own = place.connect();
    let error = verify_schema(&own).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    let told = format!("version 1 and this is version {NEWEST}: call `prepare`");
    assert!(error.to_string().contains(&told), "{error}");
    prepare(&mut own).unwrap();
    verify_schema(&own).unwrap();
    assert_eq!(version(&place), NEWEST);
}
