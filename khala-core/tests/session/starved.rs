//! Who waits for whom: a crowd that replays, and those who only want to hear what is new.

use std::{
    collections::HashSet,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Append, Batch, Bounds, DocKey, Error, Grant, Khala, MemoryStore, Timestamp, Topic, Update,
    admission::Rate,
    auth::Access,
    class::{Classes, TopicClass, TopicPattern},
    documents::{Documents, Snapshot, SnapshotFrom},
    journal::{DueAfter, DuePage, Journal, Keep, ReadFrom, ReadLimit, Replay, Settled, TopicPage, Trimmed},
    replay::ReplayOptions,
    tail::TailOptions,
};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    clock::TestClock,
    guards::Ledger,
    host::{HOUR, Host, seqs},
};

/// A memory journal whose reads of some topics take for ever.
#[derive(Debug)]
struct Holding {
    inner: MemoryStore,
    held: watch::Sender<HashSet<String>>,
}

impl Holding {
    fn new() -> Arc<Self> {
        Arc::new(Self { inner: MemoryStore::new(), held: watch::Sender::default() })
    }

    fn hold(&self, topics: &[&str]) {
        self.held.send_replace(topics.iter().map(ToString::to_string).collect());
    }
}

#[async_trait]
impl Journal for Holding {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        self.inner.append(topic, batch, now).await
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        let _ = self.held.subscribe().wait_for(|held| !held.contains(topic.as_str())).await;
        self.inner.read(topic, start, limit).await
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.inner.check_writable().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        self.inner.bounds(topic).await
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.inner.trim(topic, keep, now).await
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.inner.plan_trim(topic, keep, now).await
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        self.inner.topics(prefix, after, limit).await
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        self.inner.due(rules, after, until, limit).await
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        self.inner.settle(rules, settled).await
    }
}

#[async_trait]
impl Documents for Holding {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        self.inner.document(topic, key).await
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        self.inner.snapshot(topic, from, limit).await
    }
}

/// A server over such a journal that reads history for one at a time.
fn host(journal: &Arc<Holding>) -> Host {
    let mut host = Host::new(200);
    let clock = TestClock::new();
    let all = TopicClass {
        replay_budget: None,
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_read([Access::Read.scope()])
    };
    host.khala = Khala::builder(crate::store::roles(journal))
        .with_clock(Arc::<TestClock>::clone(&clock))
        .with_classes(Classes::new(vec![all]).unwrap())
        .with_replays(ReplayOptions { concurrent_reads: NonZeroUsize::MIN, ..ReplayOptions::default() })
        .build();
    host.clock = clock;
    host
}

/// `replay.rs`: "nobody waits for a turn to hear what is new".
#[test]
fn replays_that_wait_for_their_turn_do_not_keep_what_is_new_from_the_same_connection() {
    let journal = Holding::new();
    let host = host(&journal);
    for name in ["slow", "a", "b", "c", "d"] {
        host.publish(name, 10);
    }
    // Somebody else reads history, and has the turn.
    journal.hold(&["slow"]);
    let mut other = host.connect(HOUR);
    other.join("slow", &json!({"from": "floor"}));

    let mut peer = host.connect(HOUR);
    assert_eq!(peer.join("live", &json!({}))[0][4]["status"], "ok");
    host.publish("live", 1);
    assert_eq!(seqs(&peer.sent()), [1]);
    // The client joins four topics more, and those replays wait for their turn.
    for name in ["a", "b", "c", "d"] {
        peer.join(name, &json!({"from": "floor"}));
    }
    host.publish("live", 1);
    assert_eq!(seqs(&peer.sent()), [2], "it is new, and takes no turn");
}

