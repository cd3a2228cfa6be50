//! Readers that lag: they fall behind the tail and come back to it on the same connection, are evicted by rule only,
//! and read history once for all who replay it.

use std::{num::NonZeroU32, sync::atomic::Ordering, time::Duration};

use futures::FutureExt as _;
use khala_core::auth::VerifiedClaims;
use khala_core::journal::Journal as _;
use khala_core::{
    Cursor, Grant, Watermark,
    admission::Rate,
    auth::Access,
    class::{Classes, Tier, TopicClass, TopicPattern},
    connection::Ended,
    journal::Keep,
    replay::ReplayOptions,
    session::SessionOptions,
    stats::TopicIncident,
    tail::TailOptions,
    wire::Close,
};
use serde_json::{Value, json};

use crate::{
    guards::Ledger,
    host::{HOUR, Host, Peer, seconds, seqs, topic},
};

fn class(name: &str, pattern: &str) -> TopicClass {
    TopicClass {
        replay_budget: None,
        ..TopicClass::new(name, TopicPattern::parse(pattern).unwrap()).with_read([Access::Read.scope()])
    }
}

/// A server whose tail holds next to nothing.
fn forgetful() -> Host {
    let tail = TailOptions { topic_bytes: 1, total_bytes: 1 << 20, ..TailOptions::default() };
    let classes = Classes::new(vec![class("all", "**")]).unwrap();
    // Time stands still while these publish and replay.
    let replays = ReplayOptions { rate_while_appending: None, ..ReplayOptions::default() };
    Host::built(200, Ledger::default(), |khala| {
        khala.with_tail(tail).with_classes(classes).with_replays(replays)
    })
}

fn cursor(host: &Host, name: &str, watermark: u64) -> Cursor {
    let bounds = host.store.journal().bounds(&topic(name)).now_or_never().unwrap().unwrap();
    Cursor::new(bounds.epoch, Watermark::new(watermark).unwrap())
}

fn after(cursor: Cursor) -> Value {
    json!({"after": cursor.watermark, "epoch": cursor.epoch})
}

fn last(sent: &[Value]) -> Option<u64> {
    seqs(sent).last().copied()
}

#[test]
fn a_reader_that_fell_behind_comes_back_on_the_same_connection() {
    let host = forgetful();
    let mut quick = host.connect(HOUR);
    let mut slow = host.connect(HOUR);
    quick.join("t", &json!({}));
    slow.join("t", &json!({}));
    slow.take(0);
    for _ in 0..10 {
        host.publish("t", 200);
        slow.task.run();
        assert_eq!(seqs(&quick.sent()).len(), 200);
    }
    let totals = || host.khala.stats().counters();
    assert_eq!((totals().behind, totals().demotions), (0, 0), "it holds a page and asks for nothing");
    slow.take(2);
    let some = slow.sent();
    assert_eq!(totals().demotions, 1);
    assert_eq!(totals().behind, 1);
    slow.take(usize::MAX);
    let rest = slow.sent();
    let all: Vec<_> = [some, rest].iter().flat_map(|sent| seqs(sent)).collect();
    assert_eq!(all, (1..=2_000).collect::<Vec<_>>(), "without a hole, on the same connection");
    assert_eq!((totals().behind, totals().demotions, totals().promotions), (0, 1, 1));
    host.publish("t", 1);
    assert_eq!(seqs(&slow.sent()), [2_001]);
    assert_eq!(totals().slow_evictions, 0);
}

#[test]
fn who_leaves_behind_the_tail_is_not_counted_any_more() {
    let host = forgetful();
    for end in ["leave", "gone"] {
        host.publish("t", 1_000);
        let mut peer = host.connect(HOUR);
        peer.take(2);
        peer.join("t", &json!({"from": "floor"}));
        assert_eq!(host.khala.stats().counters().behind, 1);
        if end == "leave" {
            peer.say("t", "phx_leave", &json!({}));
            peer.take(usize::MAX);
            peer.sent();
        }
        drop(peer);
        assert_eq!(host.khala.stats().counters().behind, 0, "{end}");
    }
}

#[test]
fn history_is_read_once_for_all_who_replay_it() {
    let host = forgetful();
    host.publish("t", 1_000);
    host.publish("t", 1_000);
    // Somebody follows, so that the tail knows the end.
    let mut live = host.connect(HOUR);
    live.join("t", &json!({}));
    let reads = |joins: &[u64]| {
        let before = host.store.reads();
        for watermark in joins {
            let mut peer = host.connect(HOUR);
            let sent = peer.join("t", &after(cursor(&host, "t", *watermark)));
            assert_eq!(seqs(&sent), (watermark + 1..=2_000).collect::<Vec<_>>());
        }
        host.store.reads() - before
    };
    assert_eq!(reads(&[1_000]), 5, "five pages of 200");
    assert_eq!(reads(&[1_000; 50]), 0);
    assert_eq!(reads(&[1_050, 1_050, 1_399]), 0, "what is left of the pages of others");
}

