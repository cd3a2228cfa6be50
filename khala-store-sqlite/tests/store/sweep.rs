//! Sweeps of a file: that appends go in between, who sweeps a file that several have open, and what trouble leaves.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::future::{join, join_all};
use khala_core::{
    Append, ErrorKind, Khala,
    class::{Classes, Retain, TopicClass, TopicPattern},
    journal::Journal,
    node::NodeId,
    retention::{SweepOrder, SweepOutcome, SweepRecord, SweepTrigger, Swept},
};
use khala_store_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::TransactionBehavior;

use crate::support::{NOW, Place, batch, soon, topic, written};

/// A handle that keeps so many updates of every topic, but all of the topic `kept`, and shares what is shared by the file.
fn khala(store: &SqliteStore, node: &str, updates: u64) -> Khala {
    let class = |name: &str, pattern: &str, updates| TopicClass {
        retain: Retain { updates, ..Retain::everything() },
        ..TopicClass::new(name, TopicPattern::parse(pattern).unwrap())
    };
    let classes = vec![class("kept", "kept", None), class("every", "**", Some(updates))];
    Khala::builder(store.clone())
        .with_classes(Classes::new(classes).unwrap())
        .with_node(NodeId::parse(node).unwrap())
        .build()
}

async fn sweep(khala: &Khala) -> SweepRecord {
    match soon(khala.retention().sweep(SweepOrder::new(SweepTrigger::Order))).await.unwrap() {
        Swept::Done(record) => record,
        other => panic!("not done: {other:?}"),
    }
}

