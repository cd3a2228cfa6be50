//! Appends inside the application's own transactions.

use khala_core::{
    Append, Conflict, ErrorKind, Watermark, fanout::Fanout, journal::Journal, update::DedupKey,
};
use khala_store_sqlite::{append_in, append_on, prepare, verify_schema};
use rusqlite::{Connection, TransactionBehavior};

use crate::support::{NOW, Place, batch, log, soon, topic, written};

fn orders(conn: &Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap()
}

/// A connection of an application that has a table of its own beside the store's.
fn application(place: &Place) -> Connection {
    let conn = place.connect();
    conn.execute_batch("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY)").unwrap();
    conn
}

/// A connection of another driver may have no transaction open, and each statement of an append would then be one.
#[test]
fn without_a_transaction_nothing_is_appended() {
    let place = Place::new();
    let (mut own, topic) = (place.connect(), topic("t"));
    prepare(&mut own).unwrap();
    let error = append_on(&own, &topic, &batch([1]), NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    own.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(written(append_on(&own, &topic, &batch([1]), NOW).unwrap()).first.as_u64(), 1);
    own.execute_batch("COMMIT").unwrap();
}

#[tokio::test]
async fn what_is_committed_is_there_and_what_is_rolled_back_never_was() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("orders");
    let mut own = application(&place);

    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    transaction.execute("INSERT INTO orders DEFAULT VALUES", []).unwrap();
    written(append_in(&transaction, &topic, &batch([1, 2]), NOW).unwrap());
    assert!(log(&store, &topic).await.is_empty(), "nothing shows before the commit");
    let untouched = store.bounds(&topic).await.unwrap();
    transaction.rollback().unwrap();
    assert_eq!(store.bounds(&topic).await.unwrap(), untouched);
    assert_eq!(orders(&own), 0);

    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    transaction.execute("INSERT INTO orders DEFAULT VALUES", []).unwrap();
    let one = written(append_in(&transaction, &topic, &batch([1]), NOW).unwrap());
    let two = written(append_in(&transaction, &topic, &batch([2]), NOW).unwrap());
    transaction.commit().unwrap();
    assert_eq!((one.first.as_u64(), two.first.as_u64()), (1, 2));
    assert_eq!(one.epoch, untouched.epoch, "the epoch that it had while untouched");
    assert_eq!(log(&store, &topic).await.len(), 2);
    assert_eq!(orders(&own), 1);
    assert_eq!(written(store.append(&topic, batch([3]), NOW).await.unwrap()).first.as_u64(), 3);
}

#[tokio::test]
async fn dedup_and_expect_mean_the_same_on_both_ways_in() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    let mut own = place.connect();
    let once = || batch([1]).with_dedup(DedupKey::parse("once").unwrap());
    let first = written(store.append(&topic, once(), NOW).await.unwrap());
    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    assert_eq!(append_in(&transaction, &topic, &once(), NOW).unwrap(), Append::Duplicate(first));
    let answer = append_in(&transaction, &topic, &batch([2]).with_expect(Watermark::ORIGIN), NOW).unwrap();
    assert!(matches!(answer, Append::Conflict(Conflict::Head { .. })));
    transaction.commit().unwrap();
    assert_eq!(log(&store, &topic).await.len(), 1);
}

#[tokio::test]
async fn a_failed_append_leaves_the_rest_of_the_transaction() {
    let place = Place::new();
    let store = place.open();
    let (topic, broken) = (topic("t"), topic("broken"));
    written(store.append(&broken, batch([1, 2, 3]), NOW).await.unwrap());
    let mut own = application(&place);
    // The second update of the next batch finds its seq taken; the first does not.
    own.execute_batch(
        "DELETE FROM khala_update WHERE seq = 2; UPDATE khala_topic SET head = 1 WHERE topic = 'broken'",
    )
    .unwrap();
    let transaction = own.transaction().unwrap();
    transaction.execute("INSERT INTO orders DEFAULT VALUES", []).unwrap();
    let error = append_in(&transaction, &broken, &batch([2, 3]), NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    written(append_in(&transaction, &topic, &batch([1]), NOW).unwrap());
    transaction.commit().unwrap();
    assert_eq!(orders(&own), 1);
    let updates: i64 = own.query_row("SELECT count(*) FROM khala_update", [], |row| row.get(0)).unwrap();
    assert_eq!(updates, 3, "1 and 3 of the broken topic, and the one that was good");
}

#[tokio::test]
async fn a_transaction_that_read_before_others_wrote_must_run_again() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    let mut own = application(&place);
    let transaction = own.transaction().unwrap();
    orders(&transaction);
    written(store.append(&topic, batch([1]), NOW).await.unwrap());
    let error = append_in(&transaction, &topic, &batch([2]), NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("BEGIN IMMEDIATE"), "{error}");
    drop(transaction);
    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    assert_eq!(written(append_in(&transaction, &topic, &batch([2]), NOW).unwrap()).first.as_u64(), 2);
    transaction.commit().unwrap();
}

#[test]
fn a_file_is_prepared_before_it_is_appended_to() {
    let place = Place::new();
    let mut own = place.connect();
    let append = |conn: &mut Connection| {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let answer = append_in(&transaction, &topic("t"), &batch([1]), NOW);
        transaction.commit().unwrap();
        answer
    };
    let error = append(&mut own).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("`prepare`"), "{error}");
    assert_eq!(verify_schema(&own).unwrap_err().kind(), ErrorKind::Schema);
    prepare(&mut own).unwrap();
    verify_schema(&own).unwrap();
    written(append(&mut own).unwrap());
}

#[tokio::test]
async fn who_watches_hears_of_it_without_an_announcement() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    let mut watch = store.watch(&topic).await.unwrap();
    let mut own = place.connect();
    for n in 1..=3 {
        let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let receipt = written(append_in(&transaction, &topic, &batch([n]), NOW).unwrap());
        transaction.commit().unwrap();
        assert_eq!(soon(watch.moved()).await, receipt.cursor());
    }
}
