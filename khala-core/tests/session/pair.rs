//! Both ends of several connections in simulated time: the server is the real session over the real tail, its driver
//! and its network are simulated, and so is the client.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture, task::noop_waker_ref};
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Append, Batch, Cursor, Error, Grant, NewUpdate, Timestamp, Topic,
    admission::{Admitted, Limited},
    auth::{Access, Authorizer as _, Denied},
    class::{Classes, TopicClass, TopicPattern},
    documents::{Documents as _, Snapshot, SnapshotFrom},
    fanout::{LocalFanout, Watch},
    journal::{Journal, Keep, ReadLimit},
    session::{Action, Answer, ChannelId, Question, Session, SessionOptions},
    snapshots::{SharedSnapshot, SharedSnapshotPage},
    tail::{CacheLookup, TailJournal, TailOptions},
    wire::{Close, Encoded, JoinRequest, Serializer},
};

use crate::{
    client::{Client, State, Truth},
    clock::{both, steady},
    coverage::{Saw, saw},
    guards::{Doorman, Mood},
    store::Store,
};

/// Frames that the network takes from a server before the client has read any.
const IN_FLIGHT: usize = 3;

type Asked = BoxFuture<'static, Result<Answer, Error>>;

#[derive(Debug)]
enum Down {
    Close,
    Frame(Encoded),
}

/// One connection.
struct Line {
    /// None once the server has closed it.
    session: Option<Session>,
    expires_at: Timestamp,
    /// Whether a token is to be verified.
    verifying: bool,
    up: VecDeque<String>,
    down: VecDeque<Down>,
    /// What the driver could not send yet.
    held: Option<Encoded>,
    asked: BTreeMap<ChannelId, Asked>,
    watches: BTreeMap<ChannelId, Watch>,
}

pub struct World {
    pub now: Timestamp,
    pub store: Arc<Store>,
    pub truth: Truth,
    pub topics: Vec<Topic>,
    pub clients: Vec<Client>,
    doorman: Arc<Doorman>,
    tail: Arc<TailJournal>,
    fanout: LocalFanout,
    /// Announcements on their way.
    hints: Vec<(Topic, Cursor)>,
    lines: Vec<Option<Line>>,
    options: SessionOptions,
    classes: Classes,
}

/// The answer to a question, as `Khala` gives it.
async fn answer(
    (tail, store, doorman): (Arc<TailJournal>, Arc<Store>, Arc<Doorman>),
    topic: Topic,
    question: Question,
    now: Timestamp,
) -> Result<Answer, Error> {
    Ok(match question {
        Question::Access(grant) => {
            store.turn().await;
            Answer::Access(doorman.authorize(&grant, &topic, Access::Read).await)
        }
        Question::Bounds { not_older_than } => {
            let (bounds, confirmed_at) = tail.recent_bounds(&topic, not_older_than, steady(now)).await?;
            Answer::Bounds(bounds, confirmed_at)
        }
        Question::Resume { .. } | Question::Snapshot(SnapshotFrom::Start) if doorman.defers() => {
            Answer::Deferred(Limited::replay_deferred(Duration::from_millis(300)))
        }
        Question::Read { cursor, wanted } | Question::Resume { cursor, wanted, .. } => {
            Answer::Read(tail.follow(&topic, cursor, wanted, steady(now)).await?)
        }
        Question::Snapshot(from) => {
            Answer::Snapshot(shared(&topic, store.snapshot(&topic, from, ReadLimit::PAGE).await?))
        }
    })
}

/// A snapshot as a session gets it.
pub fn shared(topic: &Topic, snapshot: Snapshot) -> SharedSnapshot {
    match snapshot {
        Snapshot::Page(page) => SharedSnapshot::Page(Arc::new(SharedSnapshotPage::new(topic.clone(), page))),
        Snapshot::Stale(stale) => SharedSnapshot::Stale(stale),
    }
}

/// The budget of each topic: most things happen to `a`, where a few updates are too many.
pub fn budget(topic: &Topic) -> Option<u64> {
    classes().of(topic).and_then(|class| class.replay_budget)
}

