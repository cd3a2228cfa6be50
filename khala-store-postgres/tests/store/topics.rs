//! Topics that somebody else has locked, or is about to add, hold up nobody but those who append to them.

use std::time::Duration;

use futures::future::join_all;
use khala_core::{ErrorKind, Journal};
use khala_store_postgres::{PostgresOptions, PostgresStore, append_in};
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};

use crate::support::{NOW, batch, fresh, log, soon, topic, written};

/// A transaction of the application that has appended to these topics and does not end.
async fn holding<'c>(conn: &'c mut PgConnection, names: &[String]) -> Transaction<'c, Postgres> {
    let mut transaction = conn.begin().await.unwrap();
    for name in names {
        append_in(&mut transaction, &topic(name), &batch([0]), NOW).await.unwrap();
    }
    transaction
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}:{n}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unrelated_topics_never_wait_for_each_other() {
    let (url, store) = fresh().await;
    // More than there are connections to wait on.
    let (locked, free) = (names("locked", 30), names("free", 30));
    for name in locked.iter().chain(&free) {
        written(store.append(&topic(name), batch([0]), NOW).await.unwrap());
    }
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &locked).await;
    let mut waiting = Vec::new();
    for name in &locked {
        for n in 1..=3 {
            let (store, topic) = (store.clone(), topic(name));
            waiting.push(tokio::spawn(async move { store.append(&topic, batch([n]), NOW).await }));
            tokio::task::yield_now().await;
        }
    }
    for n in 0..5 {
        let appends = free.iter().map(|name| {
            let (store, topic) = (store.clone(), topic(name));
            async move { written(store.append(&topic, batch([n]), NOW).await.unwrap()) }
        });
        soon(join_all(appends)).await;
    }
    assert!(
        waiting.iter().all(|append| !append.is_finished()),
        "they wait for the transaction that has their topics"
    );
    slow.commit().await.unwrap();
    for append in waiting {
        written(soon(append).await.unwrap().unwrap());
    }
    for name in &locked {
        let log = log(&store, &topic(name)).await;
        assert_eq!(log.len(), 5, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_topic_keeps_its_order() {
    let (url, store) = fresh().await;
    let held = topic("held");
    written(store.append(&held, batch([0]), NOW).await.unwrap());
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    // Each is handed over before the next is made: their futures are polled in order.
    let appends = (1..=50).map(|n| store.append(&held, batch([n]), NOW));
    let all = join_all(appends);
    tokio::pin!(all);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut all).await.is_err());
    slow.commit().await.unwrap();
    for answer in soon(all).await {
        written(answer.unwrap());
    }
    let texts: Vec<String> =
        log(&store, &held).await.iter().map(|update| update.payload.as_str().to_owned()).collect();
    let wanted = ["0", "0"].into_iter().map(str::to_owned).chain((1..=50).map(|n: u64| n.to_string()));
    assert!(texts.iter().cloned().eq(wanted), "{texts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_somebody_adds_just_now_holds_up_no_other_new_one() {
    let (url, store) = fresh().await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["new:0".to_owned()]).await;
    let behind = tokio::spawn({
        let store = store.clone();
        async move { store.append(&topic("new:0"), batch([1]), NOW).await }
    });
    let appends = names("new", 20).into_iter().skip(1).map(|name| {
        let store = store.clone();
        async move { written(store.append(&topic(&name), batch([1]), NOW).await.unwrap()) }
    });
    soon(join_all(appends)).await;
    assert!(!behind.is_finished());
    // And if it is rolled back, the topic never was.
    slow.rollback().await.unwrap();
    assert_eq!(written(soon(behind).await.unwrap().unwrap()).first.as_u64(), 1);
}

#[tokio::test]
async fn a_topic_that_stays_locked_is_an_error_that_says_so() {
    let (url, store) = fresh().await;
    written(store.append(&topic("held"), batch([0]), NOW).await.unwrap());
    let options = PostgresOptions::new().with_lock_timeout(Duration::from_millis(100));
    let store = PostgresStore::open(&url, options).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    let error = store.append(&topic("held"), batch([1]), NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable() && error.to_string().contains("locked by another transaction"), "{error}");
    slow.rollback().await.unwrap();
    written(store.append(&topic("held"), batch([1]), NOW).await.unwrap());
}