/// How often somebody who comes back when told is let in within two minutes, while another joins and leaves.
fn let_in(attack: bool) -> (u32, u32) {
    let rate = Rate::new(NonZeroU32::new(20).unwrap(), NonZeroU32::new(40).unwrap());
    let replays = ReplayOptions { rate: Some(rate), ..ReplayOptions::default() };
    let all = TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_read([Access::Read.scope()]);
    let classes = Classes::new(vec![TopicClass { replay_budget: None, ..all }]).unwrap();
    let tail = TailOptions { topic_bytes: 1, history_bytes: 0, ..TailOptions::default() };
    let host = Host::built(200, Ledger::default(), |khala| {
        khala.with_replays(replays).with_classes(classes).with_tail(tail)
    });
    for _ in 0..4 {
        host.publish("long", 1_000);
    }
    host.publish("short", 250);
    let who = |name| {
        Grant::from_verified(VerifiedClaims::new(name, [Access::Read.scope()], host.khala.now().plus(HOUR)))
    };
    let mut greedy = host.admit(who("greedy"));
    let mut patient = host.admit(who("patient"));
    let (mut back_at, mut times, mut refused) = (0, 0, 0);
    for millis in (0..120_000).step_by(10) {
        if attack {
            // It takes one page, and leaves.
            greedy.take(1);
            greedy.join("long", &json!({"from": "floor"}));
            greedy.say("long", "phx_leave", &json!({}));
            greedy.take(usize::MAX);
            greedy.sent();
        }
        if millis >= back_at {
            let answer = patient.join("short", &json!({"from": "floor"})).remove(0)[4].clone();
            if answer["status"] == "ok" {
                times += 1;
                back_at = millis + 1_000;
                patient.say("short", "phx_leave", &json!({}));
                patient.sent();
            } else {
                refused += 1;
                back_at = millis + answer["response"]["retry_after_ms"].as_u64().unwrap();
            }
        }
        patient.beat();
        patient.sent();
        host.clock.pass(Duration::from_millis(10));
    }
    (times, refused)
}

/// One client that joins and leaves, within the default limits of a connection, keeps everybody else out.
#[test]
fn one_client_cannot_keep_the_gate_shut_for_the_others() {
    assert_eq!(let_in(false), (120, 0), "alone it is let in every second");
    let (times, refused) = let_in(true);
    assert!(
        times >= 10,
        "it was let in {times} times, and put off {refused} times, at twenty pages a second"
    );
}

/// What those were told who did not wait is remembered for hours, and told to those who do.
#[test]
fn who_does_not_wait_makes_nobody_else_wait_longer() {
    let rate = Rate::new(NonZeroU32::new(20).unwrap(), NonZeroU32::new(20).unwrap());
    let replays = ReplayOptions { rate: Some(rate), ..ReplayOptions::default() };
    let all = TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_read([Access::Read.scope()]);
    let classes = Classes::new(vec![TopicClass { replay_budget: None, ..all }]).unwrap();
    let tail = TailOptions { topic_bytes: 1, history_bytes: 0, ..TailOptions::default() };
    let host = Host::built(200, Ledger::default(), |khala| {
        khala.with_replays(replays).with_classes(classes).with_tail(tail)
    });
    for name in ["t", "u", "v"] {
        for _ in 0..4 {
            host.publish(name, 1_000);
        }
    }
    let join = |name| {
        let mut peer = host.connect(HOUR);
        peer.take(1);
        peer.join(name, &json!({"from": "floor"})).remove(0)[4].clone()
    };
    assert_eq!(join("v")["status"], "ok");
    // One client comes back every ten milliseconds, as phoenix.js does, for a minute.
    let mut eager = host.connect(HOUR);
    for _ in 0..6_000 {
        eager.take(1);
        eager.join("t", &json!({"from": "floor"}));
        eager.take(usize::MAX);
        eager.say("t", "phx_leave", &json!({}));
        eager.sent();
        host.clock.pass(Duration::from_millis(10));
    }
    drop(eager);
    // Ten minutes later.
    host.clock.pass(Duration::from_secs(600));
    assert_eq!(join("t")["status"], "ok");
    let told = join("u")["response"]["retry_after_ms"].as_u64().unwrap();
    assert!(told <= 1_300, "twenty pages at twenty a second are a second, and nobody else waits: {told} ms");
}