#[test]
fn history_that_was_trimmed_is_not_handed_out_from_memory() {
    let host = forgetful();
    host.publish("t", 1_000);
    host.publish("t", 1_000);
    let start = cursor(&host, "t", 1_000);
    let mut peer = host.connect(HOUR);
    assert_eq!(last(&peer.join("t", &after(start))), Some(2_000));
    let keep = Keep { updates: Some(900), ..Keep::everything() };
    host.khala.journal().trim(&topic("t"), keep, host.khala.now()).now_or_never().unwrap().unwrap();
    let refused = host.connect(HOUR).join("t", &after(start));
    assert_eq!(refused[0][4]["response"]["reason_codes"], json!(["retention_floor_breach"]), "{refused:?}");
}

#[test]
fn the_strictest_class_that_is_followed_says_how_long_a_client_may_take_nothing() {
    let classes = vec![
        TopicClass { stall_timeout: Some(seconds(5)), ..class("strict", "strict:**") },
        TopicClass { stall_timeout: Some(seconds(300)), ..class("patient", "patient:**") },
        class("rest", "**"),
    ];
    let classes = Classes::new(classes).unwrap();
    for (topics, limit, named) in
        [(["a", "strict:a"], 5, "strict"), (["a", "b"], 30, "none"), (["a", "patient:a"], 30, "none")]
    {
        let mut host = Host::built(200, Ledger::default(), |khala| khala.with_classes(classes.clone()));
        let mut peer = host.connect(HOUR);
        for name in topics {
            peer.join(name, &json!({}));
        }
        peer.take(0);
        host.publish("a", 1);
        peer.task.run();
        host.pass(seconds(limit - 1), &mut [&mut peer]);
        assert_eq!(peer.task.done, None, "{named}");
        // And it has a moment to learn why.
        host.pass(seconds(4), &mut [&mut peer]);
        assert_eq!(peer.task.done, Some(Ended::Closed(Close::SlowConsumer)), "{named}");
        assert_eq!(host.khala.stats().counters().slow_evictions, 1);
        let incidents = host.khala.stats().incidents(&topic("a"));
        assert_eq!(incidents.last.map(|(last, _)| last), Some(TopicIncident::SlowConsumerEvicted));
    }
}

#[test]
fn while_all_hold_too_much_those_who_take_nothing_are_evicted_soon_and_the_others_are_not() {
    let options = SessionOptions { outbox_bytes: Some(10_000), ..SessionOptions::default() };
    let mut host = Host::with(200, options, Ledger::default());
    let mut stuck: Vec<Peer> = (0..3).map(|_| host.connect(HOUR)).collect();
    let mut slow = host.connect(HOUR);
    for peer in stuck.iter_mut().chain([&mut slow]) {
        peer.join("t", &json!({}));
        peer.take(0);
    }
    host.publish("t", 20);
    for peer in stuck.iter_mut().chain([&mut slow]) {
        peer.task.run();
    }
    let held = host.khala.stats().counters().outbox_bytes;
    let worst = host.khala.connections().list(2.try_into().unwrap());
    assert!(worst.len() == 2 && worst.iter().all(|one| one.held_bytes > 1_000 && one.channels == 1));
    assert!((4 * 1_000..10_000).contains(&held), "{held} bytes are counted");
    host.pass(seconds(3), &mut stuck.iter_mut().collect::<Vec<_>>());
    assert!(stuck.iter().all(|peer| peer.task.done.is_none()), "within bounds the limit is 30 s");
    assert_eq!(host.khala.connections().list(1.try_into().unwrap())[0].stalled_for, seconds(3));

    // More of them come, and now it is too much. One of the old ones takes a byte now and then.
    let mut more: Vec<Peer> = (0..8).map(|_| host.connect(HOUR)).collect();
    for peer in &mut more {
        peer.take(1);
        peer.join("t", &json!({"from": "floor"}));
    }
    assert!(host.khala.stats().counters().outbox_bytes > 10_000);
    for _ in 0..14 {
        slow.progress.add(1);
        let mut all: Vec<&mut Peer> = stuck.iter_mut().chain(&mut more).chain([&mut slow]).collect();
        host.pass(Duration::from_millis(500), &mut all);
    }
    let evicted = stuck.iter().chain(&more).filter(|peer| peer.task.done.is_some()).count();
    assert!(evicted > 0, "somebody made room");
    assert!(host.khala.stats().counters().outbox_bytes <= 10_000);
    assert!(evicted < 11, "and no more of them than it took");
    assert_eq!(slow.task.done, None, "who makes progress is never evicted");
}

