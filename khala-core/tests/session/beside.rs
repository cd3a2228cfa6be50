//! History beside appends: those who replay rest while somebody appends, everybody is answered at once, what is new goes
//! its way, and with nobody appending nobody rests.

use std::{num::NonZeroU32, time::Duration};

use futures::FutureExt as _;
use khala_core::{EventPage, Start, admission::Rate, replay::ReplayOptions, tail::TailOptions};
use serde_json::json;

use crate::{
    guards::Ledger,
    host::{HOUR, Host, seqs},
};

/// A server whose tail holds next to nothing, with a pace of ten pages a second and two at once.
fn host() -> Host {
    let rate = |number| NonZeroU32::new(number).unwrap();
    let pace = ReplayOptions {
        rate_while_appending: Some(Rate::new(rate(10), rate(2))),
        ..ReplayOptions::default()
    };
    let tail = TailOptions { topic_bytes: 1, ..TailOptions::default() };
    let host = Host::built(1_000, Ledger::default(), |khala| khala.with_tail(tail).with_replays(pace));
    for _ in 0..10 {
        host.publish("t", 1_000);
    }
    // Until it is old.
    host.clock.pass(Duration::from_secs(11));
    host
}

#[test]
fn with_nobody_appending_nobody_rests() {
    let host = host();
    let sent = host.connect(HOUR).join("t", &json!({"from": "floor"}));
    assert_eq!(seqs(&sent).len(), 10_000);
}

#[test]
fn beside_appends_history_comes_at_the_pace_and_the_answer_at_once() {
    let host = host();
    host.publish("other", 1);
    let mut peers: Vec<_> = (0..3).map(|_| host.connect(HOUR)).collect();
    let mut pages: usize = 0;
    for peer in &mut peers {
        let sent = peer.join("t", &json!({"from": "floor"}));
        assert_eq!(sent[0][4]["status"], "ok", "the answer does not rest");
        pages += seqs(&sent).len() / 200;
    }
    assert!((3..=6).contains(&pages), "the first page of each, and what may go on at once: {pages}");
    let mut live = host.connect(HOUR);
    live.join("other", &json!({}));
    for _ in 0..100 {
        host.publish("other", 1);
        host.clock.pass(Duration::from_millis(20));
        assert_eq!(seqs(&live.sent()).len(), 1, "what is new rests never");
        pages += peers.iter_mut().map(|peer| seqs(&peer.sent()).len() / 200).sum::<usize>();
    }
    assert!((18..=30).contains(&pages), "two seconds at ten a second: {pages}");
    // Nobody appends any more.
    host.clock.pass(Duration::from_millis(200));
    pages += peers.iter_mut().map(|peer| seqs(&peer.sent()).len() / 200).sum::<usize>();
    assert_eq!(pages, 150);
}

#[test]
fn a_crowd_that_is_a_little_late_for_what_is_published_does_not_rest() {
    let host = host();
    let mut late: Vec<_> = (0..20).map(|_| host.connect(HOUR)).collect();
    for peer in &mut late {
        peer.join("t", &json!({}));
        peer.take(0);
    }
    for _ in 0..20 {
        host.publish("t", 1_000);
    }
    for peer in &mut late {
        peer.take(usize::MAX);
        peer.sent();
    }
    // A read of a thousand updates takes one place, and all share what it brings.
    let mut rounds = 0;
    while host.khala.stats().counters().behind > 0 {
        rounds += 1;
        host.publish("other", 1);
        host.clock.pass(Duration::from_millis(100));
        late.iter_mut().for_each(|peer| drop(peer.sent()));
    }
    assert!(rounds <= 60, "{rounds} tenths of a second for 20 times 20,000 updates at 10 pages a second");
}

#[test]
fn what_is_new_of_a_topic_that_was_quiet_for_long_does_not_rest() {
    let host = host();
    let mut live = host.connect(HOUR);
    live.join("quiet", &json!({}));
    let mut replays: Vec<_> = (0..50).map(|_| host.connect(HOUR)).collect();
    // Until the tail has forgotten it.
    for _ in 0..300 {
        host.clock.pass(Duration::from_millis(500));
        live.beat();
        live.sent();
    }
    host.publish("other", 1);
    replays.iter_mut().for_each(|peer| drop(peer.join("t", &json!({"from": "floor"}))));
    host.publish("quiet", 1);
    assert_eq!(seqs(&live.sent()), [1]);
}

#[test]
fn a_subscription_in_the_process_rests_too() {
    let host = host();
    let topic = host.khala.topic("t").unwrap();
    let mut subscription = topic.subscribe(Start::floor()).now_or_never().unwrap().unwrap().pages();
    host.publish("other", 1);
    let mut pages = 0;
    while let Some(delivery) = subscription.next().now_or_never() {
        assert!(matches!(delivery.unwrap().unwrap(), EventPage::Updates(_)));
        pages += 1;
    }
    assert!((1..=3).contains(&pages), "{pages}");
    host.clock.pass(Duration::from_millis(101));
    while let Some(Some(Ok(EventPage::Updates(_)))) = subscription.next().now_or_never() {
        pages += 1;
    }
    assert_eq!(pages, 50);
}