async fn fill(store: &SqliteStore, name: &str, thousands: u64) {
    let topic = topic(name);
    let appends = (0..thousands).map(|_| store.append(&topic, batch(0..1_000), NOW));
    for answer in soon(join_all(appends)).await {
        written(answer.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_on_while_a_hundred_thousand_updates_are_swept() {
    let place = Place::new();
    let store = place.open();
    for name in ["a", "b"] {
        fill(&store, name, 50).await;
    }
    // What was committed, in its order: heads by appends, floors by the steps of the sweep.
    place
        .connect()
        .execute_batch(
            "CREATE TABLE own_log (id INTEGER PRIMARY KEY, event TEXT);
             CREATE TRIGGER own_append AFTER UPDATE OF head ON khala_topic
                 BEGIN INSERT INTO own_log (event) VALUES ('append'); END;
             CREATE TRIGGER own_step AFTER UPDATE OF floor ON khala_topic
                 BEGIN INSERT INTO own_log (event) VALUES ('step'); END",
        )
        .unwrap();
    let khala = khala(&store, "n", 100);
    let plan = soon(khala.retention().plan_sweep()).await.unwrap();
    assert_eq!((plan.topics, plan.updates), (2, 2 * 49_900));

    let (swept, written) = (AtomicBool::new(false), topic("kept"));
    let sweeping = async {
        let record = sweep(&khala).await;
        swept.store(true, Ordering::Release);
        record
    };
    let appending = async {
        let mut appended = 0;
        while !swept.load(Ordering::Acquire) {
            let answer = soon(khala.publish(&written, batch([appended]))).await.unwrap();
            assert!(matches!(answer, Append::Written(_)), "{answer:?}");
            appended += 1;
        }
        appended
    };
    let (record, appended) = join(sweeping, appending).await;
    assert_eq!((record.outcome, record.updates), (SweepOutcome::Swept, plan.updates));
    assert_eq!(record.bytes, plan.bytes);
    for name in ["a", "b"] {
        let bounds = store.bounds(&topic(name)).await.unwrap();
        assert_eq!((bounds.floor.as_u64(), bounds.head.as_u64()), (49_900, 50_000));
    }
    assert_eq!(store.bounds(&written).await.unwrap().head.as_u64(), appended);

    let own = place.connect();
    let mut events = own.prepare("SELECT event FROM own_log ORDER BY id").unwrap();
    let events: Vec<String> = events.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let steps = events.iter().filter(|event| *event == "step").count();
    assert!(steps >= 200, "{steps} steps of at most 500 updates");
    let between = events.windows(2).filter(|pair| pair[0] == "step" && pair[1] == "append").count();
    // One appender that waits for each answer can have one append between two steps. That each gets through at the
    // next step is for the writer's own test; here others may have had the machine.
    assert!(between * 4 >= steps, "after {between} of {steps} steps came an append");
}

#[tokio::test]
async fn one_of_two_that_share_a_file_sweeps_and_both_know() {
    let place = Place::new();
    let stores = [place.open(), place.open()];
    let nodes = [khala(&stores[0], "one", 10), khala(&stores[1], "other", 10)];
    fill(&stores[0], "t", 60).await;
    let order = SweepOrder::new(SweepTrigger::Schedule);
    let answers = soon(join_all(nodes.iter().map(|node| node.retention().sweep(order)))).await;
    let mut removed = 0;
    let mut busy = 0;
    for answer in answers {
        match answer.unwrap() {
            Swept::Busy { node, .. } => {
                assert!(["one", "other"].contains(&node.as_str()));
                busy += 1;
            }
            Swept::Done(record) => removed += record.updates,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((removed, busy), (59_990, 1));
    let some = NonZeroUsize::new(9).unwrap();
    let records = nodes[0].retention().records(some).await.unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(nodes[1].retention().records(some).await.unwrap(), records);
    // Given up, the lead is free at once.
    for (node, name) in nodes.iter().zip(["one", "other"]) {
        assert_eq!(sweep(node).await.node.as_str(), name);
    }
}

#[tokio::test]
async fn a_sweep_makes_room_on_a_full_disk() {
    let place = Place::new();
    drop(place.open());
    let pages: u32 = place.connect().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    let store = place.open_with(SqliteOptions { max_pages: Some(pages + 200), ..SqliteOptions::default() });
    let khala = khala(&store, "n", 100);
    let topic = topic("t");
    let error = loop {
        match store.append(&topic, batch(0..1_000), NOW).await {
            Ok(answer) => drop(written(answer)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full);
    // To record it there is room then, too.
    let record = sweep(&khala).await;
    assert!(record.updates > 5_000, "{record:?}");
    assert_eq!(khala.retention().records(NonZeroUsize::MIN).await.unwrap(), [record]);
    written(store.append(&topic, batch(0..1_000), NOW).await.unwrap());
}

#[tokio::test]
async fn a_file_that_is_locked_is_swept_later() {
    let place = Place::new();
    let store = place
        .open_with(SqliteOptions { busy_timeout: Duration::from_millis(50), ..SqliteOptions::default() });
    let khala = khala(&store, "n", 10);
    fill(&store, "t", 1).await;
    let mut own = place.connect();
    let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    assert_eq!(soon(khala.retention().plan_sweep()).await.unwrap().updates, 990, "planning needs no lock");
    let error = soon(khala.retention().sweep(SweepOrder::new(SweepTrigger::Order))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    drop(transaction);
    assert_eq!(sweep(&khala).await.updates, 990);
}

#[tokio::test]
async fn a_topic_whose_row_is_damaged_does_not_keep_others_from_being_swept() {
    let place = Place::new();
    let store = place.open();
    let khala = khala(&store, "n", 10);
    for name in ["a", "b", "c"] {
        fill(&store, name, 1).await;
    }
    let own = place.connect();
    let damage = "UPDATE khala_update SET published_at = ?1 WHERE seq = 5 AND topic_id = 2";
    own.execute(damage, ["soon"]).unwrap();
    let swept = soon(khala.retention().sweep(SweepOrder::new(SweepTrigger::Order))).await.unwrap();
    let Swept::Failed(record) = swept else { panic!("{swept:?}") };
    assert_eq!((record.topics, record.topics_failed, record.updates), (3, 1, 2 * 990), "{record:?}");
    assert!(record.error.is_some());
    own.execute(damage, [0]).unwrap();
    assert_eq!(sweep(&khala).await.updates, 990);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_that_is_given_up_does_not_hold_up_whoever_closes_the_store() {
    let place = Place::new();
    let store = place.open();
    fill(&store, "a", 100).await;
    let (keeper, floor) = (khala(&store, "n", 0), place.connect());
    let sweeping =
        tokio::spawn(async move { keeper.retention().sweep(SweepOrder::new(SweepTrigger::Schedule)).await });
    let stands =
        || -> i64 { floor.query_row("SELECT floor FROM khala_topic", [], |row| row.get(0)).unwrap() };
    while stands() == 0 {
        tokio::task::yield_now().await;
    }
    // The server stops.
    sweeping.abort();
    let _ = sweeping.await;
    let before = stands();
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
    let steps = (stands() - before) / 500;
    assert!(steps <= 5, "closing waited for {steps} steps more of a sweep that nobody waits for");
}

#[tokio::test]
async fn a_topic_that_is_corrupt_fails_alone_and_is_named() {
    let place = Place::new();
    let store = place.open();
    for name in ["a", "b", "c", "d", "e", "f"] {
        written(store.append(&topic(name), batch([0; 5]), NOW).await.unwrap());
    }
    place
        .connect()
        .execute_batch(
            "UPDATE khala_topic SET floor = 99 WHERE topic IN ('a', 'b', 'd');
             UPDATE khala_topic SET topic = 'c c' WHERE topic = 'c'",
        )
        .unwrap();
    let khala = khala(&store, "n", 1);
    let plan = soon(khala.retention().plan_sweep()).await.unwrap();
    assert_eq!((plan.topics, plan.topics_failed, plan.updates), (6, 4, 2 * 4));
    let swept = soon(khala.retention().sweep(SweepOrder::new(SweepTrigger::Order))).await.unwrap();
    let Swept::Failed(record) = swept else { panic!("it hides what failed: {swept:?}") };
    assert_eq!((record.topics, record.topics_failed, record.topics_trimmed), (6, 4, 2));
    let failed: Vec<_> = record.failed.iter().map(|failed| failed.topic.as_str()).collect();
    assert_eq!(failed, ["a", "b", "c c", "d"]);
    assert!(record.error.unwrap().contains("\"a\": "), "the first is named");
    assert_eq!(store.bounds(&topic("f")).await.unwrap().floor.as_u64(), 4);
}
