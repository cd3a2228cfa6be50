//! What nodes hear of each other.

use futures::StreamExt as _;
use khala_core::fanout::Fanout as _;
use khala_fanout_nats::{NatsFanout, NatsOptions};
use khala_testing::Nats;

use crate::{head, listens, node, options, topic, until, watermark, within};

#[tokio::test]
async fn a_head_that_one_node_announces_is_heard_on_all() {
    let nats = Nats::start();
    let (a, b) = (node(nats.port()).await, node(nats.port()).await);
    let orders = topic("shop.orders:7/eu-1_x");
    let (mut here, mut there) = (a.watch(&orders).await.unwrap(), b.watch(&orders).await.unwrap());
    a.announce(&orders, head(1, 5)).await.unwrap();
    assert_eq!(here.head(), Some(head(1, 5)), "at once");
    assert_eq!(within(here.moved()).await, head(1, 5));
    assert_eq!(within(there.moved()).await, head(1, 5));
}

#[tokio::test]
async fn it_is_a_level_and_another_epoch_replaces_it() {
    let nats = Nats::start();
    let (a, b) = (node(nats.port()).await, node(nats.port()).await);
    let topic = topic("t");
    let mut watch = b.watch(&topic).await.unwrap();
    for (epoch, number, is_news) in [(1, 5, true), (1, 3, false), (1, 6, true), (2, 1, true), (2, 2, true)] {
        a.announce(&topic, head(epoch, number)).await.unwrap();
        a.flush().await.unwrap();
        // What came late is told too where nothing further came with it: the one before might have been false.
        let wanted = is_news.then(|| head(epoch, number));
        while let Some(wanted) = wanted {
            let told = within(watch.moved()).await;
            if told == wanted {
                break;
            }
            assert_eq!(told, head(1, 3));
        }
    }
}

#[tokio::test]
async fn revocations_have_a_lane_of_their_own() {
    let nats = Nats::start();
    let (a, b) = (node(nats.port()).await, node(nats.port()).await);
    let (mut here, mut there) = (a.watch_revoked().await.unwrap(), b.watch_revoked().await.unwrap());
    a.announce_revoked(watermark(3)).await.unwrap();
    assert_eq!(within(here.moved()).await, watermark(3));
    assert_eq!(within(there.moved()).await, watermark(3));
    b.announce_revoked(watermark(4)).await.unwrap();
    assert_eq!(within(here.moved()).await, watermark(4));
}

#[tokio::test]
async fn whoever_watches_misses_nothing_that_is_announced_after() {
    let nats = Nats::start();
    let (a, b) = (node(nats.port()).await, node(nats.port()).await);
    for n in 1..=200 {
        let topic = topic(&format!("t{n}"));
        let mut watch = b.watch(&topic).await.unwrap();
        a.announce(&topic, head(1, n)).await.unwrap();
        assert_eq!(within(watch.moved()).await, head(1, n));
    }
}

#[tokio::test]
async fn a_node_hears_of_what_it_watches_only() {
    let nats = Nats::start();
    let a = node(nats.port()).await;
    let b = NatsFanout::connect(NatsOptions { name: "b".into(), ..options(nats.port()) }).await.unwrap();
    let watched = topic("watched");
    let mut watch = b.watch(&watched).await.unwrap();
    let (subjects, before) = listens(&nats, "b");
    assert_eq!(subjects, ["khala.head.watched", "khala.hello", "khala.revoked"]);
    for n in 1..=100 {
        a.announce(&topic(&format!("other-{n}")), head(1, 1)).await.unwrap();
    }
    a.flush().await.unwrap();
    a.announce(&watched, head(1, 1)).await.unwrap();
    within(watch.moved()).await;
    assert_eq!(listens(&nats, "b").1, before + 1);
}

#[tokio::test]
async fn however_many_watch_it_is_one_subscription_and_it_ends_with_the_last() {
    let nats = Nats::start();
    let b = NatsFanout::connect(NatsOptions { name: "b".into(), ..options(nats.port()) }).await.unwrap();
    let topic = topic("t");
    let heads =
        |nats: &Nats| listens(nats, "b").0.iter().filter(|subject| subject.contains(".head.")).count();
    let mut watches = Vec::new();
    for _ in 0..50 {
        watches.push(b.watch(&topic).await.unwrap());
    }
    assert_eq!(heads(&nats), 1);
    let mut last = watches.pop().unwrap();
    watches.clear();
    b.flush().await.unwrap();
    assert_eq!(heads(&nats), 1);
    let a = node(nats.port()).await;
    a.announce(&topic, head(1, 1)).await.unwrap();
    assert_eq!(within(last.moved()).await, head(1, 1));
    drop(last);
    until("the subscription ends", || heads(&nats) == 0).await;
    let mut again = b.watch(&topic).await.unwrap();
    assert_eq!(heads(&nats), 1);
    a.announce(&topic, head(1, 2)).await.unwrap();
    assert_eq!(within(again.moved()).await, head(1, 2));
}

