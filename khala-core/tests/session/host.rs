//! A server and its clients over transports in memory, by a clock that stands still until it is moved.

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
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Batch, Grant, Khala, KhalaBuilder, Kind, NewUpdate, Payload, Timestamp, Token, Topic, Watermark,
    admission::AdmissionOptions,
    auth::{Access, Revocation, RevocationId, RevocationTarget, Revocations as _},
    clock::Clock as _,
    connection::{Ended, Progress, Received, Sent, Transport},
    fanout::LocalFanout,
    session::SessionOptions,
    wire::{Close, Serializer},
};
use serde_json::{Value, json};

use crate::{
    clock::{Task, TestClock},
    guards::{Doorman, Hints, Ledger, Tokens},
    store::Store,
};

/// The far end of a transport: what the network has taken, and how much it still takes.
#[derive(Debug, Default)]
pub struct Network {
    pub taken: Vec<Sent>,
    /// What the transport was given, and when, whether or not the network has taken it.
    pub given: Vec<(Timestamp, Sent)>,
    /// Frames that it takes before it blocks.
    credit: usize,
    blocked: Option<Waker>,
    pub flushes: usize,
}

pub struct Wire {
    received: UnboundedReceiver<Received>,
    network: Arc<Mutex<Network>>,
    /// A frame that the network has not taken yet: the only one that a transport holds.
    held: Option<Sent>,
    progress: Progress,
    clock: Arc<TestClock>,
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
        self.network.lock().unwrap().given.push((self.clock.now(), sent.clone()));
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
pub struct Host {
    pub khala: Khala,
    pub store: Arc<Store>,
    pub clock: Arc<TestClock>,
    pub fanout: LocalFanout,
    pub hints: Arc<Hints>,
    pub tokens: Arc<Tokens>,
    pub doorman: Arc<Doorman>,
    pub ledger: Arc<Ledger>,
    /// Keeps up with revocations.
    pub keeper: Task<()>,
}

/// One client's connection to it.
pub struct Peer {
    pub task: Task<Ended>,
    pub network: Arc<Mutex<Network>>,
    pub client: Option<UnboundedSender<Received>>,
    pub progress: Progress,
    pub refs: u64,
}

impl Host {
    pub fn new(page: usize) -> Self {
        Self::with(page, SessionOptions::default(), Ledger::default())
    }

    pub fn with(page: usize, options: SessionOptions, ledger: Ledger) -> Self {
        Self::built(page, ledger, |khala| khala.with_sessions(options))
    }

    pub fn built(page: usize, ledger: Ledger, rest: impl FnOnce(KhalaBuilder) -> KhalaBuilder) -> Self {
        let (store, clock, hints) = (Store::new(page, 200), TestClock::new(), Arc::<Hints>::default());
        let (tokens, doorman, ledger) =
            (Arc::<Tokens>::default(), Arc::<Doorman>::default(), Arc::new(ledger));
        let khala = Khala::builder(crate::store::roles(&store))
            .with_clock(Arc::<TestClock>::clone(&clock))
            .with_fanout(Arc::<Hints>::clone(&hints))
            .with_verifier(Arc::<Tokens>::clone(&tokens))
            .with_admission(AdmissionOptions::unlimited())
            .with_authorizer(Arc::<Doorman>::clone(&doorman))
            .with_roles(|roles| roles.revocations = Arc::<Ledger>::clone(&ledger));
        let khala = rest(khala).build();
        let keeper = {
            let khala = khala.clone();
            Task::new(async move { khala.access().run_revocation_sync().await })
        };
        Self { khala, store, clock, fanout: hints.inner.clone(), hints, tokens, doorman, ledger, keeper }
    }

    /// A grant of somebody who may read, that ends so long from now.
    pub fn grant(&self, lifetime: Duration) -> Grant {
        let now = self.clock.now();
        let grant = VerifiedClaims::new("somebody", [Access::Read.scope()], now.plus(lifetime));
        Grant::from_verified(grant).with(|claims| claims.issued_at = Some(now))
    }

    pub fn connect(&self, lifetime: Duration) -> Peer {
        self.admit(self.grant(lifetime))
    }

    pub fn admit(&self, grant: Grant) -> Peer {
        let (client, received) = unbounded();
        let network = Arc::new(Mutex::new(Network { credit: usize::MAX, ..Network::default() }));
        let progress = Progress::new();
        let wire = Wire {
            received,
            network: Arc::clone(&network),
            held: None,
            progress: progress.clone(),
            clock: Arc::clone(&self.clock),
        };
        let connection = self.khala.connect(grant, None, Serializer::V2).expect("nothing is limited");
        Peer { task: Task::new(connection.run(wire)), network, client: Some(client), progress, refs: 0 }
    }

    /// What a token proves now, if that is known at once.
    pub fn verify(&self, token: &str) -> Option<Result<Grant, khala_core::auth::Denied>> {
        self.khala.access().verify(&Token::new(token)).now_or_never()
    }

