//! Checkpoints beyond their laws: that advances share commits with appends and fail alone, and what a fault of the
//! file leaves behind.

use std::{num::NonZeroUsize, time::Duration};

use futures::{
    FutureExt,
    future::{join, join_all},
};
use khala_core::{
    ErrorKind,
    fanout::Fanout,
    journal::Journal,
    projection::{Advanced, Checkpoint, Checkpoints, Entity},
};
use khala_store_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::TransactionBehavior;

use crate::support::{
    NOW, Place, advanced, batch, checkpoint, entity, log, projection, soon, step, topic, written,
};

async fn kept(store: &SqliteStore) -> Vec<(Entity, Checkpoint)> {
    store.checkpoints(&projection(), None, NonZeroUsize::MAX).await.unwrap()
}

#[tokio::test]
async fn advances_share_commits_with_appends() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    let names: Vec<String> = (0..500).map(|n| format!("{n:03}")).collect();
    let advances = join_all(names.iter().map(|name| store.advance(step(name, 1), NOW)));
    let appends = join_all((0..500).map(|n| store.append(&topic, batch([n]), NOW)));
    let (advances, appends) = soon(join(advances, appends)).await;
    for answer in appends {
        written(answer.unwrap());
    }
    let mut seqs: Vec<u64> =
        advances.into_iter().map(|answer| advanced(answer.unwrap()).unwrap().last.as_u64()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=500).collect::<Vec<_>>());
    let stats = store.stats();
    assert_eq!((stats.appends, stats.updates), (1_000, 1_000));
    assert!(stats.commits <= 100, "1,000 requests at once took {} commits", stats.commits);
    assert_eq!(kept(&store).await.len(), 500);
    assert_eq!(store.remove_all(&projection()).await.unwrap(), 500);
}

#[tokio::test]
async fn advances_in_one_group_see_those_before_them() {
    let place = Place::new();
    let store = place.open();
    let answers = soon(join_all([
        store.advance(step("a", 1), NOW),
        store.advance(step("a", 1), NOW),
        store.advance(step("a", 2), NOW),
        store.advance(step("a", 1), NOW),
        store.advance(step("b", 2), NOW),
    ]))
    .await;
    let answers: Vec<Advanced> = answers.into_iter().map(Result::unwrap).collect();
    assert!(matches!(&answers[0], Advanced::Written(Some(receipt)) if receipt.last.as_u64() == 1));
    assert_eq!(answers[1], Advanced::Repeated);
    assert!(matches!(&answers[2], Advanced::Written(Some(receipt)) if receipt.last.as_u64() == 2));
    assert_eq!(answers[3], Advanced::Elsewhere(Some(checkpoint(2))));
    assert_eq!(answers[4], Advanced::Elsewhere(None));
}

#[tokio::test]
async fn an_advance_that_cannot_be_stored_fails_alone_and_leaves_its_checkpoint() {
    let place = Place::new();
    let store = place.open();
    advanced(store.advance(step("a", 1), NOW).await.unwrap());
    let (good, broken) = (topic("good"), topic("broken"));
    written(store.append(&broken, batch([1, 2]), NOW).await.unwrap());
    // A head that forgets an update: the next append to this topic finds its seq taken.
    place.connect().execute("UPDATE khala_topic SET head = 1 WHERE topic = 'broken'", []).unwrap();
    let (before, (broken, after)) = soon(join(
        store.append(&good, batch([1]), NOW),
        join(
            store.advance(step("a", 2).with_batch(broken, batch([3])), NOW),
            store.append(&good, batch([2]), NOW),
        ),
    ))
    .await;
    assert_eq!(broken.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!((written(before.unwrap()).last.as_u64(), written(after.unwrap()).last.as_u64()), (1, 2));
    assert_eq!(kept(&store).await, [(entity("a"), checkpoint(1))]);
}

#[tokio::test]
async fn who_watches_hears_of_an_advance_without_an_announcement() {
    let place = Place::new();
    let (here, there) = (place.open(), place.open());
    let mut watch = here.watch(&topic("folded")).await.unwrap();
    for number in 1..=3 {
        let receipt = advanced(there.advance(step("a", number), NOW).await.unwrap()).unwrap();
        while soon(watch.moved()).await != receipt.cursor() {}
    }
}

#[tokio::test]
async fn a_file_that_is_locked() {
    let place = Place::new();
    let store = place
        .open_with(SqliteOptions { busy_timeout: Duration::from_millis(50), ..SqliteOptions::default() });
    advanced(store.advance(step("a", 1), NOW).await.unwrap());
    let before = kept(&store).await;
    let mut own = place.connect();
    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let error = store.advance(step("a", 2), NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable());
    let error = store.remove(&projection(), &entity("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = store.remove_all(&projection()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(kept(&store).await, before, "reading goes on meanwhile");
    drop(transaction);
    advanced(store.advance(step("a", 2), NOW).await.unwrap());
}

#[tokio::test]
async fn a_disk_that_is_full() {
    let place = Place::new();
    drop(place.open());
    let pages: u32 = place.connect().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    let store = place.open_with(SqliteOptions { max_pages: Some(pages + 20), ..SqliteOptions::default() });
    let name = |n: usize| format!("{} {n:04}", "x".repeat(300));
    let mut acknowledged = 0;
    let error = loop {
        match store.advance(step(&name(acknowledged), 1), NOW).await {
            Ok(answer) => assert!(advanced(answer).is_some()),
            Err(error) => break error,
        }
        acknowledged += 1;
        assert!(acknowledged < 1_000, "20 pages are not endless");
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    let meant: Vec<_> = (0..acknowledged).map(|n| (entity(&name(n)), checkpoint(1))).collect();
    assert_eq!(kept(&store).await, meant);
    assert_eq!(log(&store, &topic("folded")).await.len(), acknowledged, "no document without its checkpoint");
}

#[tokio::test]
async fn an_advance_that_nobody_waits_for_is_stored_whole_or_not_at_all() {
    let place = Place::new();
    let store = place.open();
    let mut dropped = store.advance(step("a", 1), NOW);
    assert!((&mut dropped).now_or_never().is_none(), "polled once, it waits to be stored");
    drop(dropped);
    // The same advance, asked again, tells; and either way it is there now, once.
    match store.advance(step("a", 1), NOW).await.unwrap() {
        Advanced::Repeated | Advanced::Written(_) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(kept(&store).await, [(entity("a"), checkpoint(1))]);
    assert_eq!(log(&store, &topic("folded")).await.len(), 1);
}

#[tokio::test]
async fn an_advance_whose_batch_was_stored_before_counts_no_update() {
    let place = Place::new();
    let store = place.open();
    let once = || batch([1]).with_dedup(khala_core::update::DedupKey::parse("once").unwrap());
    written(store.append(&topic("t"), once(), NOW).await.unwrap());
    let answer = store.advance(step("a", 1).with_batch(topic("t"), once()), NOW).await.unwrap();
    assert!(matches!(answer, Advanced::Written(Some(_))), "{answer:?}");
    assert_eq!(log(&store, &topic("t")).await.len(), 1);
    assert_eq!(store.stats().updates, 1);
}
