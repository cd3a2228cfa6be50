//! The rules of the wire, one by one, on one session whose driver is the test.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use khala_core::{
    Batch, DocKey, Kind, NewUpdate,
    auth::Access,
    journal::Journal as _,
    session::SessionOptions,
    tail::{TailJournal, TailOptions},
    wire::{Close, Serializer},
};
use serde_json::{Value, json};

use crate::{
    clock::steady,
    host::topic,
    rig::{Rig, START, document, seconds, seqs, update},
    store::Store,
};

#[test]
fn a_join_is_answered_with_its_refs_in_both_serializers() {
    for serializer in [Serializer::V1, Serializer::V2] {
        let mut rig = Rig::with(Store::new(200, 200), serializer, SessionOptions::default());
        rig.publish("t", vec![update(1), update(2)]);
        let epoch = rig.epoch("t");
        rig.say(Some("71"), Some("72"), "t", "phx_join", &json!({"from": "floor"}));
        let sent = rig.run();
        let joined = json!({"epoch": epoch, "after": 0, "head": 2, "floor": 0});
        assert_eq!(sent[0], json!(["71", "72", "t", "phx_reply", {"status": "ok", "response": joined}]));
        let updates = json!([
            {"seq": 1, "kind": "k", "payload": 1, "published_at": 1_000_000},
            {"seq": 2, "kind": "k", "payload": 2, "published_at": 1_000_000},
        ]);
        let batch = json!({"after": 0, "head": 2, "replay_complete": true, "updates": updates});
        assert_eq!(sent[1..], [json!([null, null, "t", "sync:update_batch", batch])]);
    }
}