    pub fn publish(&self, name: &str, updates: u64) {
        let update = |n| NewUpdate::new(Kind::parse("k").unwrap(), Payload::of(&n).unwrap());
        let (topic, batch) = (topic(name), Batch::new((0..updates).map(update).collect()).unwrap());
        self.khala.publish(&topic, batch).now_or_never().unwrap().unwrap();
    }

    /// Lets time pass in small steps, and these peers run.
    pub fn pass(&mut self, time: Duration, peers: &mut [&mut Peer]) {
        let step = time.min(Duration::from_millis(500));
        for _ in 0..time.as_millis() / step.as_millis() {
            self.clock.pass(step);
            self.keeper.run();
            for peer in &mut *peers {
                peer.task.run();
            }
        }
    }
}

impl Peer {
    pub fn say(&mut self, topic: &str, event: &str, payload: &Value) {
        self.refs += 1;
        let text = json!(["1", self.refs.to_string(), topic, event, payload]).to_string();
        self.client.as_ref().unwrap().unbounded_send(Received::Text(text)).unwrap();
    }

    pub fn beat(&mut self) {
        self.say("phoenix", "heartbeat", &json!({}));
    }

    /// The network takes that many frames, and no more.
    pub fn take(&mut self, frames: usize) {
        let blocked = {
            let mut network = self.network.lock().unwrap();
            network.credit = frames;
            network.blocked.take()
        };
        blocked.into_iter().for_each(Waker::wake);
    }

    /// What was sent since the last time.
    pub fn sent(&mut self) -> Vec<Value> {
        self.task.run();
        let taken = std::mem::take(&mut self.network.lock().unwrap().taken);
        let show = |sent: Sent| match sent {
            Sent::Close(close) => json!({ "close": close.code() }),
            Sent::Text(frame) => serde_json::from_slice(&frame).unwrap(),
        };
        taken.into_iter().map(show).collect()
    }

    pub fn join(&mut self, topic: &str, payload: &Value) -> Vec<Value> {
        self.say(topic, "phx_join", payload);
        self.sent()
    }
}

impl Peer {
    /// Hands over a token.
    pub fn refresh(&mut self, token: &str) {
        self.say("phoenix", "access_token", &json!({ "access_token": token }));
    }
}

pub fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn seqs(sent: &[Value]) -> Vec<u64> {
    let updates = sent.iter().filter_map(|frame| frame[4]["updates"].as_array()).flatten();
    updates.map(|update| update["seq"].as_u64().unwrap()).collect()
}

pub const HOUR: Duration = Duration::from_secs(3_600);

pub fn id(text: &str) -> RevocationId {
    RevocationId::parse(text).unwrap()
}

pub fn jti(text: &str) -> RevocationTarget {
    RevocationTarget::Jti(id(text))
}

impl Host {
    /// Revokes through this node.
    pub fn revoke(&self, target: RevocationTarget) -> Watermark {
        let revocation = Revocation::new(target, self.khala.now());
        self.khala.access().revoke(revocation).now_or_never().expect("the store does not pause").unwrap()
    }

    /// Revokes as another node does, without the hint.
    pub fn revoke_elsewhere(&self, target: RevocationTarget) -> Watermark {
        let revocation = Revocation::new(target, self.khala.now());
        self.ledger.store().revoke(revocation).now_or_never().unwrap().unwrap()
    }

    pub fn named(&self, token: &str) -> Peer {
        self.admit(self.grant(HOUR).with_token_id(token))
    }

    pub fn token(&self, text: &str, grant: Grant) {
        self.tokens.put(text, Ok(grant));
    }
}

impl Peer {
    pub fn closed(&mut self) -> Option<Close> {
        self.task.run();
        match self.task.done {
            Some(Ended::Closed(close)) => Some(close),
            Some(Ended::Gone) => panic!("the server did not close it"),
            None => None,
        }
    }

    pub fn given(&self) -> usize {
        self.network.lock().unwrap().given.len()
    }
}

/// The grant of a token that says something else.
pub trait GrantExt: Sized {
    fn with(&self, change: impl FnOnce(&mut VerifiedClaims)) -> Self;

    fn with_token_id(&self, id: impl Into<String>) -> Self {
        self.with(|claims| claims.token_id = Some(id.into()))
    }

    fn with_session_id(&self, id: impl Into<String>) -> Self {
        self.with(|claims| claims.session_id = Some(id.into()))
    }

    fn with_key_id(&self, id: impl Into<String>) -> Self {
        self.with(|claims| claims.key_id = Some(id.into()))
    }
}

impl GrantExt for Grant {
    fn with(&self, change: impl FnOnce(&mut VerifiedClaims)) -> Self {
        let mut claims = self.verified().clone();
        change(&mut claims);
        Self::from_verified(claims)
    }
}
