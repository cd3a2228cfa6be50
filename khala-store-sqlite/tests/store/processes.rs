//! Several processes, and several stores, on one file. The other process is this binary, started once more.

use std::{
    env,
    process::{Child, Command, Stdio},
    sync::{Arc, Barrier},
    thread,
};

use futures::future::join_all;
use khala_core::{Kind, NewUpdate, Payload, Seq, auth::Revocations, fanout::Fanout, journal::Journal};
use khala_store_sqlite::SqliteStore;

use crate::support::{NOW, Place, batch, log, revocation, revoked, soon, topic, written};

/// Where the other process finds the file.
const FILE: &str = "KHALA_SQLITE_TEST_FILE";

/// How many updates, and then revocations, the other process stores, one by one.
const THEIRS: u64 = 20;

fn another_process(place: &Place) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["processes::the_other_process", "--exact", "--ignored", "--test-threads=1"])
        .env(FILE, &place.path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "not a test: the other process of those below"]
async fn the_other_process() {
    let Ok(file) = env::var(FILE) else { return };
    let store = SqliteStore::open(file).unwrap();
    for n in 0..THEIRS {
        written(store.append(&topic("shared"), batch([n]), NOW).await.unwrap());
    }
    for n in 0..THEIRS {
        store.revoke(revocation(&n.to_string())).await.unwrap();
    }
}

#[tokio::test]
async fn what_another_process_writes_is_noticed() {
    let place = Place::new();
    let store = place.open();
    let mut watch = store.watch(&topic("shared")).await.unwrap();
    let mut child = another_process(&place);
    // Nothing here reads the journal: the watch alone gets to the end.
    while soon(watch.moved()).await.watermark.as_u64() < THEIRS {}
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn what_another_process_revokes_is_noticed() {
    let place = Place::new();
    let store = place.open();
    let mut watch = store.watch_revoked().await.unwrap();
    let mut child = another_process(&place);
    // Nobody watches a topic, and nothing here reads the log.
    while soon(watch.moved()).await.as_u64() < THEIRS {}
    assert!(child.wait().unwrap().success());
    assert_eq!(revoked(&store).await.len() as u64, THEIRS);
}

#[tokio::test]
async fn a_watch_after_a_quiet_time_misses_nothing() {
    let place = Place::new();
    let (here, there) = (place.open(), place.open());
    let topic = topic("t");
    for round in 1..=3 {
        // Written while nobody watched: the first look raises the level to it.
        let before = written(there.append(&topic, batch([round]), NOW).await.unwrap());
        let mut watch = here.watch(&topic).await.unwrap();
        assert_eq!(soon(watch.moved()).await, before.cursor());
        let after = written(there.append(&topic, batch([round]), NOW).await.unwrap());
        assert_eq!(soon(watch.moved()).await, after.cursor());
        drop(watch);
    }
}

#[tokio::test]
async fn only_topics_that_moved_wake_their_watchers() {
    let place = Place::new();
    let (here, there) = (place.open(), place.open());
    let (quiet, busy) = (topic("quiet"), topic("busy"));
    let (quiet_watch, mut busy_watch) = (here.watch(&quiet).await.unwrap(), here.watch(&busy).await.unwrap());
    for n in 1..=5 {
        let receipt = written(there.append(&busy, batch([n]), NOW).await.unwrap());
        assert_eq!(soon(busy_watch.moved()).await, receipt.cursor());
    }
    assert_eq!(quiet_watch.head(), None);
}

#[tokio::test]
async fn processes_that_open_a_new_file_at_once_make_it_once() {
    let place = Place::new();
    let mut children: Vec<Child> = (0..4).map(|_| another_process(&place)).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let log = log(&place.open(), &topic("shared")).await;
    assert_eq!(log.len() as u64, 4 * THEIRS);
    assert!(log.iter().map(|update| update.seq.as_u64()).eq(1..=4 * THEIRS));
}

#[test]
fn stores_that_open_a_new_file_at_once_make_it_once() {
    for _ in 0..5 {
        let place = Arc::new(Place::new());
        let start = Arc::new(Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (place, start) = (Arc::clone(&place), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    place.open()
                })
            })
            .collect();
        let stores: Vec<SqliteStore> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bounds = stores.iter().map(|store| runtime.block_on(store.bounds(&topic("t"))).unwrap());
        let bounds: Vec<_> = bounds.collect();
        assert!(bounds.iter().all(|other| *other == bounds[0]), "one seed, and so one epoch: {bounds:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_stores_that_write_one_topic_lose_and_repeat_nothing() {
    let place = Place::new();
    let stores = [place.open(), place.open()];
    let topic = topic("t");
    let appends = (0..400_u64).map(|n| {
        let (store, topic) = (stores[n as usize % 2].clone(), topic.clone());
        tokio::spawn(async move { (n, written(store.append(&topic, batch([n]), NOW).await.unwrap())) })
    });
    let receipts: Vec<(u64, Seq)> = soon(join_all(appends))
        .await
        .into_iter()
        .map(|done| done.map(|(n, r)| (n, r.first)).unwrap())
        .collect();
    let log = log(&stores[0], &topic).await;
    assert_eq!(log.len(), 400);
    for (n, seq) in receipts {
        let update = &log[seq.as_u64() as usize - 1];
        assert_eq!((update.seq, update.payload.as_str()), (seq, n.to_string().as_str()));
    }
}

#[tokio::test]
async fn everything_is_there_again_after_reopening() {
    let place = Place::new();
    let topic = topic("t");
    let odd = r#"{ "b":1.0e0,"a" : "é\u0000", "B":[ ] }"#;
    let store = place.open();
    let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse(odd).unwrap());
    written(store.append(&topic, update.try_into().unwrap(), NOW).await.unwrap());
    let (before, bounds) = (log(&store, &topic).await, store.bounds(&topic).await.unwrap());
    drop(store);
    for _ in 0..2 {
        let store = place.open();
        assert_eq!(log(&store, &topic).await, before);
        assert_eq!(store.bounds(&topic).await.unwrap(), bounds);
    }
    assert_eq!(before[0].payload.as_str(), odd);
}