fn classes() -> Classes {
    let class = |name: &str, budget| {
        let pattern = TopicPattern::parse(if name == "a" { "a" } else { "**" }).unwrap();
        TopicClass {
            replay_budget: budget,
            ..TopicClass::new(name, pattern).with_read([Access::Read.scope()])
        }
    };
    Classes::new(vec![class("a", Some(8)), class("others", None)]).unwrap()
}

pub fn options() -> SessionOptions {
    SessionOptions {
        topics: 3,
        heartbeat_timeout: Duration::from_secs(20),
        poll_interval: Duration::from_secs(2),
        head_interval: Duration::from_secs(3),
        retry_after: Duration::from_millis(200),
        concurrent_reads: 2.try_into().unwrap(),
        ..SessionOptions::default()
    }
}

fn grant(expires_at: Timestamp) -> Grant {
    Grant::from_verified(VerifiedClaims::new("somebody", [Access::Read.scope()], expires_at))
}

impl World {
    pub fn new(topics: &[&str], clients: usize) -> Self {
        let topics: Vec<_> = topics.iter().map(|topic| Topic::parse(topic).unwrap()).collect();
        let store = Store::new(3, 1);
        let serializer = |index| if index % 2 == 0 { Serializer::V2 } else { Serializer::V1 };
        Self {
            now: Timestamp::from_millis(1_000_000),
            tail: Arc::new(Self::tail(&store)),
            store,
            doorman: Arc::default(),
            truth: Truth::default(),
            clients: (0..clients).map(|i| Client::new(serializer(i), &topics, 3 + i as u64)).collect(),
            topics,
            fanout: LocalFanout::new(),
            hints: Vec::new(),
            lines: (0..clients).map(|_| None).collect(),
            options: options(),
            classes: classes(),
        }
    }

    fn tail(store: &Arc<Store>) -> TailJournal {
        // So small that rings shrink all the time.
        let options = TailOptions { topic_bytes: 1_500, total_bytes: 4_000, ..TailOptions::default() };
        TailJournal::new(Arc::<Store>::clone(store), options)
    }

    /// Appends through this server, or as another process does, and announces it.
    pub fn publish(&mut self, topic: usize, updates: &[NewUpdate], through: bool, announced: bool) {
        let topic = self.topics[topic].clone();
        let batch = Batch::new(updates.to_vec()).unwrap();
        let journal = self.store.journal();
        let append = if through {
            self.tail.append(&topic, batch, self.now).now_or_never()
        } else {
            journal.append(&topic, batch, self.now).now_or_never()
        };
        let append = append.expect("appends do not pause").expect("appends do not fail");
        let Append::Written(receipt) = append else { panic!("nothing conflicts") };
        let stored = updates.iter().cloned().zip(receipt.first.as_u64()..);
        let stored = stored.map(|(update, seq)| update.stored(khala_core::Seq::new(seq).unwrap(), self.now));
        self.truth.write(&topic, receipt.epoch, stored.collect());
        if announced {
            self.hints.push((topic, receipt.cursor()));
        }
    }

    /// Delivers one announcement, whichever.
    pub fn hint(&mut self, which: usize, fate: Fate) {
        if self.hints.is_empty() {
            return;
        }
        let (topic, head) = self.hints.swap_remove(which % self.hints.len());
        match fate {
            Fate::Delivered => self.fanout.raise(&topic, head),
            Fate::Dropped => saw(Saw::HintDropped),
            Fate::Repeated => {
                saw(Saw::HintRepeated);
                self.fanout.raise(&topic, head);
                self.hints.push((topic, head));
                // A driver may be told of a level that is not the newest any more.
                for line in self.lines.iter_mut().flatten() {
                    let Some(session) = &mut line.session else { continue };
                    for id in line.watches.keys() {
                        session.handle_moved(*id, head);
                    }
                }
            }
        }
    }

    pub fn trim(&mut self, topic: usize, keep: u64, through: bool) {
        let (topic, keep) = (&self.topics[topic], Keep { updates: Some(keep), ..Keep::everything() });
        let journal = self.store.journal();
        let trim = if through {
            self.tail.trim(topic, keep, self.now).now_or_never()
        } else {
            journal.trim(topic, keep, self.now).now_or_never()
        };
        trim.expect("trims do not pause").expect("trims do not fail");
    }

