//! The fanout by LISTEN and NOTIFY: heads and revocations cross, and whatever happens to the connection that listens, what
//! was missed is found.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::future::join_all;
use khala_core::{
    Append, Khala, Topic, Watermark,
    auth::{Revocation, RevocationId, RevocationTarget, Revocations},
    fanout::Fanout,
    journal::Journal,
    update::DedupKey,
};
use khala_store_postgres::{ListenOptions, PostgresFanout, PostgresOptions, PostgresStore, append_in};
use khala_testing::{Cluster, Pgbouncer, Proxy};
use sqlx::{Connection as _, PgConnection, postgres::PgListener};

use crate::support::{NOW, batch, fresh, open, soon, sql, topic, written};

/// Waits until the fanout hears, or no longer does.
async fn until(fanout: &PostgresFanout, listens: bool) {
    soon(async {
        while fanout.listens() != listens {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn node(url: &str) -> (PostgresStore, PostgresFanout) {
    let store = open(url).await;
    let fanout = PostgresFanout::listen(&store, ListenOptions::default()).unwrap();
    until(&fanout, true).await;
    (store, fanout)
}

#[tokio::test]
async fn heads_and_revocations_cross() {
    let (url, store) = fresh().await;
    let ((_, here), (_, there)) = (node(&url).await, node(&url).await);
    let (mut t, mut revoked) =
        (there.watch(&topic("t")).await.unwrap(), there.watch_revoked().await.unwrap());
    let receipt = written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    here.announce(&topic("t"), receipt.cursor()).await.unwrap();
    assert_eq!(soon(t.moved()).await, receipt.cursor());
    here.announce_revoked(Watermark::new(7).unwrap()).await.unwrap();
    assert_eq!(soon(revoked.moved()).await.as_u64(), 7);
}

#[tokio::test]
async fn more_than_one_payload_takes_arrives_whole() {
    let (url, store) = fresh().await;
    let ((_, here), (_, there)) = (node(&url).await, node(&url).await);
    let topics: Vec<Topic> = (0..500).map(|n| topic(&format!("{n}:{}", "x".repeat(200)))).collect();
    let receipt = written(store.append(&topics[0], batch([1]), NOW).await.unwrap());
    let mut watches = Vec::new();
    for topic in &topics {
        watches.push(there.watch(topic).await.unwrap());
    }
    for announced in join_all(topics.iter().map(|topic| here.announce(topic, receipt.cursor()))).await {
        announced.unwrap();
    }
    for watch in &mut watches {
        assert_eq!(soon(watch.moved()).await, receipt.cursor());
    }
}

#[tokio::test]
async fn many_announcements_of_a_topic_are_few_statements() {
    let (url, store) = fresh().await;
    let (_, here) = node(&url).await;
    let head = written(store.append(&topic("t"), batch([1]), NOW).await.unwrap()).cursor();
    let listener = node(&url).await.1;
    let mut watch = listener.watch(&topic("t")).await.unwrap();
    let transactions = |url: &str| -> u64 { sql(url, "SELECT txid_current()").parse().unwrap() };
    let before = transactions(&url);
    for _ in 0..10_000 {
        here.announce(&topic("t"), head).await.unwrap();
    }
    soon(watch.moved()).await;
    // Whatever else the cluster does, every announcement by itself would be more.
    assert!(transactions(&url) - before < 5_000);
}

#[tokio::test]
async fn a_connection_that_goes_silent_is_found_and_delivery_goes_on_meanwhile() {
    let (url, store) = fresh().await;
    let proxy = Proxy::before(Cluster::shared().port());
    let through = url.replace(&format!(":{}/", Cluster::shared().port()), &format!(":{}/", proxy.port()));
    let options = ListenOptions {
        url: Some(through),
        heartbeat: Duration::from_millis(300),
        ..ListenOptions::default()
    };
    let fanout = PostgresFanout::listen(&store, options).unwrap();
    until(&fanout, true).await;
    let (t, other) = (topic("t"), open(&url).await);
    let mut watch = fanout.watch(&t).await.unwrap();
    let mut revoked = fanout.watch_revoked().await.unwrap();
    let teller = PostgresFanout::listen(&other, ListenOptions::default()).unwrap();
    type Break = (fn(&Proxy), bool);
    let breaks: [Break; 3] = [(Proxy::silent, true), (Proxy::refuse, true), (Proxy::cut, false)];
    // After a cut it listens again at once, and does not poll.
    for (broken, polls) in breaks {
        broken(&proxy);
        if polls {
            until(&fanout, false).await;
        }
        let receipt = written(other.append(&t, batch([1]), NOW).await.unwrap());
        teller.announce(&t, receipt.cursor()).await.unwrap();
        assert_eq!(soon(watch.moved()).await, receipt.cursor(), "found by polling");
        if polls {
            // Nobody told of it at all.
            let login = RevocationTarget::Sid(RevocationId::parse("s").unwrap());
            let newest = other.revoke(Revocation::new(login, NOW)).await.unwrap();
            while soon(revoked.moved()).await < newest {}
        }
        proxy.pass();
        until(&fanout, true).await;
        let receipt = written(other.append(&t, batch([1]), NOW).await.unwrap());
        teller.announce(&t, receipt.cursor()).await.unwrap();
        assert_eq!(soon(watch.moved()).await, receipt.cursor());
    }
}

#[tokio::test]
async fn what_was_announced_while_nobody_listened_is_found_once_somebody_does() {
    let (url, store) = fresh().await;
    let fanout = PostgresFanout::listen(
        &store,
        ListenOptions { poll_interval: Duration::from_secs(3_600), ..ListenOptions::default() },
    )
    .unwrap();
    until(&fanout, true).await;
    let mut watch = fanout.watch(&topic("t")).await.unwrap();
    let before: HashSet<String> = backends(&url);
    let receipt = written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
    // The backend that listens ends; nobody announces.
    sql(
        &url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE application_name = 'khala listen' AND datname = current_database()",
    );
    assert_eq!(soon(watch.moved()).await, receipt.cursor());
    assert!(!before.is_empty());
}

fn backends(url: &str) -> HashSet<String> {
    let pids = "SELECT pid FROM pg_stat_activity WHERE application_name = 'khala listen'
                AND datname = current_database()";
    sql(url, pids).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn listening_through_a_pooler_is_found_not_to_work() {
    let (url, _) = fresh().await;
    let pooler = Pgbouncer::start(Cluster::shared().port(), 20);
    let pooled = pooler.url(url.rsplit('/').next().unwrap());
    let options = PostgresOptions { pooler: true, ..PostgresOptions::default() };
    let store = PostgresStore::open_with(&pooled, options).await.unwrap();
    let heartbeat = Duration::from_millis(200);
    let deaf =
        PostgresFanout::listen(&store, ListenOptions { heartbeat, ..ListenOptions::default() }).unwrap();
    let hears = PostgresFanout::listen(
        &store,
        ListenOptions { heartbeat, url: Some(url.clone()), ..ListenOptions::default() },
    )
    .unwrap();
    let (mut one, mut other) =
        (deaf.watch(&topic("t")).await.unwrap(), hears.watch(&topic("t")).await.unwrap());
    until(&hears, true).await;
    // A notification that the pooler hands to the wrong client fails what that client does; a publisher tries again.
    let update = || batch([1]).with_dedup(DedupKey::parse("once").unwrap());
    let receipt = soon(async {
        loop {
            match store.append(&topic("t"), update(), NOW).await {
                Ok(Append::Written(receipt) | Append::Duplicate(receipt)) => break receipt,
                Err(error) if error.is_retryable() => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    hears.announce(&topic("t"), receipt.cursor()).await.unwrap();
    assert_eq!(soon(other.moved()).await, receipt.cursor());
    assert_eq!(soon(one.moved()).await, receipt.cursor(), "by polling");
    until(&deaf, false).await;
}

#[test]
fn no_password_is_in_what_debug_prints() {
    let options = ListenOptions {
        url: Some("postgres://khala:s3cret@db.example/khala".to_owned()),
        ..ListenOptions::default()
    };
    assert!(!format!("{options:?}").contains("s3cret"), "{options:?}");
}

/// A publisher that goes away once it has begun leaves nothing unannounced, whenever that is.
#[tokio::test]
async fn a_publish_that_nobody_waits_for_is_stored_and_announced() {
    let (url, store) = fresh().await;
    let ((_, here), (_, there)) = (node(&url).await, node(&url).await);
    let khala = Khala::builder(store).with_fanout(Arc::new(here)).build();
    let t = topic("t");
    let mut watch = there.watch(&t).await.unwrap();
    for patience in 0..60 {
        let publish = khala.publish(&t, batch([patience]));
        // It is polled once at least.
        let _ = tokio::time::timeout(Duration::from_micros(100 * patience), publish).await;
    }
    // By announcements alone: nobody polls.
    soon(async { while watch.moved().await.watermark.as_u64() < 60 {} }).await;
    let never = khala.publish(&t, batch([61]));
    drop(never);
    let last = written(khala.publish(&t, batch([62])).await.unwrap());
    assert_eq!(last.last.as_u64(), 61, "what was never begun is not stored");
}

/// Every role of a database may LISTEN: what is heard tells neither topics nor heads, whichever way an update came.
#[tokio::test]
async fn what_others_hear_names_no_topic_and_no_head() {
    let (url, store) = fresh().await;
    let (_, here) = node(&url).await;
    let mut eavesdropper = PgListener::connect(&url).await.unwrap();
    eavesdropper.listen("khala").await.unwrap();
    let secret = topic("org:acme:secret");
    let receipt = written(store.append(&secret, batch([1]), NOW).await.unwrap());
    here.announce(&secret, receipt.cursor()).await.unwrap();
    let sealed = soon(eavesdropper.recv()).await.unwrap();
    sql(&url, "SELECT khala.append('org:acme:secret', 'k', '1')");
    let marked = soon(eavesdropper.recv()).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let mut transaction = conn.begin().await.unwrap();
    append_in(&mut transaction, &secret, &batch([2]), NOW).await.unwrap();
    transaction.commit().await.unwrap();
    let again = soon(eavesdropper.recv()).await.unwrap();
    assert_eq!(marked.payload(), again.payload(), "a transaction tells it once, whoever appends");
    for heard in [sealed.payload(), marked.payload()] {
        let epoch = receipt.epoch.to_string();
        assert!(!heard.contains("acme") && !heard.contains(&epoch) && heard.len() > 30, "{heard}");
    }
}

/// What was not announced by a node is counted, and costs no look at the tables.
#[tokio::test]
async fn what_others_notify_is_not_believed() {
    let (url, store) = fresh().await;
    let (_, fanout) = node(&url).await;
    let t = topic("t");
    let mut watch = fanout.watch(&t).await.unwrap();
    let epoch = store.bounds(&t).await.unwrap().epoch;
    let statements = || -> u64 {
        let counted = "SELECT sum(xact_commit) FROM pg_stat_database WHERE datname = current_database()";
        sql(&url, counted).parse().unwrap()
    };
    let before = statements();
    for words in [
        format!("'u t {epoch} 9007199254740991'"),
        "'t t'".to_owned(),
        "'t ' || md5(g::text)".to_owned(),
        "'s ' || md5(g::text)".to_owned(),
    ] {
        sql(&url, &format!("SELECT pg_notify('khala', {words} || '') FROM generate_series(1, 5000) g"));
    }
    // Behind all of them, in their order.
    sql(&url, "SELECT khala.append('t', 'k', '1')");
    assert_eq!(soon(watch.moved()).await.watermark.as_u64(), 1, "and never the false head");
    assert!(statements() - before < 1_000, "no look at the tables for each");
}

/// The marks of topics are looked up now and then: nobody announces what came in between once more.
#[tokio::test]
async fn what_applications_append_just_after_a_topic_began_to_be_watched_is_heard() {
    let (url, _) = fresh().await;
    let (_, fanout) = node(&url).await;
    let append = |name: &str| sql(&url, &format!("SELECT khala.append('{name}', 'k', '1')"));
    for n in 0..5 {
        let mut watch = fanout.watch(&topic(&format!("t{n}"))).await.unwrap();
        append(&format!("t{n}"));
        assert_eq!(soon(watch.moved()).await.watermark.as_u64(), 1);
    }
}

/// Anybody who may connect to the database may NOTIFY.
#[tokio::test]
async fn a_false_head_silences_nobody() {
    let (url, store) = fresh().await;
    let (_, fanout) = node(&url).await;
    let t = topic("t");
    let mut watch = fanout.watch(&t).await.unwrap();
    let epoch = store.bounds(&t).await.unwrap().epoch;
    sql(&url, &format!("SELECT pg_notify('khala', 'u t {epoch} 9007199254740991')"));
    sql(&url, "SELECT khala.append('t', 'k', '1')");
    soon(watch.moved()).await;
}

/// The literal of an IPv6 address stands in brackets in a URL, and nowhere else.
#[tokio::test]
async fn a_server_is_reached_by_its_ipv6_address() {
    let settings = ["fsync=off", "full_page_writes=off", "listen_addresses=127.0.0.1,::1"];
    let cluster = tokio::task::spawn_blocking(move || Cluster::start_with(&settings)).await.unwrap();
    let url = cluster.database().replace("127.0.0.1", "[::1]");
    assert!(url.contains("@[::1]:"), "{url}");
    let (store, _listens) = node(&url).await;
    written(store.append(&topic("t"), batch([1]), NOW).await.unwrap());
}