#[test]
fn a_replay_is_complete_from_the_batch_that_reaches_the_head_of_the_reply() {
    // Pages that were made for the live tail, each with the head of its moment.
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({"from": "floor"}));
    rig.run();
    let mut live = Vec::new();
    for number in 1..=6 {
        let update = Batch::new(vec![update(number)]).unwrap();
        let append = rig.tail.append(&topic("t"), update, rig.now).now_or_never().unwrap().unwrap();
        let khala_core::Append::Written(receipt) = append else { panic!("nothing conflicts") };
        rig.session.handle_moved(rig.channel(), receipt.cursor());
        live.extend(rig.run());
    }
    let complete = |sent: &[Value]| {
        let batches = sent.iter().filter(|frame| frame[3] == "sync:update_batch");
        batches.map(|batch| batch[4]["replay_complete"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(complete(&live), [true; 6], "there was nothing to replay");
    let epoch = rig.epoch("t");
    for (reference, start, expected) in [
        ("2", json!({"after": 1, "epoch": epoch}), &[false, false, false, false, true][..]),
        ("3", json!({"from": "floor"}), &[false, false, false, false, false, true]),
        ("4", json!({"after": 5, "epoch": epoch}), &[true]),
    ] {
        rig.join(reference, "t", &start);
        let sent = rig.run();
        let reply = sent.iter().find(|frame| frame[3] == "phx_reply").unwrap();
        assert_eq!(reply[4]["response"]["head"], 6);
        assert_eq!(complete(&sent), expected, "{start}");
    }
    let head = rig.publish("t", vec![update(7), update(8)]);
    rig.session.handle_moved(rig.channel(), head);
    assert_eq!(complete(&rig.run()), [true], "and so are all that follow");
}

#[test]
fn refs_may_be_null() {
    let mut rig = Rig::new();
    rig.text(r#"[null,null,"t","phx_join",{}]"#);
    let sent = rig.run();
    assert_eq!((&sent[0][0], &sent[0][1], &sent[0][4]["status"]), (&Value::Null, &Value::Null, &json!("ok")));
    rig.text(r#"[null,null,"t","phx_leave",{}]"#);
    let sent = rig.run();
    assert_eq!(sent.iter().map(|frame| &frame[3]).collect::<Vec<_>>(), ["phx_reply", "phx_close"]);
}

#[test]
fn every_start_begins_where_it_says() {
    let mut rig = Rig::new();
    rig.publish("t", vec![document("a"), document("b"), update(3)]);
    rig.trim("t", 2);
    let epoch = rig.epoch("t");
    for (reference, start, after) in [
        ("1", json!({}), 3),
        ("2", json!({"from": "head"}), 3),
        ("3", json!({"from": "floor"}), 1),
        ("4", json!({"after": 2, "epoch": epoch}), 2),
    ] {
        rig.join(reference, "t", &start);
        let mut sent = rig.run();
        sent.retain(|frame| frame[3] != "phx_close");
        assert_eq!(sent[0][4]["response"], json!({"epoch": epoch, "after": after, "head": 3, "floor": 1}));
        let updates: Vec<_> = sent[1..].iter().flat_map(seqs).collect();
        assert_eq!(updates, (after + 1..=3).collect::<Vec<_>>(), "{start}");
    }
    rig.join("5", "t", &json!({"from": "snapshot"}));
    let sent = rig.run();
    assert_eq!(sent[1][1], "5");
    assert_eq!(
        (&sent[1][4]["response"]["after"], &sent[1][4]["response"]["snapshot"]),
        (&json!(3), &json!(true))
    );
    assert_eq!(sent[2][3], "sync:snapshot");
    let keys: Vec<_> =
        sent[2][4]["documents"].as_array().unwrap().iter().map(|document| &document["doc_key"]).collect();
    assert_eq!(keys, ["a", "b"], "trimming the log leaves documents");
    assert_eq!((&sent[2][4]["watermark"], &sent[2][4]["complete"], sent.len()), (&json!(3), &json!(true), 3));
}

#[test]
fn a_rejoin_is_answered_and_closes_the_join_before() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.run();
    rig.join("2", "t", &json!({}));
    let sent = rig.run();
    assert_eq!(sent[0], json!(["1", null, "t", "phx_close", {}]));
    assert_eq!((&sent[1][0], &sent[1][1], &sent[1][3]), (&json!("2"), &json!("2"), &json!("phx_reply")));
    assert_eq!((sent.len(), rig.watching.len()), (2, 1));
}

#[test]
fn a_join_that_is_sent_twice_does_not_close_itself() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.run();
    rig.join("1", "t", &json!({}));
    let sent = rig.run();
    assert_eq!(sent.iter().map(|frame| &frame[3]).collect::<Vec<_>>(), ["phx_reply"], "{sent:?}");
}

#[test]
fn a_leave_is_answered_and_then_closes() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.run();
    rig.say(Some("1"), Some("2"), "t", "phx_leave", &json!({}));
    let left = json!(["1", "2", "t", "phx_reply", {"status": "ok", "response": {}}]);
    assert_eq!(rig.run(), [left, json!(["1", null, "t", "phx_close", {}])]);
    assert!(rig.watching.is_empty());
    rig.publish("t", vec![update(1)]);
    assert!(rig.pass(seconds(40)).is_empty(), "nothing comes after the close");
}

#[test]
fn leaving_what_is_not_joined_is_ok() {
    let mut rig = Rig::new();
    rig.say(Some("1"), Some("2"), "t", "phx_leave", &json!({}));
    assert_eq!(rig.run(), [json!(["1", "2", "t", "phx_reply", {"status": "ok", "response": {}}])]);
}

#[test]
fn frames_of_an_earlier_join_are_dropped() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.join("2", "t", &json!({}));
    rig.run();
    rig.say(Some("1"), Some("3"), "t", "anything", &json!({}));
    rig.say(Some("1"), Some("4"), "t", "phx_leave", &json!({}));
    assert!(rig.run().is_empty());
    assert_eq!(rig.watching.len(), 1, "the leave of the earlier join is not one of this");
}

#[test]
fn an_event_on_a_topic_that_is_not_joined_is_answered() {
    let mut rig = Rig::new();
    rig.say(Some("1"), Some("2"), "t", "shout", &json!({"a": 1}));
    let sent = rig.run();
    assert_eq!(
        (&sent[0][0], &sent[0][1], &sent[0][4]["status"]),
        (&Value::Null, &json!("2"), &json!("error"))
    );
    assert_eq!(sent[0][4]["response"]["reason"], "unmatched topic");
    assert_eq!(sent[0][4]["response"]["code"], "unmatched_topic");
}

#[test]
fn a_channel_takes_no_events() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.run();
    rig.say(Some("1"), Some("2"), "t", "shout", &json!({}));
    let sent = rig.run();
    assert_eq!((&sent[0][0], &sent[0][1]), (&json!("1"), &json!("2")));
    assert_eq!(sent[0][4]["response"]["code"], "unknown_event");
    assert_eq!(rig.watching.len(), 1, "and stays");
}

