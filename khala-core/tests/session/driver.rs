//! The driver over a transport in memory.

use std::time::Duration;

use futures::FutureExt as _;
use khala_core::{
    Cursor, Watermark,
    connection::{Ended, Received},
    journal::Journal as _,
    session::SessionOptions,
    wire::Close,
};
use serde_json::json;

use crate::{
    guards::Mood,
    host::{HOUR, Host, seconds, seqs, topic},
};

#[test]
fn what_is_published_comes_with_one_flush() {
    let host = Host::new(1);
    let mut peer = host.connect(HOUR);
    assert_eq!(peer.join("t", &json!({})).len(), 1);
    host.publish("t", 5);
    let before = peer.network.lock().unwrap().flushes;
    let sent = peer.sent();
    assert_eq!((seqs(&sent), sent.len()), (vec![1, 2, 3, 4, 5], 1));
    let flushes = peer.network.lock().unwrap().flushes - before;
    assert_eq!(flushes, 1, "the batch is one frame");
    let mut other = host.connect(HOUR);
    let sent = other.join("t", &json!({"from": "floor"}));
    assert_eq!(seqs(&sent), [1, 2, 3, 4, 5]);
    assert!(other.network.lock().unwrap().flushes <= 3, "what is in memory goes out with one flush");
}

#[test]
fn after_a_false_head_announcements_are_heard_as_before_it() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    let epoch = host.store.journal().bounds(&topic("t")).now_or_never().unwrap().unwrap().epoch;
    for n in 1..=4 {
        host.fanout.raise(&topic("t"), Cursor::new(epoch, Watermark::new((1 << 53) - 1).unwrap()));
        // With the second look at what was doubted.
        host.pass(SessionOptions::default().retry_after, &mut [&mut peer]);
        assert!(seqs(&peer.sent()).is_empty());
        host.publish("t", 1);
        assert_eq!(seqs(&peer.sent()), [n], "at once");
    }
}

#[test]
fn a_stalled_transport_is_evicted_only_without_progress() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    peer.take(0);
    host.publish("t", 1);
    peer.task.run();
    // It takes a byte now and then, for five minutes.
    for _ in 0..20 {
        host.pass(seconds(15), &mut [&mut peer]);
        peer.progress.add(1);
    }
    assert_eq!(peer.task.done, None);
    host.pass(seconds(61), &mut [&mut peer]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::SlowConsumer)));
}

#[test]
fn a_stall_is_not_taken_for_less_than_its_limit() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    peer.take(0);
    host.publish("t", 1);
    peer.task.run();
    host.pass(seconds(29), &mut [&mut peer]);
    assert_eq!(peer.task.done, None);
    peer.take(usize::MAX);
    assert_eq!(seqs(&peer.sent()), [1]);
}

#[test]
fn a_token_expires_while_the_transport_is_blocked() {
    let mut host = Host::new(200);
    let mut peer = host.connect(seconds(10));
    peer.join("t", &json!({}));
    peer.take(0);
    host.publish("t", 1);
    peer.task.run();
    host.pass(Duration::from_millis(9_500), &mut [&mut peer]);
    assert_eq!(peer.task.done, None);
    peer.progress.add(1);
    host.pass(seconds(1), &mut [&mut peer]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::TokenExpired)));
    assert!(peer.network.lock().unwrap().taken.is_empty());
}

#[test]
fn a_token_expires_on_a_quiet_connection() {
    let mut host = Host::new(200);
    let mut peer = host.connect(seconds(10));
    peer.join("t", &json!({}));
    host.pass(seconds(10), &mut [&mut peer]);
    assert_eq!(peer.sent(), [json!({"close": 4001})]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::TokenExpired)));
}

#[test]
fn a_slow_reader_that_beats_is_not_silent() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    peer.take(0);
    host.publish("t", 1);
    peer.task.run();
    // One frame takes two minutes to go out; nothing that comes in is read meanwhile.
    for _ in 0..8 {
        host.pass(seconds(15), &mut [&mut peer]);
        peer.beat();
        peer.progress.add(1);
    }
    peer.take(usize::MAX);
    let sent = peer.sent();
    assert_eq!(seqs(&sent), [1]);
    assert_eq!(peer.task.done, None, "it was heard, if late");
    assert_eq!(sent.iter().filter(|frame| frame[2] == "phoenix").count(), 8);
}