    pub fn wipe(&mut self) {
        saw(Saw::Wiped);
        self.store.wipe();
    }

    pub fn restart(&mut self) {
        saw(Saw::Restart);
        for client in 0..self.clients.len() {
            self.disconnect(client);
        }
        self.tail = Arc::new(Self::tail(&self.store));
        self.fanout = LocalFanout::new();
    }

    pub fn connect(&mut self, client: usize, lifetime: Duration) {
        if self.lines[client].is_some() {
            return;
        }
        let expires_at = self.now.plus(lifetime);
        let (grant, serializer) = (grant(expires_at), self.clients[client].serializer);
        let session = Session::new(grant, Admitted::unlimited(), serializer, self.options, steady(self.now))
            .with_classes(self.classes.clone());
        let mut up = VecDeque::new();
        for channel in 0..self.topics.len() {
            if self.clients[client].channels[channel].state == State::Failed {
                up.push_back(self.clients[client].join(channel, None));
            }
        }
        self.lines[client] = Some(Line {
            session: Some(session),
            expires_at,
            verifying: false,
            up,
            down: VecDeque::new(),
            held: None,
            asked: BTreeMap::new(),
            watches: BTreeMap::new(),
        });
    }

    pub fn disconnect(&mut self, client: usize) {
        if self.lines[client].take().is_some() {
            self.clients[client].lost();
        }
    }

    pub fn join(&mut self, client: usize, topic: usize, request: Option<JoinRequest>) {
        let Some(line) = &mut self.lines[client] else {
            if let Some(request) = request {
                let channel = &mut self.clients[client].channels[topic];
                channel.state = State::Failed;
                (channel.request, channel.cursor) = (request, None);
            }
            return;
        };
        line.up.push_back(self.clients[client].join(topic, request));
    }

    pub fn leave(&mut self, client: usize, topic: usize) {
        let leave = self.clients[client].leave(topic);
        if let Some(line) = &mut self.lines[client] {
            line.up.extend(leave);
        }
    }

    /// Joins again what failed, as a Phoenix client does by itself.
    pub fn rejoin(&mut self, client: usize) {
        let Some(line) = &mut self.lines[client] else { return };
        for channel in 0..self.topics.len() {
            if self.clients[client].channels[channel].state == State::Failed {
                line.up.push_back(self.clients[client].join(channel, None));
            }
        }
    }

    pub fn drain(&mut self, client: usize, over: Duration) {
        if let Some(Line { session: Some(session), .. }) = &mut self.lines[client] {
            saw(Saw::Drained);
            session.handle_drain(over, both(self.now));
        }
    }

    /// A client hands over a token that will be taken or refused.
    pub fn refresh(&mut self, client: usize) {
        if let Some(line) = &mut self.lines[client] {
            line.up.push_back(self.clients[client].refresh());
        }
    }

    /// The token that is being verified turns out to be good for so long, or not to be good.
    pub fn verify(&mut self, client: usize, lifetime: Option<Duration>) -> bool {
        let Some(line) = &mut self.lines[client] else { return false };
        let Some(session) = &mut line.session else { return false };
        if !std::mem::take(&mut line.verifying) {
            return false;
        }
        let verdict = lifetime.map(|lifetime| grant(self.now.plus(lifetime)));
        session.handle_verified(verdict.ok_or(Denied::TokenTooOld), both(self.now));
        line.expires_at = session.expires_at();
        true
    }

    pub fn authorizer(&mut self, up: bool) {
        self.doorman.gate.set(if up { Mood::Up } else { Mood::Down });
    }

