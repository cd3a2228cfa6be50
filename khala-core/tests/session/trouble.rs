//! What a session does when the journal fails, when hints and clocks are wrong, and when many share a page or a turn.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use khala_core::{
    Cursor, Epoch, Watermark,
    admission::Limited,
    auth::Access,
    session::{Answer, Question, SessionOptions},
    tail::{TailJournal, TailOptions},
    wire::{Close, Serializer},
};
use serde_json::{Value, json};

use crate::{
    clock::steady,
    rig::{Rig, document, seconds, seqs, update},
    store::Store,
};

#[test]
fn a_journal_that_cannot_be_read_at_the_join_is_unavailable() {
    let mut rig = Rig::new();
    for (reference, start) in
        [("1", json!({})), ("2", json!({"from": "floor"})), ("3", json!({"from": "snapshot"}))]
    {
        rig.store.fail(1);
        rig.join(reference, "t", &start);
        let sent = rig.run();
        let response = &sent[0][4]["response"];
        assert_eq!((&sent[0][1], &sent[0][4]["status"]), (&json!(reference), &json!("error")));
        assert_eq!((&response["code"], &response["retry_after_ms"]), (&json!("unavailable"), &json!(1_000)));
        assert!(rig.watching.is_empty() && sent.len() == 1, "{start}");
    }
    rig.join("4", "t", &json!({}));
    assert_eq!(rig.run()[0][4]["status"], "ok");
}

#[test]
fn a_journal_that_waiting_does_not_mend_refuses_the_join_without_a_time() {
    let mut rig = Rig::new();
    for (reference, start) in
        [("1", json!({})), ("2", json!({"from": "floor"})), ("3", json!({"from": "snapshot"}))]
    {
        rig.join(reference, "t", &start);
        let sent = rig.corrupt();
        let response = &sent[0][4]["response"];
        assert_eq!((&sent[0][1], &sent[0][4]["status"]), (&json!(reference), &json!("error")));
        assert_eq!((&response["code"], response.get("retry_after_ms")), (&json!("unavailable"), None));
        assert!(rig.watching.is_empty() && sent.len() == 1, "{start}");
    }
}

#[test]
fn a_channel_that_waiting_does_not_mend_is_told_and_ends() {
    let mut rig = Rig::with(Store::new(200, 1), Serializer::V2, SessionOptions::default());
    let head = rig.publish("t", vec![document("a"), document("b")]);
    let mut ends = |start: Value, begin: &dyn Fn(&mut Rig)| {
        rig.join("1", "t", &start);
        begin(&mut rig);
        let sent = rig.corrupt();
        assert_eq!((&sent[0][0], &sent[0][3]), (&json!("1"), &json!("sync:error")), "{start}");
        let refusal = &sent[0][4];
        assert_eq!((&refusal["code"], refusal.get("retry_after_ms")), (&json!("unavailable"), None));
        assert_eq!(sent[1..], [json!(["1", null, "t", "phx_error", {}])]);
        assert!(rig.watching.is_empty());
        let questions = rig.questions;
        assert!(rig.pass(seconds(15)).is_empty());
        assert_eq!(rig.questions, questions, "it is not read again");
        rig.say(None, None, "phoenix", "heartbeat", &json!({}));
        rig.run();
    };
    ends(json!({"from": "head"}), &|rig| {
        rig.run();
        let newer = Cursor::new(head.epoch, Watermark::new(3).unwrap());
        rig.session.handle_moved(rig.channel(), newer);
    });
    ends(json!({"from": "snapshot"}), &|rig| {
        rig.act();
        rig.answer();
    });
}

#[test]
fn a_step_of_the_wall_clock_stops_neither_polling_nor_heads_and_makes_nobody_silent() {
    let steps: [fn(&mut Rig); 2] = [|rig| rig.set_back = seconds(900), |rig| rig.set_forward = seconds(900)];
    for step in steps {
        let mut rig = Rig::new();
        rig.join("1", "t", &json!({}));
        rig.run();
        step(&mut rig);
        rig.session.handle_timeout(rig.both());
        assert!(rig.run().is_empty());
        assert_eq!(rig.closed, None);
        rig.publish("t", vec![update(1)]);
        let sent = rig.pass(seconds(20));
        assert_eq!(seqs(&sent[0]), [1], "it is found by polling, though nothing told of it");
        rig.say(None, None, "phoenix", "heartbeat", &json!({}));
        rig.run();
        let sent = rig.pass(seconds(45));
        assert_eq!(sent.iter().map(|frame| &frame[3]).collect::<Vec<_>>(), ["sync:head"]);
        assert!(sent[0][4]["age_ms"].as_u64().unwrap() <= 10_000, "{sent:?}");
        assert_eq!(rig.closed, None);
        rig.pass(seconds(16));
        assert_eq!(rig.closed, Some(Close::HeartbeatTimeout));
    }
}

