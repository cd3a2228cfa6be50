//! The driver over a transport in memory, by a clock that stands still until it is moved.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{
    FutureExt as _, Sink, Stream, StreamExt as _,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
};
use khala_core::{
    Batch, Clock as _, Grant, Khala, Kind, LocalFanout, NewUpdate, Payload, Scope, Topic,
    session::{Ended, Progress, Received, Sent, SessionOptions, Transport},
    wire::{Close, Serializer},
};
use serde_json::{Value, json};

use crate::{
    clock::{Task, TestClock},
    store::Store,
};

/// The far end of a transport: what the network has taken, and how much it still takes.
#[derive(Debug, Default)]
struct Network {
    taken: Vec<Sent>,
    /// Frames that it takes before it blocks.
    credit: usize,
    blocked: Option<Waker>,
    flushes: usize,
}

struct Wire {
    received: UnboundedReceiver<Received>,
    network: Arc<Mutex<Network>>,
    /// A frame that the network has not taken yet: the only one that a transport holds.
    held: Option<Sent>,
    progress: Progress,
}

impl Wire {
    fn move_on(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let mut network = self.network.lock().unwrap();
        if self.held.is_some() {
            if network.credit == 0 {
                network.blocked = Some(context.waker().clone());
                return Poll::Pending;
            }
            network.credit -= 1;
            let sent = self.held.take().unwrap();
            if let Sent::Text(frame) = &sent {
                self.progress.add(frame.len());
            }
            network.taken.push(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream for Wire {
    type Item = Received;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Received>> {
        self.received.poll_next_unpin(context)
    }
}

impl Sink<Sent> for Wire {
    type Error = Infallible;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.move_on(context)
    }

    fn start_send(mut self: Pin<&mut Self>, sent: Sent) -> Result<(), Infallible> {
        assert!(self.held.replace(sent).is_none(), "it was ready");
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let moved = self.move_on(context);
        if moved.is_ready() {
            self.network.lock().unwrap().flushes += 1;
        }
        moved
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl Transport for Wire {
    fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

/// A server.
struct Host {
    khala: Khala,
    store: Arc<Store>,
    clock: Arc<TestClock>,
    fanout: LocalFanout,
}

/// One client's connection to it.
struct Peer {
    task: Task<Ended>,
    network: Arc<Mutex<Network>>,
    client: Option<UnboundedSender<Received>>,
    progress: Progress,
    refs: u64,
}

impl Host {
    fn new(page: usize) -> Self {
        let (store, clock, fanout) = (Store::new(page, 200), TestClock::new(), LocalFanout::new());
        let khala = Khala::builder(Arc::clone(&store))
            .with_clock(Arc::<TestClock>::clone(&clock))
            .with_fanout(Arc::new(fanout.clone()))
            .with_sessions(SessionOptions::default())
            .build();
        Self { khala, store, clock, fanout }
    }

    fn connect(&self, lifetime: Duration) -> Peer {
        let expires_at = self.clock.now().plus(lifetime);
        let grant = Grant::assertion("somebody", [Scope::Read.as_str()], expires_at);
        let (client, received) = unbounded();
        let network = Arc::new(Mutex::new(Network { credit: usize::MAX, ..Network::default() }));
        let progress = Progress::new();
        let wire = Wire { received, network: Arc::clone(&network), held: None, progress: progress.clone() };
        let task = Task::new(self.khala.connect(grant, Serializer::V2).run(wire));
        Peer { task, network, client: Some(client), progress, refs: 0 }
    }

    fn publish(&self, name: &str, updates: u64) {
        let update = |n| NewUpdate::new(Kind::parse("k").unwrap(), Payload::of(&n).unwrap());
        let (topic, batch) = (topic(name), Batch::new((0..updates).map(update).collect()).unwrap());
        self.khala.publish(&topic, batch).now_or_never().unwrap().unwrap();
    }

    /// Lets time pass in small steps, and these peers run.
    fn pass(&self, time: Duration, peers: &mut [&mut Peer]) {
        let step = Duration::from_millis(500);
        for _ in 0..time.as_millis() / step.as_millis() {
            self.clock.pass(step);
            for peer in &mut *peers {
                peer.task.run();
            }
        }
    }
}

impl Peer {
    fn say(&mut self, topic: &str, event: &str, payload: &Value) {
        self.refs += 1;
        let text = json!(["1", self.refs.to_string(), topic, event, payload]).to_string();
        self.client.as_ref().unwrap().unbounded_send(Received::Text(text)).unwrap();
    }

    fn beat(&mut self) {
        self.say("phoenix", "heartbeat", &json!({}));
    }

    /// The network takes that many frames, and no more.
    fn take(&mut self, frames: usize) {
        let blocked = {
            let mut network = self.network.lock().unwrap();
            network.credit = frames;
            network.blocked.take()
        };
        blocked.into_iter().for_each(Waker::wake);
    }

    /// What was sent since the last time.
    fn sent(&mut self) -> Vec<Value> {
        self.task.run();
        let taken = std::mem::take(&mut self.network.lock().unwrap().taken);
        let show = |sent: Sent| match sent {
            Sent::Close(close) => json!({ "close": close.code() }),
            Sent::Text(frame) => serde_json::from_slice(&frame).unwrap(),
        };
        taken.into_iter().map(show).collect()
    }

    fn join(&mut self, topic: &str, payload: &Value) -> Vec<Value> {
        self.say(topic, "phx_join", payload);
        self.sent()
    }
}

fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn seqs(sent: &[Value]) -> Vec<u64> {
    let updates = sent.iter().filter_map(|frame| frame[4]["updates"].as_array()).flatten();
    updates.map(|update| update["seq"].as_u64().unwrap()).collect()
}

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn what_is_published_comes_with_one_flush() {
    let host = Host::new(1);
    let mut peer = host.connect(HOUR);
    assert_eq!(peer.join("t", &json!({})).len(), 1);
    host.publish("t", 5);
    let before = peer.network.lock().unwrap().flushes;
    let sent = peer.sent();
    assert_eq!((seqs(&sent), sent.len()), (vec![1, 2, 3, 4, 5], 5));
    let flushes = peer.network.lock().unwrap().flushes - before;
    // The journal answers page by page here, and each answer is sent when it comes.
    assert!(flushes <= 5, "{flushes}");
    let mut other = host.connect(HOUR);
    let sent = other.join("t", &json!({"from": "floor"}));
    assert_eq!(seqs(&sent), [1, 2, 3, 4, 5]);
    assert!(other.network.lock().unwrap().flushes <= 3, "what is in memory goes out with one flush");
}

#[test]
fn a_stalled_transport_is_evicted_only_without_progress() {
    let host = Host::new(200);
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
    let host = Host::new(200);
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
    let host = Host::new(200);
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
    let host = Host::new(200);
    let mut peer = host.connect(seconds(10));
    peer.join("t", &json!({}));
    host.pass(seconds(10), &mut [&mut peer]);
    assert_eq!(peer.sent(), [json!({"close": 4001})]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::TokenExpired)));
}

#[test]
fn a_slow_reader_that_beats_is_not_silent() {
    let host = Host::new(200);
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
fn silence_ends_a_connection() {
    let host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    host.pass(seconds(60), &mut [&mut peer]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::HeartbeatTimeout)));
}

#[test]
fn nothing_is_asked_for_while_the_transport_is_blocked() {
    let host = Host::new(10);
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
    let host = Host::new(200);
    let mut peers: Vec<_> = (0..10).map(|_| host.connect(HOUR)).collect();
    for peer in &mut peers {
        peer.join("t", &json!({}));
    }
    assert_eq!(host.khala.connections(), 10);
    host.khala.drain(seconds(20));
    let mut told = Vec::new();
    for peer in &mut peers {
        let sent = peer.sent();
        assert_eq!((&sent[0][2], &sent[0][3]), (&json!("phoenix"), &json!("sync:drain")));
        told.push(sent[0][4]["retry_after_ms"].as_u64().unwrap());
    }
    told.sort_unstable();
    assert_eq!(told, (1..=10).map(|turn| turn * 2_000).collect::<Vec<_>>());
    for turn in 1..=10 {
        host.pass(seconds(2), &mut peers.iter_mut().collect::<Vec<_>>());
        let closed =
            peers.iter().filter(|peer| peer.task.done == Some(Ended::Closed(Close::Restart))).count();
        assert_eq!(closed, turn);
    }
    drop(peers);
    assert_eq!(host.khala.connections(), 0);
    let mut late = host.connect(HOUR);
    assert_eq!(late.sent()[0][3], "sync:drain", "who comes now is told at once");
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
    assert_eq!((host.fanout.watched().len(), host.khala.connections(), host.clock.sleepers()), (0, 0, 0));
}

#[test]
fn a_broken_rule_of_the_transport_closes_with_its_code() {
    let host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.client.as_ref().unwrap().unbounded_send(Received::Fault(Close::BinaryFrame)).unwrap();
    assert_eq!(peer.sent(), [json!({"close": 1003})]);
    assert_eq!(peer.task.done, Some(Ended::Closed(Close::BinaryFrame)));
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
