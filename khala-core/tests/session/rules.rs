//! The rules of the wire, one by one, on one session whose driver is this file.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use khala_core::{
    Batch, Cursor, DocKey, Documents as _, Epoch, Error, ErrorKind, Grant, Journal as _, Keep, Kind,
    NewUpdate, Payload, ReadLimit, Scope, TailJournal, TailOptions, Timestamp, Topic, Watermark,
    session::{Action, Answer, ChannelId, Question, Session, SessionOptions},
    wire::{Close, Serializer},
};
use serde_json::{Value, json};

use crate::store::Store;

const START: Timestamp = Timestamp::from_millis(1_000_000);

struct Rig {
    session: Session,
    serializer: Serializer,
    store: Arc<Store>,
    tail: Arc<TailJournal>,
    now: Timestamp,
    /// Questions that wait to be answered.
    asked: Vec<(ChannelId, Topic, Question)>,
    watching: BTreeSet<ChannelId>,
    closed: Option<Close>,
    questions: usize,
}

fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

fn update(n: u64) -> NewUpdate {
    NewUpdate::new(Kind::parse("k").unwrap(), Payload::of(&n).unwrap())
}

fn document(key: &str) -> NewUpdate {
    update(0).with_doc_key(DocKey::parse(key).unwrap())
}

impl Rig {
    fn new() -> Self {
        Self::with(Store::new(200, 200), Serializer::V2, SessionOptions::default())
    }

    fn with(store: Arc<Store>, serializer: Serializer, options: SessionOptions) -> Self {
        let tail = Arc::new(TailJournal::new(Arc::<Store>::clone(&store), TailOptions::default()));
        Self::beside(store, tail, serializer, options, &[Scope::Read])
    }

    fn beside(
        store: Arc<Store>,
        tail: Arc<TailJournal>,
        serializer: Serializer,
        options: SessionOptions,
        scopes: &[Scope],
    ) -> Self {
        let expires_at = START.plus(Duration::from_secs(3_600));
        let grant = Grant::assertion("somebody", scopes.iter().map(|scope| scope.as_str()), expires_at);
        Self {
            session: Session::new(grant, serializer, options, START),
            serializer,
            store,
            tail,
            now: START,
            asked: Vec::new(),
            watching: BTreeSet::new(),
            closed: None,
            questions: 0,
        }
    }

    /// Appends as another process does.
    fn publish(&self, name: &str, updates: Vec<NewUpdate>) -> Cursor {
        let (journal, topic) = (self.store.journal(), topic(name));
        let append = journal.append(&topic, Batch::new(updates).unwrap(), self.now);
        let khala_core::Append::Written(receipt) = append.now_or_never().unwrap().unwrap() else {
            panic!("nothing conflicts")
        };
        receipt.cursor()
    }

    fn trim(&self, name: &str, keep: u64) {
        let keep = Keep::everything().with_updates(keep);
        self.store.journal().trim(&topic(name), keep, self.now).now_or_never().unwrap().unwrap();
    }

    fn epoch(&self, name: &str) -> Epoch {
        self.store.journal().bounds(&topic(name)).now_or_never().unwrap().unwrap().epoch
    }

    fn text(&mut self, text: &str) {
        self.session.handle_text(text, self.now);
    }

    /// Sends a frame, in whichever serializer.
    fn say(
        &mut self,
        join_ref: Option<&str>,
        reference: Option<&str>,
        topic: &str,
        event: &str,
        payload: &Value,
    ) {
        let frame = self.serializer.encode_value(join_ref, reference, topic, event, payload);
        self.text(std::str::from_utf8(&frame).unwrap());
    }

    fn join(&mut self, reference: &str, topic: &str, payload: &Value) {
        self.say(Some(reference), Some(reference), topic, "phx_join", payload);
    }

    /// Carries out all actions and leaves the questions; gives what was sent.
    fn act(&mut self) -> Vec<Bytes> {
        let mut sent = Vec::new();
        while let Some(action) = self.session.poll_action() {
            assert_eq!(self.closed, None, "nothing follows a close");
            match action {
                Action::Ask { channel, topic, question } => {
                    self.questions += 1;
                    self.asked.push((channel, topic, question));
                }
                Action::Close(close) => self.closed = Some(close),
                Action::Send(frame) => sent.push(frame),
                Action::Unwatch(channel) => assert!(self.watching.remove(&channel)),
                Action::Watch { channel, .. } => assert!(self.watching.insert(channel)),
            }
        }
        sent
    }