#[test]
fn a_step_of_the_wall_clock_moves_neither_a_retry_nor_a_drain() {
    let steps: [fn(&mut Rig); 2] = [|rig| rig.set_back = seconds(900), |rig| rig.set_forward = seconds(900)];
    for step in steps {
        let mut rig = Rig::new();
        rig.join("1", "t", &json!({}));
        rig.run();
        let head = rig.publish("t", vec![update(1)]);
        rig.store.fail(1);
        rig.session.handle_moved(rig.channel(), head);
        assert!(rig.run().is_empty());
        rig.session.handle_drain(seconds(5), rig.both());
        rig.run();
        step(&mut rig);
        rig.session.handle_timeout(rig.both());
        assert!(rig.run().is_empty());
        let sent = rig.pass(seconds(1));
        assert_eq!(seqs(&sent[0]), [1]);
        rig.pass(Duration::from_millis(3_999));
        assert_eq!(rig.closed, None);
        rig.pass(Duration::from_millis(1));
        assert_eq!(rig.closed, Some(Close::Restart));
    }
}

#[test]
fn a_wall_clock_that_passes_the_end_of_a_grant_ends_it() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.run();
    rig.set_forward = seconds(3_600);
    rig.say(None, None, "phoenix", "heartbeat", &json!({}));
    rig.run();
    assert_eq!(rig.closed, Some(Close::TokenExpired));
}

#[test]
fn a_head_that_was_announced_and_cannot_be_read_is_told() {
    let mut rig = Rig::new();
    let sent = rig.publish("t", vec![update(1)]);
    rig.join("1", "t", &json!({}));
    rig.run();
    let announced = |number| Cursor::new(sent.epoch, Watermark::new(number).unwrap());
    let heads = |frames: &[Value]| -> Vec<u64> {
        let heads = frames.iter().filter(|frame| frame[3] == "sync:head");
        heads.map(|frame| frame[4]["head"].as_u64().unwrap()).collect()
    };
    rig.store.fail(usize::MAX);
    rig.session.handle_moved(rig.channel(), announced(5));
    assert_eq!(heads(&rig.pass(seconds(32))), [5], "the journal is down");
    rig.store.fail(0);
    rig.say(None, None, "phoenix", "heartbeat", &json!({}));
    assert_eq!(heads(&rig.pass(seconds(40))), [1], "the journal says that there is no such update");
    rig.session.handle_moved(rig.channel(), Cursor::new(Epoch::from_bits(1), Watermark::new(9).unwrap()));
    rig.say(None, None, "phoenix", "heartbeat", &json!({}));
    assert_eq!(heads(&rig.pass(seconds(40))), [1], "a head of another history is not of this one");
}

#[test]
fn a_head_grows_old_while_the_journal_is_down() {
    let mut rig = Rig::new();
    rig.publish("t", vec![update(1)]);
    rig.join("1", "t", &json!({}));
    rig.run();
    let beat = |rig: &mut Rig| {
        rig.say(None, None, "phoenix", "heartbeat", &json!({}));
        rig.run();
    };
    let mut heads = rig.pass(seconds(45));
    assert_eq!(heads.len(), 1, "{heads:?}");
    let head = heads.remove(0);
    assert_eq!((&head[0], &head[3], &head[4]["head"]), (&Value::Null, &json!("sync:head"), &json!(1)));
    assert!(head[4]["age_ms"].as_u64().unwrap() <= 10_000, "the journal was asked: {head}");
    rig.store.fail(usize::MAX);
    let mut ages = Vec::new();
    for _ in 0..3 {
        beat(&mut rig);
        let heads = rig.pass(seconds(35));
        ages.extend(
            heads
                .iter()
                .filter(|frame| frame[3] == "sync:head")
                .map(|frame| frame[4]["age_ms"].as_u64().unwrap()),
        );
    }
    assert!(ages.len() >= 3 && ages.is_sorted() && *ages.last().unwrap() > 60_000, "{ages:?}");
}