    /// Puts that many replays off.
    pub fn defer(&mut self, replays: usize) {
        self.doorman.defer(replays);
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    /// Brings that many frames to the server.
    pub fn up(&mut self, client: usize, frames: usize) -> bool {
        let Some(line) = &mut self.lines[client] else { return false };
        let Some(session) = &mut line.session else { return false };
        let frames = frames.min(line.up.len());
        for text in line.up.drain(..frames) {
            session.handle_text(&text, both(self.now));
        }
        frames > 0
    }

    /// Brings that many frames to the client.
    pub fn down(&mut self, client: usize, frames: usize) -> bool {
        let Some(line) = &mut self.lines[client] else { return false };
        let frames = frames.min(line.down.len());
        for sent in line.down.drain(..frames).collect::<Vec<_>>() {
            match sent {
                Down::Frame(frame) => {
                    self.clients[client].receive(std::str::from_utf8(&frame).unwrap(), &self.truth);
                }
                Down::Close => self.disconnect(client),
            }
        }
        frames > 0
    }

    /// Lets the driver carry out that many actions.
    pub fn drive(&mut self, client: usize, actions: usize) -> bool {
        let Some(line) = &mut self.lines[client] else { return false };
        let Some(session) = &mut line.session else { return false };
        if let Some(frame) = line.held.take() {
            if self.now >= line.expires_at {
                saw(Saw::Expired);
                line.close();
                return true;
            }
            if line.down.len() >= IN_FLIGHT {
                line.held = Some(frame);
                return false;
            }
            line.down.push_back(Down::Frame(frame));
        }
        for (id, watch) in &mut line.watches {
            if let Some(head) = watch.moved().now_or_never() {
                session.handle_moved(*id, head);
            }
        }
        if session.poll_timeout(both(self.now)) <= steady(self.now) {
            session.handle_timeout(both(self.now));
            assert!(
                session.poll_timeout(both(self.now)) > steady(self.now) || session.is_ended(),
                "a timeout is handled once"
            );
        }
        let (mut done, mut asked) = (false, false);
        for _ in 0..actions {
            let Some(action) = session.poll_action() else { break };
            done = true;
            match action {
                Action::Send(frame) => {
                    assert!(!asked, "nothing is asked for while there is something to send");
                    assert!(self.now < line.expires_at, "nothing after expiry");
                    if line.down.len() >= IN_FLIGHT {
                        saw(Saw::Blocked);
                        line.held = Some(frame);
                        return true;
                    }
                    line.down.push_back(Down::Frame(frame));
                }
                Action::Close(close) => {
                    assert!(session.poll_action().is_none(), "nothing follows a close");
                    if close == Close::TokenExpired {
                        saw(Saw::Expired);
                        assert!(self.now >= line.expires_at);
                    }
                    line.close();
                    return true;
                }
                Action::Ask { channel, topic, question } => {
                    asked = true;
                    let at_once = self.options.concurrent_reads.get();
                    assert!(
                        line.asked.len() < 2 * at_once,
                        "as many that wait for their turn, and as many others"
                    );
                    assert!(!line.asked.contains_key(&channel), "one question at a time");
                    let waits = match &question {
                        Question::Read { cursor, wanted } | Question::Resume { cursor, wanted, .. } => {
                            match self.tail.get(&topic, *cursor, *wanted, steady(self.now)) {
                                CacheLookup::Hit(followed) => {
                                    asked = false;
                                    session.handle_answer(
                                        channel,
                                        Ok(Answer::Read(followed)),
                                        both(self.now),
                                    );
                                    continue;
                                }
                                CacheLookup::MissAtHead => false,
                                CacheLookup::MissBehind => true,
                            }
                        }
                        Question::Snapshot(_) => true,
                        Question::Access(_) | Question::Bounds { .. } => false,
                    };
                    if waits && !session.handle_waiting(channel) {
                        saw(Saw::Withdrawn);
                        continue;
                    }
                    let host = (Arc::clone(&self.tail), Arc::clone(&self.store), Arc::clone(&self.doorman));
                    line.asked.insert(channel, answer(host, topic, question, self.now).boxed());
                }
                Action::Verify(_) => {
                    assert!(!std::mem::replace(&mut line.verifying, true), "one at a time");
                }
                Action::Watch { channel, topic } => {
                    let watch = self.fanout.observe(&topic);
                    if let Some(head) = watch.head() {
                        session.handle_moved(channel, head);
                    }
                    assert!(line.watches.insert(channel, watch).is_none(), "a channel watches once");
                    assert!(line.watches.len() <= self.options.topics, "the limit of topics holds");
                }
                Action::Unwatch(channel) => {
                    assert!(line.watches.remove(&channel).is_some(), "what was watched is unwatched once");
                }
            }
        }
        done
    }

    /// Lets one question's read go on, whichever; the order of answers is anything.
    pub fn read(&mut self, client: usize, which: usize) -> bool {
        let Some(line) = &mut self.lines[client] else { return false };
        let Some(session) = &mut line.session else { return false };
        let Some(id) = line.asked.keys().nth(which % line.asked.len().max(1)).copied() else { return false };
        let question = line.asked.get_mut(&id).unwrap();
        if let Poll::Ready(answer) = question.poll_unpin(&mut Context::from_waker(noop_waker_ref())) {
            line.asked.remove(&id);
            if answer.is_err() {
                saw(Saw::Failure);
            }
            session.handle_answer(id, answer, both(self.now));
        }
        true
    }

    /// Everybody does what there is to do, at this moment.
    pub fn rest(&mut self) {
        for _ in 0..1_000 {
            let mut busy = false;
            for client in 0..self.clients.len() {
                busy |= self.up(client, usize::MAX);
                busy |= self.drive(client, usize::MAX);
                busy |= self.verify(client, Some(Duration::from_secs(3_600)));
                for which in 0..4 {
                    busy |= self.read(client, which);
                }
                busy |= self.down(client, usize::MAX);
            }
            if !busy {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Everybody does a little, at this moment.
    pub fn go(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for client in 0..self.clients.len() {
                self.up(client, 1);
                self.drive(client, 3);
                self.read(client, 0);
                self.down(client, 1);
            }
        }
    }

    pub fn heartbeats(&mut self) {
        for (client, line) in self.clients.iter_mut().zip(&mut self.lines) {
            if let Some(line) = line
                && self.now.since(client.beat_at) >= Duration::from_secs(8)
            {
                line.up.push_back(client.heartbeat(self.now));
            }
        }
    }

    /// No more faults, but no more announcements either: by polling alone, everything arrives.
    pub fn settle(&mut self) {
        self.store.fail(0);
        self.authorizer(true);
        self.defer(0);
        self.hints.clear();
        let polls = 3;
        let step = Duration::from_millis(500);
        let steps = self.options.poll_interval.as_millis() * polls / step.as_millis();
        for _ in 0..=steps {
            for client in 0..self.clients.len() {
                self.connect(client, Duration::from_secs(3_600));
                self.rejoin(client);
            }
            self.heartbeats();
            self.rest();
            self.pass(step);
        }
        // A drain or a token may have ended a connection just now; it has one more.
        for _ in 0..2 {
            for client in 0..self.clients.len() {
                self.connect(client, Duration::from_secs(3_600));
                self.rejoin(client);
            }
            self.rest();
        }
        self.check();
    }

    fn check(&self) {
        let journal = self.store.journal();
        for client in &self.clients {
            assert!(!client.is_waiting(), "every push has its answer: {client:?}");
            for channel in client.channels.iter().filter(|channel| channel.state != State::Idle) {
                assert!(matches!(channel.state, State::Joined(_)), "{channel:?}");
                let bounds = journal.bounds(&channel.topic).now_or_never().unwrap().unwrap();
                assert_eq!(channel.cursor, Some(bounds.at_head()), "it has everything: {channel:?}");
                if !channel.whole {
                    continue;
                }
                let here = channel.documents.values().filter(|document| !document.deleted);
                let all = ReadLimit::new(1_000.try_into().unwrap(), usize::MAX);
                let start = SnapshotFrom::Start;
                let there = journal.snapshot(&channel.topic, start, all).now_or_never().unwrap().unwrap();
                let Snapshot::Page(there) = there else { panic!("a snapshot can be begun") };
                assert!(here.eq(&there.documents), "the documents are those of the journal");
            }
        }
    }
}

/// What becomes of an announcement.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Delivered,
    Dropped,
    Repeated,
}

impl Line {
    fn close(&mut self) {
        self.session = None;
        self.verifying = false;
        self.held = None;
        self.asked.clear();
        self.watches.clear();
        self.up.clear();
        self.down.push_back(Down::Close);
    }
}