#[tokio::test]
async fn many_announcements_at_once_are_few_messages() {
    let nats = Nats::start();
    let a = node(nats.port()).await;
    let raw = async_nats::connect(nats.url()).await.unwrap();
    let mut heard = raw.subscribe("khala.head.>").await.unwrap();
    raw.flush().await.unwrap();
    raw.request("khala.nobody", "".into()).await.unwrap_err(); // a round trip: the server knows of the subscription
    for number in 1..=1_000 {
        a.announce(&topic("busy"), head(7, number)).await.unwrap();
    }
    a.flush().await.unwrap();
    let mut messages = 0;
    loop {
        let message = within(heard.next()).await.unwrap();
        messages += 1;
        assert_eq!(message.subject.as_str(), "khala.head.busy");
        if &*message.payload == b"0000000000000007 1000" {
            break;
        }
    }
    assert!(messages <= 10, "{messages}");
}

#[tokio::test]
async fn what_is_flushed_outlives_its_node() {
    let nats = Nats::start();
    let b = node(nats.port()).await;
    let topic = topic("t");
    let mut watch = b.watch(&topic).await.unwrap();
    let a = node(nats.port()).await;
    a.announce(&topic, head(1, 1)).await.unwrap();
    a.flush().await.unwrap();
    drop(a);
    assert_eq!(within(watch.moved()).await, head(1, 1));
}

#[tokio::test]
async fn a_node_that_is_dropped_leaves() {
    let nats = Nats::start();
    let a = NatsFanout::connect(NatsOptions { name: "a".into(), ..options(nats.port()) }).await.unwrap();
    let watch = a.watch(&topic("t")).await.unwrap();
    assert!(!listens(&nats, "a").0.is_empty());
    drop(a);
    until("the connection ends", || listens(&nats, "a").0.is_empty()).await;
    drop(watch);
}

#[tokio::test]
async fn prefixes_keep_applications_apart() {
    let nats = Nats::start();
    let with =
        |prefix: &str| NatsFanout::connect(NatsOptions { prefix: prefix.into(), ..options(nats.port()) });
    let (a, b, other) =
        (with("one.app").await.unwrap(), with("one.app").await.unwrap(), with("two").await.unwrap());
    let topic = topic("t");
    let mut same = b.watch(&topic).await.unwrap();
    let apart = other.watch(&topic).await.unwrap();
    a.announce(&topic, head(1, 1)).await.unwrap();
    assert_eq!(within(same.moved()).await, head(1, 1));
    other.flush().await.unwrap();
    assert_eq!(apart.head(), None);
}

#[tokio::test]
async fn what_is_none_of_its_messages_is_passed_over() {
    let nats = Nats::start();
    let b = node(nats.port()).await;
    let topic = topic("t");
    let mut watch = b.watch(&topic).await.unwrap();
    let raw = async_nats::connect(nats.url()).await.unwrap();
    for subject in ["khala.head.t", "khala.revoked", "khala.hello"] {
        for text in ["", "nonsense", "0000000000000001", "0000000000000001 -4", "\u{0}"] {
            raw.publish(subject, text.into()).await.unwrap();
        }
    }
    raw.publish("khala.head.t", "0000000000000001 9".into()).await.unwrap();
    assert_eq!(within(watch.moved()).await, head(1, 9));
}

#[tokio::test]
async fn a_false_head_wakes_and_silences_nobody() {
    let nats = Nats::start();
    let (a, b) = (node(nats.port()).await, node(nats.port()).await);
    let topic = topic("t");
    let mut watch = b.watch(&topic).await.unwrap();
    let mut revoked = b.watch_revoked().await.unwrap();
    let raw = async_nats::connect(nats.url()).await.unwrap();
    raw.publish("khala.head.t", "0000000000000001 9007199254740991".into()).await.unwrap();
    raw.publish("khala.revoked", "9007199254740991".into()).await.unwrap();
    within(watch.moved()).await;
    within(revoked.moved()).await;
    a.announce_revoked(watermark(1)).await.unwrap();
    within(revoked.moved()).await;
    a.announce(&topic, head(1, 1)).await.unwrap();
    within(watch.moved()).await;
}