#[test]
fn a_heartbeat_is_answered_and_silence_ends_the_connection() {
    let mut rig = Rig::new();
    for reference in ["9", "10", "11"] {
        rig.pass(seconds(30));
        rig.say(None, Some(reference), "phoenix", "heartbeat", &json!({}));
        let answer = json!([null, reference, "phoenix", "phx_reply", {"status": "ok", "response": {}}]);
        assert_eq!(rig.run(), [answer]);
    }
    rig.pass(seconds(60));
    assert_eq!(rig.closed, None);
    rig.pass(seconds(1));
    assert_eq!(rig.closed, Some(Close::HeartbeatTimeout));
}

#[test]
fn a_ping_is_a_sign_of_life() {
    let mut rig = Rig::new();
    for _ in 0..10 {
        rig.pass(seconds(20));
        rig.session.handle_frames(1, rig.both());
        assert!(rig.run().is_empty());
        assert_eq!(rig.closed, None);
    }
    rig.pass(seconds(61));
    assert_eq!(rig.closed, Some(Close::HeartbeatTimeout));
}

#[test]
fn a_binary_frame_is_refused_and_the_connection_goes_on() {
    let mut rig = Rig::new();
    for _ in 0..16 {
        rig.session.handle_binary(rig.both());
        let sent = rig.run();
        assert_eq!((&sent[0][2], &sent[0][3]), (&json!("phoenix"), &json!("sync:error")));
        assert_eq!(sent[0][4]["code"], "malformed_frame");
        assert!(sent[0][4]["message"].as_str().unwrap().contains("binary"), "{sent:?}");
    }
    rig.join("1", "t", &json!({}));
    assert_eq!(rig.run()[0][4]["status"], "ok");
    rig.session.handle_binary(rig.both());
    rig.run();
    assert_eq!(rig.closed, Some(Close::Hostile));
}

#[test]
fn a_pause_is_no_silence() {
    let mut rig = Rig::new();
    let pause = |rig: &mut Rig| {
        rig.now = rig.now.plus(seconds(66));
        rig.session.handle_timeout(rig.both());
        rig.run();
        assert_eq!(rig.closed, None);
    };
    pause(&mut rig);
    // What it said meanwhile is read now.
    rig.say(None, Some("1"), "phoenix", "heartbeat", &json!({}));
    rig.run();
    rig.pass(seconds(59));
    assert_eq!(rig.closed, None);
    // Two pauses, and silence.
    pause(&mut rig);
    pause(&mut rig);
    rig.pass(seconds(1));
    assert_eq!(rig.closed, Some(Close::HeartbeatTimeout));
}

#[test]
fn a_stale_cursor_is_told_field_by_field() {
    let mut rig = Rig::new();
    rig.publish("run:7:events", (1..=90).map(update).collect());
    rig.trim("run:7:events", 48);
    let epoch = rig.epoch("run:7:events");
    rig.join("1", "run:7:events", &json!({"after": 10, "epoch": epoch}));
    let sent = rig.run();
    assert_eq!(
        (&sent[0][0], &sent[0][1], &sent[0][4]["status"]),
        (&json!("1"), &json!("1"), &json!("error"))
    );
    let mut response = sent[0][4]["response"].clone();
    let message = response["message"].take();
    assert_eq!(message, "the cursor is at 10 and everything up to 42 was trimmed");
    let expected = json!({
        "code": "stale_cursor", "reason": "stale_cursor", "message": null,
        "reason_codes": ["retention_floor_breach"], "topic": "run:7:events", "resume_after": 10,
        "retention_floor": 42, "head": 90, "epoch": epoch, "replay_lag": 80, "replay_budget_events": 100_000,
        "qos_tier": "warm", "full_resync_required": true, "snapshot": "/v1/topics/run:7:events/snapshot",
    });
    assert_eq!(response, expected);
    assert!(rig.watching.is_empty() && sent.len() == 1, "it was never joined");
}

#[test]
fn a_cursor_of_another_history_or_of_a_lost_future_is_stale() {
    let mut rig = Rig::new();
    rig.publish("t", vec![update(1)]);
    let epoch = rig.epoch("t");
    rig.join("1", "t", &json!({"after": 2, "epoch": epoch}));
    assert_eq!(rig.run()[0][4]["response"]["reason_codes"], json!(["cursor_ahead"]));
    rig.join("2", "t", &json!({"after": 1, "epoch": "0000000000000001"}));
    let sent = rig.run();
    assert_eq!(sent[0][4]["response"]["reason_codes"], json!(["epoch_mismatch"]));
    assert_eq!(sent[0][4]["response"]["replay_lag"], 0);
}