    /// Answers the questions that wait.
    fn answer(&mut self) {
        for (channel, topic, question) in std::mem::take(&mut self.asked) {
            let (tail, now) = (&self.tail, self.now);
            let answer = match question {
                Question::Bounds { not_older_than } => tail
                    .recent_bounds(&topic, not_older_than, now)
                    .now_or_never()
                    .unwrap()
                    .map(|(bounds, at)| Answer::Bounds(bounds, at)),
                Question::Read { cursor, wanted } => {
                    tail.follow(&topic, cursor, wanted, now).now_or_never().unwrap().map(Answer::Read)
                }
                Question::Snapshot(from) => {
                    let snapshot = self.store.snapshot(&topic, from, ReadLimit::PAGE);
                    snapshot.now_or_never().unwrap().map(Answer::Snapshot)
                }
            };
            self.session.handle_answer(channel, answer, now);
        }
    }

    /// Answers the questions that wait with a failure that no waiting mends; gives what was sent.
    fn corrupt(&mut self) -> Vec<Value> {
        self.act();
        assert!(!self.asked.is_empty(), "something is asked");
        for (channel, _, _) in std::mem::take(&mut self.asked) {
            let error = Error::new(ErrorKind::Corrupt, "test", "a row is not what it was");
            self.session.handle_answer(channel, Err(error), self.now);
        }
        self.run()
    }

    /// Carries out actions and answers questions until there are none; gives the frames as bytes.
    fn bytes(&mut self) -> Vec<Bytes> {
        let mut sent = Vec::new();
        for _ in 0..1_000 {
            sent.extend(self.act());
            if self.asked.is_empty() {
                return sent;
            }
            self.answer();
        }
        panic!("it does not come to rest");
    }

    /// The same, as `[join_ref, ref, topic, event, payload]`.
    fn run(&mut self) -> Vec<Value> {
        let serializer = self.serializer;
        self.bytes().iter().map(|frame| show(serializer, frame)).collect()
    }

    /// Lets time pass in steps of at most a second, as long as the session goes on; gives what was sent.
    fn pass(&mut self, time: Duration) -> Vec<Value> {
        let (until, mut sent) = (self.now.plus(time), Vec::new());
        while self.now < until && self.closed.is_none() {
            self.now = until.min(self.session.poll_timeout().max(self.now.plus(Duration::from_millis(1))));
            if self.session.poll_timeout() <= self.now {
                self.session.handle_timeout(self.now);
            }
            sent.extend(self.run());
        }
        sent
    }

    fn channel(&self) -> ChannelId {
        *self.watching.last().expect("something is joined")
    }
}