#[test]
fn a_late_announcement_does_not_hide_a_newer_one() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.act();
    rig.answer();
    rig.act();
    let first = rig.publish("t", vec![update(1)]);
    rig.session.handle_moved(rig.channel(), first);
    rig.act();
    // While the first is being read, the second is announced, and then the first again.
    let question = rig.asked.pop().unwrap();
    let (_, ref topic, Question::Read { cursor, wanted }) = question else { panic!("it reads") };
    let answer = rig.tail.follow(topic, cursor, wanted, steady(rig.now)).now_or_never().unwrap().unwrap();
    let second = rig.publish("t", vec![update(2)]);
    rig.session.handle_moved(rig.channel(), second);
    rig.session.handle_moved(rig.channel(), first);
    rig.session.handle_answer(question.0, Ok(Answer::Read(answer)), rig.both());
    let sent = rig.run();
    assert_eq!(sent.iter().flat_map(seqs).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_replay_goes_on_to_the_end_of_what_the_server_knows() {
    let store = Store::new(200, 200);
    let mut first = Rig::with(store, Serializer::V2, SessionOptions::default());
    first.join("1", "t", &json!({}));
    first.run();
    let start = Cursor::new(first.epoch("t"), Watermark::ORIGIN);
    for n in 1..=3 {
        let head = first.publish("t", vec![update(n)]);
        first.session.handle_moved(first.channel(), head);
        assert_eq!(first.run().len(), 1);
    }
    // Nothing is announced to this one: what it finds, it finds in the tail.
    let mut second = Rig::beside(
        Arc::clone(&first.store),
        Arc::clone(&first.tail),
        Serializer::V2,
        SessionOptions::default(),
        &[Access::Read.scope()],
    );
    second.join("1", "t", &json!({"after": 0, "epoch": start.epoch}));
    let sent = second.run();
    assert_eq!(sent[0][4]["response"]["head"], 3, "the head is what the server knows");
    assert_eq!(sent[1..].iter().flat_map(seqs).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(sent.len(), 4, "in the pages that the tail holds");
}

#[test]
fn a_page_is_encoded_once_for_all_sessions() {
    let store = Store::new(200, 200);
    let tail = Arc::new(TailJournal::new(Arc::<Store>::clone(&store), TailOptions::default()));
    let rig = || {
        let (store, tail) = (Arc::clone(&store), Arc::clone(&tail));
        Rig::beside(store, tail, Serializer::V2, SessionOptions::default(), &[Access::Read.scope()])
    };
    let mut rigs = [rig(), rig()];
    for rig in &mut rigs {
        rig.join("1", "t", &json!({}));
        rig.run();
    }
    let head = rigs[0].publish("t", vec![update(1)]);
    let frames: Vec<_> = rigs
        .iter_mut()
        .map(|rig| {
            rig.session.handle_moved(rig.channel(), head);
            rig.bytes().remove(0)
        })
        .collect();
    assert_eq!(frames[0].as_ptr(), frames[1].as_ptr(), "the same bytes, not equal ones");
}

#[test]
fn many_topics_take_turns() {
    let options = SessionOptions { concurrent_reads: 1.try_into().unwrap(), ..SessionOptions::default() };
    let mut rig = Rig::with(Store::new(1, 200), Serializer::V2, options);
    for (reference, topic) in [("1", "a"), ("2", "b")] {
        rig.publish(topic, (1..=3).map(update).collect());
        rig.join(reference, topic, &json!({"from": "floor"}));
    }
    let batches = rig.run();
    let turns: Vec<_> = batches
        .iter()
        .filter(|frame| frame[3] == "sync:update_batch")
        .map(|frame| frame[2].as_str().unwrap())
        .collect();
    assert_eq!(turns, ["a", "b", "a", "b", "a", "b"]);
}

#[test]
fn a_snapshot_that_is_put_off_keeps_no_other_topic_waiting() {
    let mut rig = Rig::new();
    rig.publish("a", vec![document("a")]);
    rig.join("1", "a", &json!({"on_stale": "snapshot"}));
    rig.join("2", "b", &json!({}));
    assert_eq!(rig.run().len(), 2);
    let [a, b] = [0, 1].map(|at| *rig.watching.iter().nth(at).unwrap());
    // The log of `a` is trimmed past its reader, which is to start from a snapshot; the server puts that off.
    let head = rig.publish("a", vec![document("b"), document("c")]);
    rig.trim("a", 0);
    rig.session.handle_moved(a, head);
    rig.act();
    rig.answer();
    rig.act();
    let (channel, _, question) = rig.asked.pop().unwrap();
    assert!(matches!(question, Question::Snapshot(_)), "{question:?}");
    let later = Answer::Deferred(Limited::replay_deferred(seconds(30)));
    rig.session.handle_answer(channel, Ok(later), rig.both());
    assert!(rig.run().is_empty());
    // A read of `b` fails once. It is tried again after `retry_after`, which is a second.
    let head = rig.publish("b", vec![update(1)]);
    rig.store.fail(1);
    rig.session.handle_moved(b, head);
    assert!(rig.run().is_empty());
    let sent = rig.pass(seconds(2));
    assert_eq!(sent.iter().map(seqs).collect::<Vec<_>>(), [[1]], "it waits for what another topic waits for");
}

#[test]
fn a_journal_that_stays_away_is_asked_less_and_less_and_no_topic_ends() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    assert_eq!(rig.run().len(), 1);
    let channel = rig.channel();
    let head = rig.publish("t", vec![update(1)]);
    rig.store.fail(1_000);
    rig.session.handle_moved(channel, head);
    let sent = rig.pass(seconds(40));
    assert!(sent.iter().all(|frame| frame[3] == "sync:head"), "{sent:?}");
    // At first after 1, 3 and 7 s; then each 10 s, as often as it polls.
    let asked = 1_000 - rig.store.failing();
    assert!((6..=12).contains(&asked), "it was asked {asked} times in 40 s");
    rig.store.fail(0);
    let sent = rig.pass(seconds(11));
    assert_eq!(sent.iter().map(seqs).collect::<Vec<_>>(), [[1]]);
    // A failure after that is the first in a row again.
    rig.store.fail(1);
    let head = rig.publish("t", vec![update(2)]);
    rig.session.handle_moved(channel, head);
    assert!(rig.run().is_empty());
    let sent = rig.pass(seconds(2));
    assert_eq!(sent.iter().map(seqs).collect::<Vec<_>>(), [[2]]);
}
