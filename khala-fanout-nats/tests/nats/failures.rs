//! What fails between nodes, and how they find together again, by themselves.

use std::time::Duration;

use khala_core::{ErrorKind, fanout::Fanout as _};
use khala_fanout_nats::{NatsFanout, NatsOptions};
use khala_testing::{Nats, Proxy};

use crate::{head, node, options, topic, until, watermark, within};

#[tokio::test]
async fn a_node_starts_without_its_nats_and_catches_up() {
    let nats = Nats::start();
    nats.kill();
    let a = within(NatsFanout::connect(options(nats.port()))).await.unwrap();
    let b = within(NatsFanout::connect(options(nats.port()))).await.unwrap();
    let state = a.state();
    assert!(!state.connected && state.fault.as_ref().unwrap().contains("refused"), "{state:?}");

    let topic = topic("t");
    let mut here = within(a.watch(&topic)).await.unwrap();
    let mut there = within(b.watch(&topic)).await.unwrap();
    let error = a.announce(&topic, head(1, 4)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true));
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(within(here.moved()).await, head(1, 4), "this process needs no NATS");
    a.announce_revoked(watermark(1)).await.unwrap_err();
    a.flush().await.unwrap_err();

    nats.restart();
    assert_eq!(within(there.moved()).await, head(1, 4), "what waited goes out");
    let revoked = b.watch_revoked().await.unwrap();
    until("and so does this", || revoked.head() == Some(watermark(1))).await;
    within(a.connected()).await;
    let state = a.state();
    assert_eq!((state.connected, state.fault, state.reconnects), (true, None, 0));
}

#[tokio::test]
async fn nodes_outlive_a_server_that_is_killed() {
    let nats = Nats::start();
    let (a, b) = (node(nats.port()).await, node(nats.port()).await);
    let topic = topic("t");
    let mut watch = b.watch(&topic).await.unwrap();
    for round in 1..=3 {
        nats.kill();
        until("both notice", || !a.is_connected() && !b.is_connected()).await;
        a.announce(&topic, head(1, round * 10)).await.unwrap_err();
        nats.restart();
        assert_eq!(within(watch.moved()).await, head(1, round * 10), "said while it was away");
        within(a.connected()).await;
        within(b.connected()).await;
        a.announce(&topic, head(1, round * 10 + 1)).await.unwrap();
        assert_eq!(within(watch.moved()).await, head(1, round * 10 + 1), "and afterwards");
        assert_eq!((a.state().reconnects, b.state().reconnects), (round, round));
    }
}

#[tokio::test]
async fn a_node_that_was_away_is_told_what_it_missed() {
    let nats = Nats::start();
    let proxy = Proxy::before(nats.port());
    let (a, b) = (node(nats.port()).await, node(proxy.port()).await);
    let topic = topic("t");
    let mut watch = b.watch(&topic).await.unwrap();
    let mut revoked = b.watch_revoked().await.unwrap();
    proxy.refuse();
    until("it is away", || !b.is_connected()).await;
    a.announce(&topic, head(1, 7)).await.unwrap();
    a.announce_revoked(watermark(2)).await.unwrap();
    a.flush().await.unwrap();
    proxy.pass();
    assert_eq!(within(watch.moved()).await, head(1, 7));
    assert_eq!(within(revoked.moved()).await, watermark(2));
}

#[tokio::test]
async fn a_connection_that_died_without_a_word_is_noticed_and_what_it_swallowed_is_said_again() {
    let nats = Nats::start();
    let proxy = Proxy::before(nats.port());
    let options = NatsOptions {
        ping_interval: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(500),
        ..options(proxy.port())
    };
    let a = NatsFanout::connect(options).await.unwrap();
    within(a.connected()).await;
    let b = node(nats.port()).await;
    let topic = topic("t");
    let mut watch = b.watch(&topic).await.unwrap();

    proxy.silent();
    a.announce(&topic, head(1, 8)).await.unwrap();
    let elsewhere = crate::topic("elsewhere");
    let mut other = within(a.watch(&elsewhere)).await.unwrap();
    until("pings find it", || !a.is_connected()).await;
    // And another, that is accepted by nobody at the other end.
    until("it is told why", || a.state().fault.is_some_and(|fault| fault.contains("timed out"))).await;
    assert_eq!(watch.head(), None);

    proxy.cut();
    proxy.pass();
    assert_eq!(within(watch.moved()).await, head(1, 8));
    a.flush().await.unwrap();
    b.announce(&elsewhere, head(1, 1)).await.unwrap();
    assert_eq!(within(other.moved()).await, head(1, 1), "watched while it was dead");
}

#[tokio::test]
async fn a_silence_that_ends_soon_harms_nothing() {
    let nats = Nats::start();
    let proxy = Proxy::before(nats.port());
    let a =
        NatsFanout::connect(NatsOptions { ping_interval: Duration::from_secs(30), ..options(proxy.port()) })
            .await
            .unwrap();
    within(a.connected()).await;
    let b = node(nats.port()).await;
    let topic = topic("t");
    let mut watch = b.watch(&topic).await.unwrap();
    proxy.silent();
    a.announce(&topic, head(1, 1)).await.unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(100), a.flush()).await;
    assert!(silence.is_err() && watch.head().is_none());
    proxy.pass();
    within(a.flush()).await.unwrap();
    assert_eq!(within(watch.moved()).await, head(1, 1));
    assert_eq!(a.state().reconnects, 0);
}

#[tokio::test]
async fn with_several_servers_named_one_that_answers_is_enough() {
    let (gone, there) = (Nats::start(), Nats::start());
    gone.kill();
    let servers = [gone.url(), there.url()];
    let a = NatsFanout::connect(NatsOptions { servers: servers.to_vec(), ..options(0) }).await.unwrap();
    within(a.connected()).await;
    a.flush().await.unwrap();
}

#[tokio::test]
async fn thousands_of_watches_while_it_is_away_wait_for_nothing_and_are_heard_later() {
    let nats = Nats::start();
    let (a, b) = (node(nats.port()).await, node(nats.port()).await);
    nats.kill();
    until("both notice", || !a.is_connected() && !b.is_connected()).await;
    let topics: Vec<_> = (0..5_000).map(|n| topic(&format!("t{n}"))).collect();
    let mut watches = Vec::new();
    for topic in &topics {
        watches.push(within(b.watch(topic)).await.unwrap());
        a.announce(topic, head(1, 1)).await.unwrap_err();
    }
    nats.restart();
    for watch in &mut watches {
        assert_eq!(within(watch.moved()).await, head(1, 1));
    }
}
