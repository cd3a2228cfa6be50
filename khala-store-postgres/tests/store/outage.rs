//! A database that is lost and comes back, and one that is restored.

use std::time::{Duration, Instant};

use khala_core::{
    Append, ErrorKind, Timestamp,
    journal::{Journal, Replay},
    node::NodeId,
    position::StaleReason,
    retention::{Lease, Sweeps},
    update::DedupKey,
};
use khala_store_postgres::{PostgresOptions, PostgresStore, new_epochs};
use khala_testing::{Cluster, Proxy};
use sqlx::{Connection as _, PgConnection};

use crate::support::{NOW, batch, fresh, log, open, patient, soon, sql, topic, written};

#[tokio::test]
async fn a_database_that_is_lost_is_an_error_and_comes_back_by_itself() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let store = open(&cluster.database()).await;
    let t = topic("t");
    written(store.append(&t, batch([1]), NOW).await.unwrap());
    for round in 2..5 {
        cluster.kill();
        let asked = Instant::now();
        for error in
            [store.append(&t, batch([9]), NOW).await.unwrap_err(), store.bounds(&t).await.unwrap_err()]
        {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.is_retryable());
        }
        assert!(asked.elapsed() < Duration::from_secs(20), "nobody waits for ever");
        cluster.restart();
        // At once, on connections that were lost unnoticed.
        assert_eq!(store.bounds(&t).await.unwrap().head.as_u64(), round - 1);
        assert_eq!(written(store.append(&t, batch([round]), NOW).await.unwrap()).last.as_u64(), round);
    }
    assert_eq!(log(&store, &t).await.len(), 4);
}

#[tokio::test]
async fn a_database_that_cannot_be_written_says_so_when_it_is_asked() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let url = cluster.database();
    let store = open(&url).await;
    store.check_writable().await.unwrap();
    let (primary, standby) = tokio::task::spawn_blocking(move || {
        let standby = cluster.standby();
        (cluster, standby)
    })
    .await
    .unwrap();
    let there = url.replace(&format!(":{}/", primary.port()), &format!(":{}/", standby.port()));
    let store =
        PostgresStore::open_with(&there, PostgresOptions { migrate: false, ..patient() }).await.unwrap();
    let error = store.check_writable().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("can only be read"), "{error}");
    assert!(store.bounds(&topic("t")).await.is_ok(), "reading goes on");
    standby.kill();
    assert_eq!(store.check_writable().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_row_that_counts_less_than_nothing_costs_its_own_topic_alone() {
    let (url, store) = fresh().await;
    for name in ["bad", "good"] {
        written(store.append(&topic(name), batch([1]), NOW).await.unwrap());
    }
    sql(&url, "ALTER TABLE khala.topic DROP CONSTRAINT IF EXISTS topic_bytes_check");
    sql(&url, "UPDATE khala.topic SET bytes = -1 WHERE topic = 'bad'");
    let keyed = |key| batch([2]).with_dedup(DedupKey::parse(key).unwrap());
    let (bad, good) = (topic("bad"), topic("good"));
    let (bad, good) = tokio::join!(store.append(&bad, keyed("a"), NOW), store.append(&good, keyed("b"), NOW));
    let error = bad.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("the topic bad is said to hold -1 bytes"), "{error}");
    written(good.unwrap());
    store.check_writable().await.unwrap();
}