#[test]
fn a_busy_topic_delays_a_quiet_one_on_the_same_connection_by_a_page() {
    let host = forgetful();
    host.publish("busy", 1_000);
    host.publish("busy", 1_000);
    let mut peer = host.connect(HOUR);
    peer.join("quiet", &json!({}));
    // Its socket takes a frame at a time.
    peer.take(1);
    peer.join("busy", &json!({"from": "floor"}));
    host.publish("quiet", 1);
    let mut before = 0;
    loop {
        peer.take(1);
        let sent = peer.sent();
        assert_eq!(sent.len(), 1, "there is always something to send");
        if sent[0][2] == "quiet" {
            break;
        }
        before += 1;
    }
    assert!(before <= 3, "{before} pages of the busy topic came first");
}

#[test]
fn a_replay_that_is_put_off_is_told_when_to_come_back_and_the_head_never_is() {
    let one = NonZeroU32::MIN;
    let replays = ReplayOptions { rate: Some(Rate::new(one, one)), ..ReplayOptions::default() };
    let classes = Classes::new(vec![class("all", "**")]).unwrap();
    let tail = TailOptions { topic_bytes: 1, ..TailOptions::default() };
    let mut host = Host::built(200, Ledger::default(), |khala| {
        khala.with_replays(replays).with_classes(classes).with_tail(tail)
    });
    for _ in 0..4 {
        host.publish("t", 1_000);
    }
    let behind = after(cursor(&host, "t", 3_000));
    let joined = |peer: &mut Peer, request: &Value| peer.join("t", request).remove(0)[4].clone();
    assert_eq!(joined(&mut host.connect(HOUR), &behind)["status"], "ok");

    let grant = Grant::from_verified(VerifiedClaims::new(
        "other",
        [Access::Read.scope()],
        host.khala.now().plus(HOUR),
    ));
    let mut other = host.admit(grant);
    let far = after(cursor(&host, "t", 1_000));
    let refused = joined(&mut other, &far);
    assert_eq!(refused["response"]["code"], "replay_deferred", "{refused}");
    let wait = refused["response"]["retry_after_ms"].as_u64().unwrap();
    assert!((4_000..=6_250).contains(&wait), "five pages at one a second, and a bit: {wait}");
    for fresh in [after(cursor(&host, "t", 4_000)), json!({}), behind] {
        assert_eq!(joined(&mut host.connect(HOUR), &fresh)["status"], "ok", "{fresh} costs nothing");
    }
    host.pass(Duration::from_millis(wait + 500), &mut [&mut other]);
    assert_eq!(joined(&mut other, &far)["status"], "ok");
    let incidents = host.khala.stats().incidents(&topic("t"));
    assert_eq!((incidents.replay_deferred, host.khala.stats().counters().replays_deferred), (1, 1));
}

#[test]
fn a_cursor_over_the_budget_costs_no_read_of_the_log() {
    let all = TopicClass { tier: Tier::Cold, replay_budget: Some(100), ..class("all", "**") };
    let classes = Classes::new(vec![all]).unwrap();
    let host = Host::built(200, Ledger::default(), |khala| khala.with_classes(classes));
    host.publish("t", 500);
    let reads = host.store.reads();
    for _ in 0..20 {
        let answer = host.connect(HOUR).join("t", &after(cursor(&host, "t", 399)));
        let stale = &answer[0][4]["response"];
        assert_eq!(stale["reason_codes"], json!(["replay_budget_exceeded"]), "{stale}");
        assert_eq!((&stale["replay_lag"], &stale["replay_budget_events"]), (&json!(101), &json!(100)));
        assert_eq!(stale["qos_tier"], "cold");
    }
    assert_eq!(host.store.reads(), reads);
    assert_eq!(host.store.bounds.load(Ordering::Relaxed), 1, "shared by all of them");
    let totals = host.khala.stats().counters();
    assert_eq!((totals.stale_cursors, totals.stale_loops), (20, 19), "the same holder again and again");
    let good = host.connect(HOUR).join("t", &after(cursor(&host, "t", 400)));
    assert_eq!(seqs(&good), (401..=500).collect::<Vec<_>>());
}

