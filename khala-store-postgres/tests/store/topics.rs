//! Topics that somebody else has locked, or is about to add, hold up nobody but those who append to them.

use std::time::Duration;

use futures::{StreamExt as _, future::join_all, stream::FuturesOrdered};
use khala_core::{
    Cursor, Epoch, ErrorKind, Payload, Watermark,
    documents::{Documents, Snapshot, SnapshotFrom},
    journal::{Chain, Journal, Keep, ReadLimit},
    projection::{Advance, Checkpoint, Checkpoints, Entity, ProjectionName},
    update::PayloadHash,
};
use khala_store_postgres::{PostgresOptions, PostgresStore, append_in};
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};

use crate::support::{NOW, batch, fresh, log, soon, sql, topic, written};

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
    let options = PostgresOptions { lock_timeout: Duration::from_millis(100), ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    let error = store.append(&topic("held"), batch([1]), NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable() && error.to_string().contains("locked by another transaction"), "{error}");
    slow.rollback().await.unwrap();
    written(store.append(&topic("held"), batch([1]), NOW).await.unwrap());
}

/// Its topic is locked until the first of them has failed: those that queued up behind it find it free.
#[tokio::test]
async fn what_fails_takes_along_what_queued_up_behind_it_in_its_chain() {
    let (url, store) = fresh().await;
    written(store.append(&topic("held"), batch([0]), NOW).await.unwrap());
    let options = PostgresOptions { lock_timeout: Duration::from_millis(100), ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    let (held, chain) = (topic("held"), Chain::new());
    let chained = |n| store.append(&held, batch([n]).with_chain(chain.clone()), NOW);
    let mut answers: FuturesOrdered<_> = (1..3_000).map(chained).collect();
    let first = soon(answers.next()).await.unwrap();
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Unavailable);
    slow.rollback().await.unwrap();
    let answers: Vec<_> = soon(answers.collect()).await;
    assert!(answers.iter().all(Result::is_err), "nothing stands behind what failed");
    assert_eq!(log(&store, &held).await.len(), 1);
    written(store.append(&held, batch([1]).with_chain(Chain::new()), NOW).await.unwrap());
}

/// The first step of an entity, with an update of that topic.
fn step(entity: &str, to: &str) -> Advance {
    let checkpoint = Checkpoint {
        source: Cursor::new(Epoch::from_bits(1), Watermark::new(1).unwrap()),
        version: 1,
        summary_hash: PayloadHash::of(&Payload::null()).unwrap(),
    };
    let (projection, entity) = (ProjectionName::parse("p").unwrap(), Entity::parse(entity).unwrap());
    Advance::new(projection, entity, None, checkpoint).with_batch(topic(to), batch([1]))
}