#[test]
fn what_was_said_during_a_pause_is_read_before_silence_is_judged() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    peer.task.run();
    // Every timer is due, and the system has not told yet what there is in the sockets.
    host.clock.pass(seconds(66));
    peer.task.run();
    peer.beat();
    host.pass(seconds(30), &mut [&mut peer]);
    assert_eq!(peer.task.done, None);
    host.pass(seconds(40), &mut [&mut peer]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::HeartbeatTimeout)));
}

#[test]
fn a_step_of_the_wall_clock_closes_nobody() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    host.pass(seconds(25), &mut [&mut peer]);
    host.clock.set_forward(seconds(120));
    for _ in 0..4 {
        peer.beat();
        host.pass(seconds(25), &mut [&mut peer]);
    }
    assert_eq!(peer.task.done, None);
    // But for whom the date is past the end of the grant.
    host.clock.set_forward(HOUR);
    host.pass(seconds(25), &mut [&mut peer]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::TokenExpired)));
}

#[test]
fn silence_ends_a_connection() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    host.pass(seconds(61), &mut [&mut peer]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::HeartbeatTimeout)));
}

#[test]
fn nothing_is_asked_for_while_the_transport_is_blocked() {
    let mut host = Host::new(10);
    let mut peer = host.connect(HOUR);
    for name in ["a", "b", "c"] {
        peer.join(name, &json!({}));
    }
    peer.take(0);
    host.publish("a", 1);
    peer.task.run();
    let before = host.store.reads();
    for _ in 0..50 {
        for name in ["a", "b", "c"] {
            host.publish(name, 20);
        }
        host.pass(Duration::from_millis(500), &mut [&mut peer]);
        peer.progress.add(1);
    }
    assert_eq!(host.store.reads(), before, "it holds a cursor, not a queue");
    peer.take(usize::MAX);
    let sent = peer.sent();
    for (name, head) in [("a", 1_001), ("b", 1_000), ("c", 1_000)] {
        let of: Vec<_> = sent.iter().filter(|frame| frame[2] == name).cloned().collect();
        assert_eq!(seqs(&of), (1..=head).collect::<Vec<_>>());
    }
}

#[test]
fn a_drain_spreads_the_closes_evenly() {
    let mut host = Host::new(200);
    let mut peers: Vec<_> = (0..10).map(|_| host.connect(HOUR)).collect();
    for peer in &mut peers {
        peer.join("t", &json!({}));
    }
    assert_eq!(host.khala.connections().count(), 10);
    host.khala.connections().drain(Duration::from_millis(500));
    let mut told = Vec::new();
    for peer in &mut peers {
        let sent = peer.sent();
        assert_eq!((&sent[0][2], &sent[0][3]), (&json!("phoenix"), &json!("sync:drain")));
        told.push(sent[0][4]["retry_after_ms"].as_u64().unwrap());
    }
    told.sort_unstable();
    assert_eq!(told, (0..10).map(|turn| turn * 50).collect::<Vec<_>>());
    for turn in 2..=10 {
        host.pass(Duration::from_millis(50), &mut peers.iter_mut().collect::<Vec<_>>());
        let closed =
            peers.iter().filter(|peer| peer.task.done == Some(Ended::Closed(Close::Restart))).count();
        assert_eq!(closed, turn);
    }
    drop(peers);
    assert_eq!(host.khala.connections().count(), 0);
    let mut late = host.connect(HOUR);
    assert_eq!(late.sent()[0][3], "sync:drain", "who comes now is told at once");
}

#[test]
fn few_connections_do_not_wait_for_the_whole_drain() {
    let mut host = Host::new(200);
    let mut peers: Vec<_> = (0..3).map(|_| host.connect(HOUR)).collect();
    for peer in &mut peers {
        peer.join("t", &json!({}));
    }
    host.khala.connections().drain(HOUR);
    host.pass(Duration::from_millis(1), &mut peers.iter_mut().collect::<Vec<_>>());
    host.pass(Duration::from_millis(200), &mut peers.iter_mut().collect::<Vec<_>>());
    assert!(peers.iter().all(|peer| peer.task.done == Some(Ended::Closed(Close::Restart))));
}