#[test]
fn a_payload_over_the_inline_bound_stays_behind() {
    let classes = Classes::new(vec![TopicClass { inline_bytes: Some(1), ..class("all", "**") }]).unwrap();
    let host = Host::built(200, Ledger::default(), |khala| khala.with_classes(classes));
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    host.publish("t", 12);
    let sent = peer.sent();
    let updates = |sent: &[Value]| -> Vec<Value> {
        sent.iter().flat_map(|frame| frame[4]["updates"].as_array().unwrap().clone()).collect()
    };
    let updates = updates(&sent);
    assert_eq!((&updates[9]["payload"], updates[9].get("hydration_required")), (&json!(9), None));
    assert_eq!((&updates[10]["payload"], &updates[10]["hydration_required"]), (&json!(null), &json!(true)));
    assert_eq!(updates.len(), 12, "the log is the same either way");
}

#[test]
fn each_channel_that_is_behind_is_counted_once() {
    let host = forgetful();
    for _ in 0..3 {
        host.publish("t", 1_000);
    }
    let mut peers: Vec<Peer> = (0..3).map(|_| host.connect(HOUR)).collect();
    for peer in &mut peers {
        peer.take(2);
        peer.join("t", &json!({"from": "floor"}));
    }
    let behind = || host.khala.stats().counters().behind;
    assert_eq!(behind(), 3);
    // One of them reads on to the head; the others stay where they are.
    peers[0].take(usize::MAX);
    assert_eq!(last(&peers[0].sent()), Some(3_000));
    assert_eq!(host.khala.stats().counters().promotions, 1);
    assert_eq!(behind(), 2, "two are still behind");
}

/// A join's request from a cursor that says when its last update was published.
fn says(cursor: Cursor, published_at: u64) -> Value {
    json!({"after": cursor.watermark, "epoch": cursor.epoch, "published_at": published_at})
}

#[test]
fn a_replay_that_is_put_off_reads_nothing_whatever_its_cursor_says() {
    let one = NonZeroU32::MIN;
    let replays = ReplayOptions { rate: Some(Rate::new(one, one)), ..ReplayOptions::default() };
    let classes = Classes::new(vec![class("all", "**")]).unwrap();
    let tail = TailOptions { topic_bytes: 1, ..TailOptions::default() };
    let host = Host::built(200, Ledger::default(), |khala| {
        khala.with_replays(replays).with_classes(classes).with_tail(tail)
    });
    (0..4).for_each(|_| host.publish("t", 1_000));
    host.connect(HOUR).join("t", &after(cursor(&host, "t", 3_000)));
    let grant = Grant::from_verified(VerifiedClaims::new(
        "other",
        [Access::Read.scope()],
        host.khala.now().plus(HOUR),
    ));
    let before = host.store.reads();
    for watermark in 100..120 {
        let request = says(cursor(&host, "t", watermark), 7);
        let refused = host.admit(grant.clone()).join("t", &request).remove(0)[4].clone();
        assert_eq!(refused["response"]["code"], "replay_deferred", "{refused}");
    }
    assert_eq!(host.store.reads(), before);
}

#[test]
fn what_cannot_be_told_of_a_cursor_is_not_read_and_what_was_told_is_remembered() {
    let host = forgetful();
    (0..3).for_each(|_| host.publish("t", 1_000));
    let now = host.khala.now().as_millis();
    let cursors = [1_000, 1_500, 2_000].map(|watermark| says(cursor(&host, "t", watermark), now));
    let join_all = || {
        let before = host.store.reads();
        for request in &cursors {
            assert_eq!(host.connect(HOUR).join("t", request)[0][4]["status"], "ok");
        }
        host.store.reads() - before
    };
    assert!(join_all() >= 3);
    assert_eq!(join_all(), 0, "which updates these are, and what follows them, was read");
    let other = says(cursor(&host, "t", 1_500), now - 1);
    assert_eq!(
        host.connect(HOUR).join("t", &other)[0][4]["response"]["reason_codes"],
        json!(["epoch_mismatch"])
    );
    assert_eq!(join_all(), 0);

    // All of it is trimmed: the last update of a cursor at the head is gone.
    let keep = Keep { updates: Some(0), ..Keep::everything() };
    host.khala.journal().trim(&topic("t"), keep, host.khala.now()).now_or_never().unwrap().unwrap();
    let before = host.store.reads();
    for _ in 0..20 {
        let answer = host.connect(HOUR).join("t", &says(cursor(&host, "t", 3_000), now));
        assert_eq!(answer[0][4]["status"], "ok");
    }
    assert_eq!(host.store.reads(), before);
}