/// How many connections of the store wait for a lock.
fn waiting_for_locks(url: &str) -> String {
    sql(
        url,
        "SELECT count(*) FROM pg_stat_activity
         WHERE wait_event_type = 'Lock' AND application_name = 'khala' AND datname = current_database()",
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advances_to_a_locked_topic_hold_up_nobody_who_appends_to_others() {
    let (url, _) = fresh().await;
    let patient = Duration::from_secs(60);
    let options =
        PostgresOptions { lock_timeout: patient, statement_timeout: patient, ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    written(store.append(&topic("held"), batch([0]), NOW).await.unwrap());
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    let advances: Vec<_> = (0..8)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.advance(step(&format!("e{n}"), "held"), NOW).await })
        })
        .collect();
    // Half of the connections wait; the other advances wait for their turn to.
    soon(async {
        while waiting_for_locks(&url) != "4" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let free = store.append(&topic("free"), batch([1]), NOW).await;
    slow.commit().await.unwrap();
    for advance in advances {
        soon(advance).await.unwrap().unwrap();
    }
    written(free.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_for_a_locked_topic_and_was_given_up_waits_no_longer_in_the_database() {
    let (url, store) = fresh().await;
    written(store.append(&topic("held"), batch([0]), NOW).await.unwrap());
    let options = PostgresOptions {
        lock_timeout: Duration::from_millis(100),
        statement_timeout: Duration::from_millis(500),
        ..PostgresOptions::default()
    };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    for n in 0..5 {
        let error = store.advance(step(&format!("e{n}"), "held"), NOW).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    // One after the other, each on a connection that stays.
    let waiting = waiting_for_locks(&url);
    slow.rollback().await.unwrap();
    assert_eq!(waiting, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn futures_that_were_dropped_keep_no_connection() {
    let (url, store) = fresh().await;
    written(store.append(&topic("held"), batch([0]), NOW).await.unwrap());
    let options =
        PostgresOptions { statement_timeout: Duration::from_millis(1_000), ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    let names: Vec<String> = (0..8).map(|n| format!("e{n}")).collect();
    let advances = join_all(names.iter().map(|name| store.advance(step(name, "held"), NOW)));
    assert!(tokio::time::timeout(Duration::from_millis(500), advances).await.is_err());
    // By now each would have been given up, had it been waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let free = store.append(&topic("free"), batch([1]), NOW).await;
    slow.rollback().await.unwrap();
    written(free.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_connection_too_unrelated_topics_do_not_wait_for_each_other() {
    let (url, store) = fresh().await;
    for name in ["held", "free"] {
        written(store.append(&topic(name), batch([0]), NOW).await.unwrap());
    }
    let options = PostgresOptions { connections: std::num::NonZeroU32::MIN, ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    let behind = tokio::spawn({
        let store = store.clone();
        async move { store.append(&topic("held"), batch([1]), NOW).await }
    });
    soon(async {
        while waiting_for_locks(&url) != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let free = store.append(&topic("free"), batch([1]), NOW).await;
    slow.rollback().await.unwrap();
    let _ = soon(behind).await.unwrap();
    written(free.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_removed_while_it_moves_does_not_come_back() {
    let (url, store) = fresh().await;
    let first = step("e", "held");
    store.advance(first.clone(), NOW).await.unwrap();
    let mut next = step("e", "held");
    next.from = Some(first.to.clone());
    next.to.source.watermark = Watermark::new(2).unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    let moving = tokio::spawn({
        let store = store.clone();
        async move { store.advance(next, NOW).await.unwrap() }
    });
    soon(async {
        while waiting_for_locks(&url) != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (projection, entity) = (first.projection.clone(), first.entity.clone());
    let removing = tokio::spawn({
        let (store, projection, entity) = (store.clone(), projection.clone(), entity.clone());
        async move { store.remove(&projection, &entity).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    slow.commit().await.unwrap();
    let (removed, moved) = (soon(removing).await.unwrap(), soon(moving).await.unwrap());
    let left = store.checkpoint(&projection, &entity).await.unwrap();
    // Removed before, it could not have moved from there (C3); removed after, it is gone (C8).
    assert!(!(removed && left.is_some()), "it was removed, and {moved:?} left {left:?}");
}

#[tokio::test]
async fn a_prefix_that_no_topic_has_lists_none() {
    let (_, store) = fresh().await;
    for prefix in ["é", "a b", "\u{0}"] {
        let page = store.topics(prefix, None, std::num::NonZeroUsize::MIN).await.unwrap();
        assert!(page.topics.is_empty() && page.corrupt.is_empty() && page.next.is_none(), "{prefix:?}");
    }
}

#[tokio::test]
async fn a_trim_looks_at_few_of_the_receipts_that_it_leaves() {
    let (url, store) = fresh().await;
    written(store.append(&topic("t"), batch([0]), NOW).await.unwrap());
    sql(
        &url,
        &format!(
            "UPDATE khala.topic SET floor = 20000, head = 20000, bytes = 0;
             DELETE FROM khala.update;
             INSERT INTO khala.receipt (topic_id, dedup, epoch, first_seq, last_seq, written_at)
             SELECT topic_id, n::text, epoch, n, n, {} FROM khala.topic, generate_series(1, 20000) n",
            NOW.as_millis()
        ),
    );
    sql(&url, "ANALYZE khala.receipt");
    let read = "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables
                WHERE relname = 'receipt'";
    let before: u64 = sql(&url, read).parse().unwrap();
    store.trim(&topic("t"), Keep::everything(), NOW).await.unwrap();
    // With its connections end, at the latest, what they have counted is told.
    store.close().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let read: u64 = sql(&url, read).parse::<u64>().unwrap() - before;
    assert!(read <= 1_000, "{read} receipts were read while the topic was held");
}

#[tokio::test]
async fn a_bad_request_in_the_group_changes_no_order() {
    let (url, store) = fresh().await;
    for name in ["held", "bad"] {
        written(store.append(&topic(name), batch([0]), NOW).await.unwrap());
    }
    sql(
        &url,
        "CREATE FUNCTION slowly(payload text) RETURNS boolean LANGUAGE plpgsql AS
             'BEGIN IF payload = ''13'' THEN PERFORM pg_sleep(0.5); RETURN false; END IF; RETURN true; END';
         ALTER TABLE khala.update ADD CONSTRAINT own CHECK (slowly(payload))",
    );
    let options = PostgresOptions { writers: std::num::NonZeroU32::MIN, ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let (held, bad) = (topic("held"), topic("bad"));
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    let appends = join_all([
        store.append(&held, batch([1]), NOW),
        store.append(&bad, batch([13]), NOW),
        store.append(&held, batch([2]), NOW),
    ]);
    // It is refused with its group, and then by itself: meanwhile the topic comes free.
    let freed = async {
        tokio::time::sleep(Duration::from_millis(750)).await;
        slow.rollback().await.unwrap();
    };
    let (answers, ()) = soon(futures::future::join(appends, freed)).await;
    assert!(answers[0].is_ok() && answers[1].is_err() && answers[2].is_ok(), "{answers:?}");
    let texts: Vec<String> =
        log(&store, &held).await.iter().map(|update| update.payload.as_str().to_owned()).collect();
    assert_eq!(texts, ["0", "1", "2"]);
}

/// A transaction that publishes to a topic holds up trims of that topic only, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trim_of_a_topic_that_stays_locked_says_so() {
    let (url, store) = fresh().await;
    written(store.append(&topic("held"), batch([0]), NOW).await.unwrap());
    let options = PostgresOptions {
        lock_timeout: Duration::from_millis(100),
        statement_timeout: Duration::from_millis(1_000),
        ..PostgresOptions::default()
    };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &["held".to_owned()]).await;
    let error = store.trim(&topic("held"), Keep::everything(), NOW).await.unwrap_err();
    slow.rollback().await.unwrap();
    assert!(error.to_string().contains("locked by another transaction"), "{error}");
}

/// However many topics are locked, each append to one is given up after about the lock timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_timeout_holds_for_more_topics_than_there_are_connections_to_wait_on() {
    let (url, store) = fresh().await;
    let locked = names("locked", 20);
    for name in &locked {
        written(store.append(&topic(name), batch([0]), NOW).await.unwrap());
    }
    let options = PostgresOptions { lock_timeout: Duration::from_secs(2), ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let slow = holding(&mut conn, &locked).await;
    let appends = join_all(locked.iter().map(|name| {
        let (store, topic) = (store.clone(), topic(name));
        async move { store.append(&topic, batch([1]), NOW).await }
    }));
    let answers = tokio::time::timeout(Duration::from_secs(6), appends).await;
    slow.rollback().await.unwrap();
    assert!(answers.is_ok(), "three times the lock timeout, and some wait still");
}

#[tokio::test]
async fn what_advances_write_is_counted() {
    let (_, store) = fresh().await;
    store.advance(step("e", "t"), NOW).await.unwrap();
    assert_eq!(store.stats().updates, 1);
}

#[tokio::test]
async fn what_is_corrupt_of_one_topic_spoils_no_other() {
    let (url, store) = fresh().await;
    for name in ["a", "b", "c", "d", "e"] {
        written(store.append(&topic(name), batch([0]), NOW).await.unwrap());
    }
    sql(&url, "UPDATE khala.topic SET floor = 9 WHERE topic = 'b'");
    sql(&url, "UPDATE khala.topic SET topic = 'c c' WHERE topic = 'c'");
    sql(&url, "UPDATE khala.topic SET head = -1 WHERE topic = 'd'");
    let page = store.topics("", None, 4.try_into().unwrap()).await.unwrap();
    let names: Vec<_> = page.topics.iter().map(|(topic, _)| topic.as_str()).collect();
    let corrupt: Vec<_> = page.corrupt.iter().map(|corrupt| corrupt.name.as_str()).collect();
    assert_eq!((names, corrupt, page.next.as_deref()), (vec!["a"], vec!["b", "c c", "d"], Some("d")));
    assert!(page.corrupt.iter().all(|corrupt| corrupt.error.kind() == ErrorKind::Corrupt), "{page:?}");
    let rest = store.topics("", page.next.as_deref(), 4.try_into().unwrap()).await.unwrap();
    assert_eq!((rest.topics[0].0.as_str(), rest.topics.len(), rest.next), ("e", 1, None));

    let (good, bad) = (topic("a"), topic("b"));
    let (good, bad) =
        tokio::join!(store.append(&good, batch([1]), NOW), soon(store.append(&bad, batch([1]), NOW)));
    written(good.unwrap());
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_snapshot_reads_no_tombstones() {
    let (url, store) = fresh().await;
    written(store.append(&topic("t"), batch([0]), NOW).await.unwrap());
    sql(
        &url,
        "INSERT INTO khala.document (topic_id, seq, published_at, kind, doc_key, doc_version, deleted, payload)
         SELECT topic_id, 1, 1, 'k', 'd' || n, 1, n <> 20000, 'null' FROM khala.topic, generate_series(1, 20000) n",
    );
    let snapshot = store.snapshot(&topic("t"), SnapshotFrom::Start, ReadLimit::PAGE).await.unwrap();
    let Snapshot::Page(page) = snapshot else { panic!("{snapshot:?}") };
    assert_eq!(
        page.documents.iter().filter_map(|d| d.doc_key.as_ref()).map(|k| k.as_str()).collect::<Vec<_>>(),
        ["d20000"]
    );
    // With its connections end, at the latest, what they have counted is told.
    store.close().await;
    let read = |index: &str| {
        let read = "SELECT idx_scan || ' ' || idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = ";
        sql(&url, &format!("{read}'{index}'"))
    };
    soon(async {
        while read("document_there") != "1 1" {
            assert!(read("document_pkey").ends_with(" 0"), "tombstones were read: {}", read("document_pkey"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