#[test]
fn a_stale_cursor_may_lead_to_a_snapshot() {
    let mut rig = Rig::new();
    rig.publish("t", vec![document("a"), document("b"), document("a")]);
    rig.trim("t", 1);
    let epoch = rig.epoch("t");
    rig.join("1", "t", &json!({"after": 0, "epoch": epoch, "on_stale": "snapshot"}));
    let sent = rig.run();
    let response = &sent[0][4]["response"];
    assert_eq!((&sent[0][4]["status"], &response["after"]), (&json!("ok"), &json!(3)));
    assert_eq!(response["stale"]["reason_codes"], json!(["retention_floor_breach"]));
    assert_eq!(sent[1][4]["documents"].as_array().unwrap().len(), 2);
    rig.publish("t", vec![update(4)]);
    let sent = rig.pass(seconds(20));
    assert_eq!((&sent[0][4]["after"], seqs(&sent[0])), (&json!(3), vec![4]), "then the log");
}

#[test]
fn a_live_channel_that_is_left_behind_is_told_and_ends() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.run();
    rig.publish("t", vec![update(1), update(2)]);
    rig.trim("t", 1);
    let sent = rig.pass(seconds(20));
    assert_eq!((&sent[0][0], &sent[0][3]), (&json!("1"), &json!("sync:error")));
    assert_eq!(sent[0][4]["reason_codes"], json!(["retention_floor_breach"]));
    assert_eq!(sent[1..], [json!(["1", null, "t", "phx_error", {}])]);
    assert!(rig.watching.is_empty());
}

#[test]
fn a_floor_that_moves_between_the_questions_is_where_it_is_now() {
    let mut rig = Rig::new();
    rig.publish("t", (1..=10).map(update).collect());
    rig.trim("t", 8);
    rig.join("1", "t", &json!({"from": "floor"}));
    rig.act();
    rig.answer();
    rig.trim("t", 3);
    let sent = rig.run();
    let response = &sent[0][4]["response"];
    assert_eq!((&response["after"], &response["floor"]), (&json!(7), &json!(7)));
    assert_eq!(seqs(&sent[1]), [8, 9, 10]);
}

#[test]
fn a_snapshot_starts_over_when_the_log_no_longer_continues_from_it() {
    let mut rig = Rig::with(Store::new(200, 1), Serializer::V2, SessionOptions::default());
    rig.publish("t", vec![document("a"), document("b"), document("c")]);
    rig.join("1", "t", &json!({"from": "snapshot"}));
    rig.act();
    rig.answer();
    let sent = rig.act();
    assert_eq!(sent.len(), 2, "the answer and the first page");
    let tombstone = NewUpdate::tombstone(Kind::parse("k").unwrap(), DocKey::parse("a").unwrap());
    rig.publish("t", vec![tombstone]);
    rig.trim("t", 0);
    let sent = rig.run();
    let pages: Vec<_> = sent
        .iter()
        .map(|page| {
            (page[4]["watermark"].as_u64().unwrap(), page[4]["documents"][0]["doc_key"].as_str().unwrap())
        })
        .collect();
    assert_eq!(pages, [(4, "b"), (4, "c")], "another watermark means another snapshot");
}