fn show(serializer: Serializer, frame: &Bytes) -> Value {
    let frame = serializer.decode(std::str::from_utf8(frame).unwrap()).unwrap();
    let payload: Value = serde_json::from_str(frame.payload.get()).unwrap();
    json!([frame.join_ref, frame.reference, frame.topic, frame.event, payload])
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn seqs(batch: &Value) -> Vec<u64> {
    batch[4]["updates"].as_array().unwrap().iter().map(|update| update["seq"].as_u64().unwrap()).collect()
}

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
    rig.pass(seconds(59));
    assert_eq!(rig.closed, None);
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
    // No class says yet what the budget and the tier are.
    let expected = json!({
        "code": "stale_cursor", "reason": "stale_cursor", "message": null,
        "reason_codes": ["retention_floor_breach"], "topic": "run:7:events", "resume_after": 10,
        "retention_floor": 42, "head": 90, "epoch": epoch, "replay_lag": 80, "replay_budget_events": null,
        "qos_tier": null, "full_resync_required": true, "snapshot": "/v1/topics/run:7:events/snapshot",
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
    let mut rig = Rig::with(Store::new(200, 200), Serializer::V2, SessionOptions::default().with_topics(2));
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
    let mut rig = Rig::beside(store, tail, Serializer::V2, SessionOptions::default(), &[Scope::Publish]);
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
    assert!(rig.session.poll_timeout() <= rig.session.expires_at());
    rig.now = START.plus(seconds(3_600));
    rig.session.handle_timeout(rig.now);
    assert!(rig.act().is_empty());
    assert_eq!(rig.closed, Some(Close::TokenExpired));
    rig.say(None, Some("3"), "phoenix", "heartbeat", &json!({}));
    rig.session.handle_drain(rig.now, rig.now);
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
    let close_at = rig.now.plus(seconds(5));
    rig.session.handle_drain(close_at, rig.now);
    assert_eq!(rig.run(), [json!([null, null, "phoenix", "sync:drain", {"retry_after_ms": 5_000}])]);
    rig.session.handle_drain(rig.now, rig.now);
    assert!(rig.run().is_empty(), "once");
    rig.pass(Duration::from_millis(4_999));
    assert_eq!(rig.closed, None);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.closed, Some(Close::Restart));
}

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
fn a_clock_that_goes_back_stops_neither_polling_nor_heads_nor_the_heartbeat() {
    let mut rig = Rig::new();
    rig.now = START.plus(seconds(1));
    rig.join("1", "t", &json!({}));
    rig.run();
    let back = |rig: &mut Rig, time| {
        rig.now = rig.now.minus(time);
        rig.session.handle_timeout(rig.now);
        rig.run()
    };
    back(&mut rig, seconds(900));
    rig.publish("t", vec![update(1)]);
    let sent = rig.pass(seconds(20));
    assert_eq!(seqs(&sent[0]), [1], "it is found by polling, though nothing told of it");
    rig.say(None, None, "phoenix", "heartbeat", &json!({}));
    rig.run();
    back(&mut rig, seconds(60));
    let sent = rig.pass(seconds(45));
    assert_eq!(sent.iter().map(|frame| &frame[3]).collect::<Vec<_>>(), ["sync:head"]);
    assert!(sent[0][4]["age_ms"].as_u64().unwrap() <= 10_000, "{sent:?}");
    assert_eq!(rig.closed, None);
    rig.pass(seconds(15));
    assert_eq!(rig.closed, Some(Close::HeartbeatTimeout));
}

#[test]
fn a_clock_that_goes_back_postpones_neither_a_retry_nor_a_drain() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.run();
    let head = rig.publish("t", vec![update(1)]);
    rig.store.fail(1);
    rig.session.handle_moved(rig.channel(), head);
    assert!(rig.run().is_empty());
    rig.session.handle_drain(rig.now.plus(seconds(5)), rig.now);
    rig.run();
    rig.now = rig.now.minus(seconds(900));
    rig.session.handle_timeout(rig.now);
    let sent = rig.pass(seconds(1));
    assert_eq!(seqs(&sent[0]), [1]);
    rig.pass(Duration::from_millis(3_999));
    assert_eq!(rig.closed, None);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.closed, Some(Close::Restart));
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
fn a_live_channel_reads_again_after_a_failure() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.run();
    let head = rig.publish("t", vec![update(1)]);
    rig.store.fail(2);
    rig.session.handle_moved(rig.channel(), head);
    assert!(rig.run().is_empty());
    assert!(rig.pass(seconds(1)).is_empty());
    let sent = rig.pass(seconds(1));
    assert_eq!(seqs(&sent[0]), [1], "after two failures, two seconds later");
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
fn a_hint_ahead_of_what_can_be_read_does_not_spin_and_is_not_forgotten() {
    let mut rig = Rig::new();
    rig.join("1", "t", &json!({}));
    rig.run();
    let ahead = Cursor::new(rig.epoch("t"), Watermark::new(1).unwrap());
    let before = (rig.questions, rig.store.reads());
    rig.session.handle_moved(rig.channel(), ahead);
    assert!(rig.run().is_empty());
    assert!(rig.questions - before.0 <= 2 && rig.store.reads() - before.1 <= 2);
    // Now it can be read; the retry finds it, long before the poll.
    rig.publish("t", vec![update(1)]);
    let sent = rig.pass(seconds(1));
    assert_eq!(sent.iter().flat_map(seqs).collect::<Vec<_>>(), [1]);
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
    let answer = rig.tail.follow(topic, cursor, wanted, rig.now).now_or_never().unwrap().unwrap();
    let second = rig.publish("t", vec![update(2)]);
    rig.session.handle_moved(rig.channel(), second);
    rig.session.handle_moved(rig.channel(), first);
    rig.session.handle_answer(question.0, Ok(Answer::Read(answer)), rig.now);
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
        &[Scope::Read],
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
        Rig::beside(store, tail, Serializer::V2, SessionOptions::default(), &[Scope::Read])
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
    let options = SessionOptions::default().with_questions_at_once(1.try_into().unwrap());
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