#[tokio::test]
async fn a_database_that_says_nothing_is_given_up_and_is_not_waited_for() {
    let (url, _) = fresh().await;
    let proxy = Proxy::before(Cluster::shared().port());
    let through = url.replace(&format!(":{}/", Cluster::shared().port()), &format!(":{}/", proxy.port()));
    let options = PostgresOptions {
        connect_timeout: Duration::from_millis(300),
        statement_timeout: Duration::from_millis(300),
        ..PostgresOptions::default()
    };
    let store = PostgresStore::open_with(&through, options).await.unwrap();
    let t = topic("t");
    written(store.append(&t, batch([1]), NOW).await.unwrap());
    proxy.silent();
    assert_eq!(soon(store.append(&t, batch([2]), NOW)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(soon(store.bounds(&t)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    proxy.pass();
    let again = async {
        loop {
            // What was held back may have gone through; the key tells.
            let batch = batch([3]).with_dedup(DedupKey::parse("once").unwrap());
            match store.append(&t, batch, NOW).await {
                Ok(Append::Written(_) | Append::Duplicate(_)) => return,
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
            }
        }
    };
    soon(again).await;
}

#[tokio::test]
async fn an_address_that_leads_nowhere_says_so_without_its_password() {
    for (url, kind, named) in [
        ("postgres://u:hunter2@127.0.0.1:1/d", ErrorKind::Unavailable, "cannot be reached"),
        ("postgres:/:hunter2", ErrorKind::Invalid, "the address"),
        ("mysql://u:hunter2@h/d", ErrorKind::Invalid, "the address"),
    ] {
        let options =
            PostgresOptions { connect_timeout: Duration::from_millis(300), ..PostgresOptions::default() };
        let error = PostgresStore::open_with(url, options).await.unwrap_err();
        assert!(error.kind() == kind || error.to_string().contains("no connection"), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        assert!(error.to_string().contains(named) || error.to_string().contains("no connection"), "{error}");
    }
    let missing = Cluster::shared().url("nowhere");
    let error = PostgresStore::open(&missing).await.unwrap_err();
    assert!(error.to_string().contains("no such database"), "{error}");
}

#[tokio::test]
async fn after_a_restore_old_cursors_are_of_another_epoch() {
    let (url, store) = fresh().await;
    let (t, untouched) = (topic("t"), topic("untouched"));
    let key = || DedupKey::parse("once").unwrap();
    let before = written(store.append(&t, batch([1]).with_dedup(key()), NOW).await.unwrap());
    let other = store.bounds(&untouched).await.unwrap().epoch;
    let refused = new_epochs(&url, PostgresOptions::default()).await.unwrap_err();
    assert!(refused.to_string().contains("stop them all"), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    store.close().await;
    assert_eq!(new_epochs(&url, PostgresOptions::default()).await.unwrap(), 1);
    let store = open(&url).await;
    let Replay::Stale(stale) =
        store.read(&t, before.cursor().into(), khala_core::journal::ReadLimit::PAGE).await.unwrap()
    else {
        panic!("it is of another history")
    };
    assert_eq!(stale.reasons, [StaleReason::EpochMismatch]);
    assert_ne!(store.bounds(&untouched).await.unwrap().epoch, other);
    let Append::Duplicate(receipt) = store.append(&t, batch([1]).with_dedup(key()), NOW).await.unwrap()
    else {
        panic!("the key is known still")
    };
    assert_eq!(receipt.epoch, stale.bounds.epoch);
    assert_eq!(log(&store, &t).await.len(), 1);
}

/// The seed is read once, when a store opens: one that opens before the new epochs are committed must not go on with the old.
#[tokio::test]
async fn a_store_that_opens_while_new_epochs_are_drawn_has_them() {
    let (url, store) = fresh().await;
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    store.close().await;
    let waiting = |name: &str| {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE wait_event_type = 'Lock' AND datname = current_database() AND application_name = ";
        sql(&url, &format!("{waiting}'{name}'")) != "0"
    };
    let mut reader = PgConnection::connect(&url).await.unwrap();
    let mut transaction = reader.begin().await.unwrap();
    sqlx::query("SELECT FROM khala.topic FOR UPDATE").execute(&mut *transaction).await.unwrap();
    let drawn = tokio::spawn({
        let url = url.clone();
        async move { new_epochs(&url, patient()).await }
    });
    soon(async {
        while !waiting("khala new-epochs") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let opened = tokio::spawn({
        let url = url.clone();
        async move { PostgresStore::open_with(&url, patient()).await }
    });
    soon(async {
        while !opened.is_finished() && !waiting("khala") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    transaction.commit().await.unwrap();
    assert_eq!(soon(drawn).await.unwrap().unwrap(), 1);
    let (store, other) = (soon(opened).await.unwrap().unwrap(), open(&url).await);
    let epoch = async |store: &PostgresStore| store.bounds(&topic("untouched")).await.unwrap().epoch;
    assert_eq!(epoch(&store).await, epoch(&other).await);
}

#[tokio::test]
async fn a_node_that_dies_loses_the_lead_and_one_that_froze_keeps_it_until_its_end() {
    let (url, store) = fresh().await;
    let other = open(&url).await;
    let (one, two) = (NodeId::parse("one").unwrap(), NodeId::parse("two").unwrap());
    let at = Timestamp::from_millis;
    assert_eq!(store.try_acquire(&one, at(0), at(1_000)).await.unwrap(), Lease::Held);
    let theirs = Lease::HeldBy { node: one.clone(), until: at(1_000) };
    assert_eq!(
        other.try_acquire(&two, at(1), at(2_000)).await.unwrap(),
        theirs,
        "it says nothing, and its lock is held"
    );
    // The connection that holds the lock ends, as it does with its process.
    sql(
        &url,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
               WHERE state = 'idle in transaction' AND datname = current_database()",
    );
    assert_eq!(other.try_acquire(&two, at(2), at(2_000)).await.unwrap(), Lease::Held);
    let theirs = Lease::HeldBy { node: two.clone(), until: at(2_000) };
    assert_eq!(store.try_acquire(&one, at(3), at(3_000)).await.unwrap(), theirs);
    // It holds its lock still, and its time is over.
    assert_eq!(store.try_acquire(&one, at(2_000), at(3_000)).await.unwrap(), Lease::Held);
}

/// The answer to COMMIT comes too late, the first time: what was asked for was done all the same.
#[tokio::test]
async fn a_group_whose_commit_is_not_answered_in_time_is_not_written_again() {
    let (url, _) = fresh().await;
    sql(
        &url,
        "CREATE SEQUENCE commits;
         CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF nextval(''commits'') = 1 THEN PERFORM pg_sleep(0.8); END IF; RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON khala.update DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION slow_commit()",
    );
    sql(&url, "SELECT khala.append('t', 'test', '0')");
    sql(&url, "SELECT setval('commits', 1, false)");
    let options = PostgresOptions {
        writers: std::num::NonZeroU32::MIN,
        statement_timeout: Duration::from_millis(500),
        ..PostgresOptions::default()
    };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let t = topic("t");
    let answers = futures::future::join_all((1..=3).map(|n| store.append(&t, batch([n]), NOW))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(khala_core::Error::is_retryable)));
    // What is committing now is committed, and whatever else was asked for by then shows too.
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
                AND pid <> pg_backend_pid()";
    soon(async {
        while sql(&url, busy) != "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let texts: Vec<String> =
        log(&store, &t).await.iter().map(|update| update.payload.as_str().to_owned()).collect();
    assert_eq!(texts, ["0", "1", "2", "3"], "each once");
}

#[tokio::test]
async fn a_lead_whose_renewal_failed_lasts_until_its_end() {
    let (url, _) = fresh().await;
    let options =
        PostgresOptions { statement_timeout: Duration::from_millis(300), ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let other = open(&url).await;
    let (one, two) = (NodeId::parse("one").unwrap(), NodeId::parse("two").unwrap());
    let at = Timestamp::from_millis;
    assert_eq!(store.try_acquire(&one, at(0), at(1_000)).await.unwrap(), Lease::Held);
    // Its renewal comes to nothing, because somebody else has the row for longer than it waits.
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let mut held = conn.begin().await.unwrap();
    sqlx::query("SELECT * FROM khala.sweep_lead FOR UPDATE").execute(&mut *held).await.unwrap();
    assert_eq!(store.try_acquire(&one, at(1), at(2_000)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    held.rollback().await.unwrap();
    let answer = other.try_acquire(&two, at(2), at(2_000)).await.unwrap();
    assert_eq!(answer, Lease::HeldBy { node: one, until: at(1_000) }, "it lives, and its time is not over");
}

#[tokio::test]
async fn asking_for_the_lead_is_given_up_like_everything_else() {
    let (url, _) = fresh().await;
    let proxy = Proxy::before(Cluster::shared().port());
    let through = url.replace(&format!(":{}/", Cluster::shared().port()), &format!(":{}/", proxy.port()));
    let options = PostgresOptions {
        connect_timeout: Duration::from_millis(300),
        statement_timeout: Duration::from_millis(300),
        ..PostgresOptions::default()
    };
    let store = PostgresStore::open_with(&through, options).await.unwrap();
    let (one, at) = (NodeId::parse("one").unwrap(), Timestamp::from_millis);
    assert_eq!(store.try_acquire(&one, at(0), at(1_000)).await.unwrap(), Lease::Held);
    proxy.silent();
    let asked =
        tokio::time::timeout(Duration::from_secs(10), store.try_acquire(&one, at(1), at(2_000))).await;
    assert_eq!(asked.expect("it ends").unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn commits_are_durable_also_when_the_servers_default_is_changed_later() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let url = cluster.database();
    let store = open(&url).await;
    let t = topic("t");
    written(store.append(&t, batch([1]), NOW).await.unwrap());
    let database = url.rsplit('/').next().unwrap();
    cluster.sql(
        database,
        "CREATE FUNCTION synced() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF current_setting(''synchronous_commit'') = ''off'' THEN RAISE ''not durable''; END IF; RETURN NEW; END';
         CREATE TRIGGER synced BEFORE INSERT ON khala.update FOR EACH ROW EXECUTE FUNCTION synced()",
    );
    cluster.sql(database, "ALTER SYSTEM SET synchronous_commit = off");
    cluster.sql(database, "SELECT pg_reload_conf()");
    for n in 2..20 {
        written(store.append(&t, batch([n]), NOW).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_standby_takes_no_appends_and_may_later() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let url = cluster.database();
    drop(open(&url).await);
    let standby = cluster.standby();
    let store = open(&standby.url(url.rsplit('/').next().unwrap())).await;
    let error = store.append(&topic("t"), batch([1]), NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("standby"), "{error}");
    standby.promote();
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
}

#[tokio::test]
async fn no_payload_and_no_password_is_in_what_is_logged() {
    let (url, _) = fresh().await;
    sql(&url, "ALTER TABLE khala.update ADD CONSTRAINT own CHECK (kind <> 'test')");
    let store = open(&url.replace("khala@", "khala:hunter2@")).await;
    assert!(!format!("{store:?}").contains("hunter2"), "{store:?}");
    let error = store.append(&topic("t"), batch([424_242]), NOW).await.unwrap_err();
    // As the writer logs it.
    assert!(!format!("{error} {error:?}").contains("424242"), "{error:?}");
}

#[tokio::test]
async fn who_leads_holds_up_no_vacuum_whatever_the_databases_default() {
    let (url, _) = fresh().await;
    let database = url.rsplit('/').next().unwrap();
    sql(&url, &format!("ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'"));
    let store = open(&url).await;
    let (one, at) = (NodeId::parse("one").unwrap(), Timestamp::from_millis);
    assert_eq!(store.try_acquire(&one, at(0), at(1_000)).await.unwrap(), Lease::Held);
    let held = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'
                AND backend_xmin IS NOT NULL AND datname = current_database()";
    assert_eq!(sql(&url, held), "0");
}

/// As with one that was promoted, or a synchronous standby that comes back: the answer to COMMIT is late, and not lost.
#[tokio::test]
async fn while_commits_hang_nobody_is_written_twice() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let url = cluster.database();
    let options =
        PostgresOptions { statement_timeout: Duration::from_millis(500), ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&url, options).await.unwrap();
    let topics = ["a", "b", "c"].map(topic);
    for topic in &topics {
        written(store.append(topic, batch([0]), NOW).await.unwrap());
    }
    let set = |names: &str| {
        cluster.sql("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        cluster.sql("postgres", "SELECT pg_reload_conf()");
    };
    // No such standby is there.
    set("nobody");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let appends = topics.iter().flat_map(|topic| (1..=2).map(|n| store.append(topic, batch([n]), NOW)));
    let appends = futures::future::join_all(appends);
    let back = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        set("");
    };
    soon(futures::future::join(appends, back)).await;
    for topic in &topics {
        let texts: Vec<String> =
            log(&store, topic).await.iter().map(|update| update.payload.as_str().to_owned()).collect();
        assert!(texts.len() <= 3, "{texts:?}");
    }
}

#[tokio::test]
async fn a_node_that_stands_still_amid_a_transaction_gives_its_topics_up() {
    let (url, other) = fresh().await;
    sql(
        &url,
        "CREATE FUNCTION rest() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
         CREATE TRIGGER rest AFTER INSERT ON khala.receipt EXECUTE FUNCTION rest()",
    );
    let proxy = Proxy::before(Cluster::shared().port());
    let through = url.replace(&format!(":{}/", Cluster::shared().port()), &format!(":{}/", proxy.port()));
    let options = PostgresOptions { lock_timeout: Duration::from_secs(2), ..PostgresOptions::default() };
    let stopped = PostgresStore::open_with(&through, options).await.unwrap();
    let t = topic("t");
    written(other.append(&t, batch([0]), NOW).await.unwrap());
    // The database has written and waits for the commit, which is never said.
    let append = tokio::spawn({
        let t = t.clone();
        async move { stopped.append(&t, batch([1]).with_dedup(DedupKey::parse("once").unwrap()), NOW).await }
    });
    let resting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    soon(async {
        while sql(&url, resting) == "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    proxy.silent();
    written(other.append(&t, batch([2]), NOW).await.unwrap());
    append.abort();
    let texts: Vec<_> = log(&other, &t).await.into_iter().map(|update| update.payload).collect();
    assert_eq!(texts.iter().map(khala_core::Payload::as_str).collect::<Vec<_>>(), ["0", "2"]);
}