#[test]
fn what_is_no_frame_is_named_and_too_much_of_it_ends_the_connection() {
    let mut rig = Rig::new();
    let options = SessionOptions::default();
    for n in 0..options.malformed_frames {
        let long = format!(r#"["{}","1","t","phx_join",{{}}]"#, "9".repeat(65));
        let bad = ["", "[]", r#"{"topic":"t"}"#, "\u{7}", &long];
        rig.text(bad[n as usize % bad.len()]);
        let sent = rig.run();
        assert_eq!((&sent[0][2], &sent[0][3]), (&json!("phoenix"), &json!("sync:error")));
        assert_eq!(sent[0][4]["code"], "malformed_frame");
        assert!(!sent[0][4]["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(rig.closed, None);
    rig.text("[");
    assert_eq!(rig.run().len(), 1, "the last one too is told why");
    assert_eq!(rig.closed, Some(Close::Hostile));
}

#[test]
fn a_ref_has_a_length() {
    let mut rig = Rig::new();
    let longest = "7".repeat(64);
    rig.say(Some(&longest), Some(&longest), "t", "phx_join", &json!({}));
    assert_eq!(rig.run()[0][1], json!(longest));
    rig.say(Some("1"), Some(&"7".repeat(65)), "u", "phx_join", &json!({}));
    assert_eq!(rig.run()[0][4]["code"], "malformed_frame");
    assert_eq!(rig.watching.len(), 1);
}

#[test]
fn bad_joins_are_refused_by_name() {
    let mut rig = Rig::new();
    for (topic, payload, code) in [
        ("a b", json!({}), "invalid_topic"),
        ("phoenix", json!({}), "invalid_topic"),
        ("t", json!([]), "invalid_join"),
        ("t", json!({"after": 1}), "invalid_join"),
        ("t", json!({"from": "yesterday"}), "invalid_join"),
    ] {
        rig.join("1", topic, &payload);
        let sent = rig.run();
        assert_eq!(
            (&sent[0][0], &sent[0][2], &sent[0][4]["status"]),
            (&json!("1"), &json!(topic), &json!("error"))
        );
        assert_eq!(sent[0][4]["response"]["code"], code);
    }
}

#[test]
fn a_connection_joins_so_many_topics() {
    let mut rig = Rig::with(
        Store::new(200, 200),
        Serializer::V2,
        SessionOptions { topics: 2, ..SessionOptions::default() },
    );
    for (reference, topic, status) in
        [("1", "a", "ok"), ("2", "b", "ok"), ("3", "c", "error"), ("4", "b", "ok"), ("5", "c", "error")]
    {
        rig.join(reference, topic, &json!({}));
        let sent = rig.run();
        let reply = sent.iter().find(|frame| frame[3] == "phx_reply").unwrap();
        assert_eq!(reply[4]["status"], status, "{topic}");
        assert!(status == "ok" || reply[4]["response"]["code"] == "too_many_topics");
        assert!(rig.watching.len() <= 2);
    }
    rig.say(Some("1"), Some("6"), "a", "phx_leave", &json!({}));
    rig.join("7", "c", &json!({}));
    assert_eq!(rig.run().last().unwrap()[4]["status"], "ok");
}

#[test]
fn reading_takes_its_scope() {
    let store = Store::new(200, 200);
    let tail = Arc::new(TailJournal::new(Arc::<Store>::clone(&store), TailOptions::default()));
    let mut rig =
        Rig::beside(store, tail, Serializer::V2, SessionOptions::default(), &[Access::Publish.scope()]);
    rig.join("1", "t", &json!({}));
    assert_eq!(rig.run()[0][4]["response"]["code"], "missing_scope");
}

#[test]
fn nothing_comes_after_expiry_not_even_what_was_ready() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({"from": "floor"}));
    rig.run();
    // It hears a beat and has an answer ready when its time comes.
    rig.now = START.plus(seconds(3_599));
    rig.say(None, Some("2"), "phoenix", "heartbeat", &json!({}));
    assert!(rig.session.poll_timeout(rig.both()) <= steady(rig.session.expires_at()));
    rig.now = START.plus(seconds(3_600));
    rig.session.handle_timeout(rig.both());
    assert!(rig.act().is_empty());
    assert_eq!(rig.closed, Some(Close::TokenExpired));
    rig.say(None, Some("3"), "phoenix", "heartbeat", &json!({}));
    rig.session.handle_drain(Duration::ZERO, rig.both());
    assert!(rig.act().is_empty() && rig.session.is_ended());
}

#[test]
fn an_answer_after_expiry_ends_the_connection_too() {
    let mut rig = Rig::new();
    rig.publish("t", vec![update(1)]);
    rig.join("1", "t", &json!({"from": "floor"}));
    rig.act();
    rig.now = START.plus(seconds(3_600));
    rig.answer();
    assert!(rig.act().is_empty());
    assert_eq!(rig.closed, Some(Close::TokenExpired));
}

#[test]
fn a_drain_is_told_and_comes_at_its_time() {
    let mut rig = Rig::new();

    rig.session.handle_drain(seconds(5), rig.both());
    assert_eq!(rig.run(), [json!([null, null, "phoenix", "sync:drain", {"retry_after_ms": 5_000}])]);
    rig.session.handle_drain(Duration::ZERO, rig.both());
    assert!(rig.run().is_empty(), "once");
    rig.pass(Duration::from_millis(4_999));
    assert_eq!(rig.closed, None);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.closed, Some(Close::Restart));
}
