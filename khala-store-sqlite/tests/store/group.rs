//! Group commit: many appends share a transaction, and nothing else.

use std::time::Duration;

use futures::{StreamExt as _, future::join_all, stream::FuturesOrdered};
use khala_core::{
    Append, Conflict, ErrorKind, Watermark,
    journal::{Chain, Journal},
    update::DedupKey,
};
use khala_store_sqlite::SqliteOptions;

use crate::support::{NOW, Place, batch, log, soon, topic, written};

#[tokio::test]
async fn concurrent_appends_share_commits() {
    let place = Place::new();
    let store = place.open();
    let topics = [topic("a"), topic("b"), topic("c")];
    let appends = (0..1_000).map(|n| store.append(&topics[n % 3], batch([n as u64]), NOW));
    for answer in soon(join_all(appends)).await {
        written(answer.unwrap());
    }
    let stats = store.stats();
    assert_eq!((stats.appends, stats.updates), (1_000, 1_000));
    assert!(stats.commits <= 100, "1,000 appends at once took {} commits", stats.commits);
    let mut logs = Vec::new();
    for topic in &topics {
        logs.extend(log(&store, topic).await);
    }
    assert_eq!(logs.len(), 1_000);
}

/// With the file locked until the first of them has failed, those that queued up behind it find it free.
#[tokio::test]
async fn what_fails_takes_along_what_queued_up_behind_it_in_its_chain() {
    let place = Place::new();
    let store = place
        .open_with(SqliteOptions { busy_timeout: Duration::from_millis(50), ..SqliteOptions::default() });
    let (t, other, chain) = (topic("t"), topic("other"), Chain::new());
    let own = place.connect();
    own.execute_batch("BEGIN IMMEDIATE").unwrap();
    let chained = |n| store.append(&t, batch([n]).with_chain(chain.clone()), NOW);
    let mut answers: FuturesOrdered<_> = (0..3_000).map(chained).collect();
    let first = soon(answers.next()).await.unwrap();
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Unavailable);
    own.execute_batch("COMMIT").unwrap();
    // Groups of 1,024 are tried one after the other: the last ones after the lock has gone.
    let answers: Vec<_> = soon(answers.collect()).await;
    assert!(answers.iter().all(Result::is_err), "nothing stands behind what failed");
    assert!(log(&store, &t).await.is_empty());
    written(store.append(&other, batch([1]), NOW).await.unwrap());
    written(store.append(&t, batch([1]).with_chain(Chain::new()), NOW).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_in_order_is_stored_in_order_however_much_waits() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    let appends = (1..=10_000).map(|n| store.append(&topic, batch([n]), NOW));
    for (answer, number) in soon(join_all(appends)).await.into_iter().zip(1..) {
        assert_eq!(written(answer.unwrap()).first.as_u64(), number);
    }
}

#[tokio::test]
async fn requests_in_one_group_see_those_before_them() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    let key = DedupKey::parse("once").unwrap();
    let once = || batch([1]).with_dedup(key.clone());
    let answers = soon(join_all([
        store.append(&topic, once(), NOW),
        store.append(&topic, once(), NOW),
        store.append(&topic, batch([2]).with_expect(Watermark::ORIGIN), NOW),
        store.append(&topic, batch([3]).with_expect(Watermark::new(1).unwrap()), NOW),
    ]))
    .await;
    let answers: Vec<Append> = answers.into_iter().map(Result::unwrap).collect();
    let Append::Written(first) = &answers[0] else { panic!("{answers:?}") };
    assert_eq!(answers[1], Append::Duplicate(*first));
    assert!(matches!(&answers[2], Append::Conflict(Conflict::Head { found, .. }) if found.as_u64() == 1));
    assert!(matches!(&answers[3], Append::Written(receipt) if receipt.last.as_u64() == 2));
}

#[tokio::test]
async fn a_request_that_cannot_be_stored_fails_alone() {
    let place = Place::new();
    let store = place.open();
    let (good, broken) = (topic("good"), topic("broken"));
    written(store.append(&broken, batch([1, 2]), NOW).await.unwrap());
    // A head that forgets an update: the next append to this topic finds its seq taken.
    place.connect().execute("UPDATE khala_topic SET head = 1 WHERE topic = 'broken'", []).unwrap();
    let answers = soon(join_all([
        store.append(&good, batch([1]), NOW),
        store.append(&broken, batch([3]), NOW),
        store.append(&good, batch([2]), NOW),
    ]))
    .await;
    assert!(matches!(answers[0], Ok(Append::Written(_))), "{answers:?}");
    assert_eq!(answers[1].as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(matches!(answers[2], Ok(Append::Written(_))), "{answers:?}");
    assert_eq!(log(&store, &good).await.len(), 2);
}

#[tokio::test]
async fn a_group_that_fails_tells_everybody_and_leaves_nothing() {
    let place = Place::new();
    drop(place.open());
    let store = place.open_with(SqliteOptions { max_pages: Some(60), ..SqliteOptions::default() });
    let topic = topic("t");
    let mut stored = 0;
    let full = loop {
        let answers = soon(join_all((0..50).map(|_| store.append(&topic, batch(0..20), NOW)))).await;
        stored += answers.iter().filter(|answer| answer.is_ok()).count();
        if let Some(error) = answers.into_iter().find_map(Result::err) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::Full);
    assert!(full.is_retryable());
    assert!(full.to_string().contains("Free disk space"), "{full}");
    assert_eq!(log(&store, &topic).await.len(), stored * 20, "what was not acknowledged is not there");
}

#[tokio::test]
async fn an_append_that_nobody_waits_for_is_stored_whole_or_not_at_all() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    for n in 0..50 {
        let mut append = Box::pin(store.append(&topic, batch([n; 3]), NOW));
        assert!(futures::poll!(append.as_mut()).is_pending() || n > 0);
    }
    written(store.append(&topic, batch([50; 3]), NOW).await.unwrap());
    let log = log(&store, &topic).await;
    for whole in log.chunks(3) {
        assert!(whole.iter().all(|update| update.payload == whole[0].payload) && whole.len() == 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dropping_the_last_handle_leaves_nothing_hanging_and_one_file() {
    let place = Place::new();
    let topic = topic("t");
    let store = place.open();
    let appends: Vec<_> = (0..200)
        .map(|n| {
            let (store, topic) = (store.clone(), topic.clone());
            tokio::spawn(async move { store.append(&topic, batch([n]), NOW).await })
        })
        .collect();
    drop(store);
    for append in appends {
        written(soon(append).await.unwrap().unwrap());
    }
    let files: Vec<_> =
        std::fs::read_dir(place.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["khala.db"], "everything is in the database file");
    assert_eq!(log(&place.open(), &topic).await.len(), 200);
}

#[test]
fn a_runtime_that_ends_amid_appends_takes_nothing_with_it() {
    let place = Place::new();
    let topic = topic("t");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let acknowledged = runtime.block_on(async {
        let store = place.open();
        for n in 0..500 {
            let (store, topic) = (store.clone(), topic.clone());
            tokio::spawn(async move { store.append(&topic, batch([n]), NOW).await });
        }
        written(store.append(&topic, batch([500]), NOW).await.unwrap())
    });
    drop(runtime);
    let again = tokio::runtime::Runtime::new().unwrap();
    let log = again.block_on(async { log(&place.open(), &topic).await });
    assert!(log.len() as u64 >= acknowledged.last.as_u64());
}
