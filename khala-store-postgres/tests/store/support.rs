//! What the tests share.

use std::{future::Future, time::Duration};

use khala_core::{
    Append, Batch, Kind, NewUpdate, Payload, Receipt, Timestamp, Topic, Update,
    journal::{Journal, ReadFrom, ReadLimit, Replay},
};
use khala_store_postgres::{PostgresOptions, PostgresStore};
use khala_testing::Cluster;

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A store in a fresh database of the cluster that all tests share.
pub(crate) async fn fresh() -> (String, PostgresStore) {
    let url = Cluster::shared().database();
    let store = open(&url).await;
    (url, store)
}

/// The defaults, and time for a machine that does much else.
pub(crate) fn patient() -> PostgresOptions {
    PostgresOptions { connect_timeout: Duration::from_secs(20), ..PostgresOptions::default() }
}

pub(crate) async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(url).await.unwrap()
}

/// What `psql` prints for these statements, in the database at `url`.
pub(crate) fn sql(url: &str, statements: &str) -> String {
    Cluster::shared().sql(url.rsplit('/').next().unwrap(), statements)
}

pub(crate) fn topic(text: &str) -> Topic {
    Topic::parse(text).unwrap()
}

pub(crate) fn update(number: u64) -> NewUpdate {
    NewUpdate::new(Kind::parse("test").unwrap(), Payload::of(&number).unwrap())
}

pub(crate) fn batch(numbers: impl IntoIterator<Item = u64>) -> Batch {
    Batch::new(numbers.into_iter().map(update).collect()).unwrap()
}

#[track_caller]
pub(crate) fn written(answer: Append) -> Receipt {
    match answer {
        Append::Written(receipt) => receipt,
        other => panic!("not written: {other:?}"),
    }
}

/// The whole log of a topic that was never trimmed.
pub(crate) async fn log(journal: &impl Journal, topic: &Topic) -> Vec<Update> {
    let (mut start, mut log) = (ReadFrom::Origin, Vec::new());
    loop {
        match journal.read(topic, start, ReadLimit::PAGE).await.unwrap() {
            Replay::Page(page) => {
                start = page.cursor().into();
                let complete = page.is_complete();
                log.extend(page.updates);
                if complete {
                    return log;
                }
            }
            Replay::Stale(stale) => panic!("{stale:?}"),
        }
    }
}

/// Waits for what must happen, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it happens within 30 s")
}