#[test]
fn the_end_of_the_client_is_the_end() {
    let host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    assert_eq!(host.fanout.watched(), [topic("t")]);
    peer.client = None;
    assert!(peer.sent().is_empty());
    assert_eq!(peer.task.done, Some(Ended::Gone));
    assert_eq!(
        (host.fanout.watched().len(), host.khala.connections().count(), host.clock.sleepers()),
        (0, 0, 0)
    );
}

#[test]
fn a_broken_rule_of_the_transport_closes_with_its_code() {
    let host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.client.as_ref().unwrap().unbounded_send(Received::Fault(Close::ProtocolError)).unwrap();
    assert_eq!(peer.sent(), [json!({"close": 1002})]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::ProtocolError)));
}

#[test]
fn what_is_left_is_not_watched_any_more() {
    let host = Host::new(200);
    let mut peer = host.connect(HOUR);
    for name in ["a", "b"] {
        peer.join(name, &json!({}));
    }
    assert_eq!(host.fanout.watched().len(), 2);
    peer.say("a", "phx_leave", &json!({}));
    peer.sent();
    assert_eq!(host.fanout.watched(), [topic("b")]);
    host.store.fail(1);
    peer.join("c", &json!({}));
    assert_eq!(host.fanout.watched(), [topic("b")], "a join that was refused watches nothing");
}

#[test]
fn ten_thousand_joins_leave_nothing_behind() {
    let host = Host::new(200);
    let mut peer = host.connect(HOUR);
    for n in 0..10_000 {
        // Joined over itself, and every other time left before.
        peer.join("t", &json!({}));
        if n % 2 == 0 {
            peer.say("t", "phx_leave", &json!({}));
        }
        if n % 1_000 == 0 {
            host.publish("t", 1);
        }
        peer.task.run();
        assert!(host.fanout.watched().len() <= 1);
    }
    assert!(host.clock.sleepers() <= 2, "{}", host.clock.sleepers());
    peer.say("t", "phx_leave", &json!({}));
    peer.sent();
    assert!(host.fanout.watched().is_empty());
    peer.join("t", &json!({}));
    host.publish("t", 1);
    assert_eq!(
        peer.sent().iter().filter(|frame| frame[3] == "sync:update_batch").count(),
        1,
        "one, not many"
    );
}

#[test]
fn a_topic_that_could_not_be_watched_is_watched_at_the_next_poll() {
    for mood in [Mood::Down, Mood::Held] {
        let mut host = Host::new(200);
        let mut peer = host.connect(HOUR);
        host.hints.gate.set(mood);
        peer.join("t", &json!({}));
        host.pass(seconds(6), &mut [&mut peer]);
        assert_eq!(peer.sent().len(), usize::from(mood == Mood::Held), "it is answered");
        assert!(host.fanout.watched().is_empty());
        // It holds up nothing that it is tried again.
        host.hints.gate.set(Mood::Held);
        peer.beat();
        host.pass(seconds(5), &mut [&mut peer]);
        peer.sent();
        peer.beat();
        assert_eq!(peer.sent().len(), 1, "{mood:?}");
        host.hints.gate.set(Mood::Up);
        peer.beat();
        host.pass(seconds(11), &mut [&mut peer]);
        peer.sent();
        assert_eq!(host.fanout.watched(), [topic("t")], "{mood:?}");
        host.publish("t", 1);
        assert_eq!(seqs(&peer.sent()), [1], "{mood:?}");
        peer.say("t", "phx_leave", &json!({}));
        peer.sent();
        assert!(host.fanout.watched().is_empty());
    }
}

#[test]
fn what_is_left_while_it_is_tried_again_is_not_watched() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    host.hints.gate.set(Mood::Down);
    peer.join("t", &json!({}));
    host.hints.gate.set(Mood::Held);
    peer.beat();
    host.pass(seconds(11), &mut [&mut peer]);
    peer.say("t", "phx_leave", &json!({}));
    peer.sent();
    host.hints.gate.set(Mood::Up);
    peer.sent();
    assert!(host.fanout.watched().is_empty());
}
