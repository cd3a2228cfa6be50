//! Revocations beyond their laws: who hears of one, and what a fault of the file leaves behind.

use std::time::Duration;

use futures::{
    FutureExt,
    future::{join, join_all},
};
use khala_core::{
    ErrorKind, Timestamp, Watermark,
    auth::Revocations,
    fanout::{Fanout, Watch},
    journal::Journal,
};
use khala_store_sqlite::SqliteOptions;
use rusqlite::TransactionBehavior;

use crate::support::{NOW, Place, batch, log, revocation, revoked, soon, topic, written};

/// Waits until it is known that the log goes that far.
async fn hears_of(watch: &mut Watch<Watermark>, newest: Watermark) {
    while watch.head() < Some(newest) {
        soon(watch.moved()).await;
    }
}

#[tokio::test]
async fn what_another_store_revokes_is_noticed() {
    let place = Place::new();
    let (here, there) = (place.open(), place.open());
    for round in 0..3 {
        // Stored while nobody watched.
        let before = there.revoke(revocation(&format!("before {round}"))).await.unwrap();
        let mut watch = here.watch_revoked().await.unwrap();
        hears_of(&mut watch, before).await;
        for n in 0..3 {
            let given = there.revoke(revocation(&format!("{round} {n}"))).await.unwrap();
            hears_of(&mut watch, given).await;
            assert_eq!(watch.head(), Some(given));
        }
        // What is forgotten is no news, and what is revoked again is.
        there.revoke(revocation("gone").with_until(NOW)).await.unwrap();
        assert_eq!(there.prune(NOW).await.unwrap(), 1);
        let again = there.revoke(revocation("again")).await.unwrap();
        hears_of(&mut watch, again).await;
    }
}

#[tokio::test]
async fn an_announcement_is_heard_at_once() {
    let place = Place::new();
    let store = place
        .open_with(SqliteOptions { watch_interval: Duration::from_secs(3_600), ..SqliteOptions::default() });
    let mut watch = store.watch_revoked().await.unwrap();
    let given = store.revoke(revocation("a")).await.unwrap();
    store.announce_revoked(given).await.unwrap();
    hears_of(&mut watch, given).await;
    assert_eq!(watch.head(), Some(given));
}

#[tokio::test]
async fn topics_and_revocations_are_watched_side_by_side() {
    let place = Place::new();
    let (here, there) = (place.open(), place.open());
    let topic = topic("t");
    let mut revocations = here.watch_revoked().await.unwrap();
    let mut watch = here.watch(&topic).await.unwrap();
    for n in 1..=3 {
        let receipt = written(there.append(&topic, batch([n]), NOW).await.unwrap());
        let given = there.revoke(revocation(&n.to_string())).await.unwrap();
        while soon(watch.moved()).await != receipt.cursor() {}
        hears_of(&mut revocations, given).await;
    }
}

#[tokio::test]
async fn revocations_and_appends_go_in_between_each_other() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    let appends = join_all((0..100).map(|n| store.append(&topic, batch([n]), NOW)));
    let ids: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let revoking = join_all(ids.iter().map(|id| store.revoke(revocation(id))));
    let (appended, given) = soon(join(appends, revoking)).await;
    assert!(appended.iter().all(Result::is_ok));
    let given: Vec<u64> = given.into_iter().map(|given| given.unwrap().as_u64()).collect();
    assert_eq!(given, (1..=20).collect::<Vec<_>>(), "in the order in which they were asked for");
    assert_eq!(log(&store, &topic).await.len(), 100);
}

#[tokio::test]
async fn a_file_that_is_locked() {
    let place = Place::new();
    let store = place
        .open_with(SqliteOptions { busy_timeout: Duration::from_millis(50), ..SqliteOptions::default() });
    store.revoke(revocation("old").with_until(NOW)).await.unwrap();
    let before = revoked(&store).await;
    let mut own = place.connect();
    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    for id in ["old", "new"] {
        let error = store.revoke(revocation(id)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.is_retryable());
    }
    assert_eq!(store.prune(NOW).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(revoked(&store).await, before, "reading goes on meanwhile");
    drop(transaction);
    store.revoke(revocation("new")).await.unwrap();
    assert_eq!(store.prune(NOW).await.unwrap(), 1);
}

#[tokio::test]
async fn a_disk_that_is_full() {
    let place = Place::new();
    drop(place.open());
    let pages: u32 = place.connect().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    let store = place.open_with(SqliteOptions { max_pages: Some(pages + 4), ..SqliteOptions::default() });
    let long = "x".repeat(500);
    let mut acknowledged = Vec::new();
    let error = loop {
        let made = revocation(&format!("{long} {}", acknowledged.len())).with_until(NOW);
        match store.revoke(made.clone()).await {
            Ok(given) => acknowledged.push((given, made)),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 1_000, "4 pages are not endless");
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert_eq!(
        revoked(&store).await,
        acknowledged,
        "what was refused is not there, and nothing else is gone"
    );
    // What fails again leaves the one that it would have replaced.
    for (given, made) in acknowledged.clone() {
        let again = store.revoke(made.clone()).await;
        let kept = revoked(&store).await;
        let kept: Vec<_> = kept.iter().filter(|(_, kept)| *kept == made).collect();
        let given = again.unwrap_or(given);
        assert_eq!(kept, [&(given, made)]);
    }
    // Forgetting makes room.
    assert_eq!(store.prune(NOW).await.unwrap(), acknowledged.len() as u64);
    store.revoke(revocation(&long)).await.unwrap();
}

#[tokio::test]
async fn pruning_takes_as_many_steps_as_it_needs() {
    let place = Place::new();
    let store = place.open();
    // By the application's own hand: one by one, each would wait for the disk.
    place
        .connect()
        .execute_batch(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1200)
             INSERT INTO khala_revocation (named_by, named_id, revoked_at, until)
             SELECT 'jti', 'id ' || n, 0, n FROM n",
        )
        .unwrap();
    assert_eq!(store.prune(Timestamp::from_millis(1_150)).await.unwrap(), 1_150);
    let left = revoked(&store).await;
    assert_eq!(left.len(), 50);
    assert_eq!(left[0].0.as_u64(), 1_151);
    assert_eq!(store.prune(Timestamp::from_millis(1_150)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_revocation_that_nobody_waits_for_is_stored_all_the_same() {
    let place = Place::new();
    let store = place.open();
    let mut dropped = store.revoke(revocation("dropped"));
    assert!((&mut dropped).now_or_never().is_none(), "polled once, it waits to be stored");
    drop(dropped);
    store.revoke(revocation("next")).await.unwrap();
    assert_eq!(revoked(&store).await.len(), 2);
}
