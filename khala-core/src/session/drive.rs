//! The driver: carries out what a session asks, over any transport, with one flush for all that is ready.
//!
//! It is the only place where a session meets the world. What must stay true: while the transport takes nothing,
//! nothing more is asked for; and a blocked transport cannot outlive its grant or make no progress for ever.

use std::{
    collections::HashMap,
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt as _, Sink, SinkExt as _, Stream, StreamExt as _,
    future::{AbortHandle, Abortable, Aborted, BoxFuture, Either, Fuse, pending, ready},
    select_biased,
    stream::FuturesUnordered,
};

use super::{
    Action, Answer, ChannelId, Question, Session,
    patience::{Outbox, Patience},
};
use crate::{
    auth::{Denied, Grant},
    error::Error,
    fanout::Watch,
    khala::{Connected, Khala, Place},
    ledger::Violation,
    position::Cursor,
    snapshots::SharedSnapshot,
    tail::{Followed, Peek},
    telemetry,
    topic::Topic,
    update::Timestamp,
    wire::Close,
};

/// What comes in from a client. The end of the stream means that it is gone.
/// Prints a frame's length and not its text, which may hand over a token.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a transport maps everything it can receive to these")]
pub enum Received {
    /// It broke the transport's rules, and is to be closed with this.
    Fault(Close),
    /// A text frame.
    Text(String),
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(close) => f.debug_tuple("Fault").field(close).finish(),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

/// What goes out to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a transport must be able to send all of these")]
pub enum Sent {
    /// The end, with its code.
    Close(Close),
    /// A text frame, which is UTF-8.
    Text(Bytes),
}

/// A way to one client: frames in, frames out, and how many bytes the network has taken.
pub trait Transport: Stream<Item = Received> + Sink<Sent> + Unpin + Send {
    /// Counts the bytes that the network has taken so far, by which a slow client is told from a stuck one.
    fn progress(&self) -> Progress;
}

/// A count of bytes that its clones share.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// A count of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts more bytes.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The count.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "it ends from either side")]
pub enum Ended {
    /// The server closed it.
    Closed(Close),
    /// The client left, or the network failed.
    Gone,
}

/// How long the fanout may take to watch a topic.
const WATCH_WITHIN: Duration = Duration::from_secs(5);
/// How long a client has to take the close of a grant that has ended: long enough to learn why, if it reads at all.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long a client that is evicted has to take what is on its way, and the close that says why.
const EVICTED_WITHIN: Duration = Duration::from_secs(2);
/// Topics that an eviction is noted for: who follows a thousand would push all others out of the ledger.
const NOTED_TOPICS: usize = 16;
/// What a frame takes beside its text.
const FRAME_OVERHEAD: usize = 10;
/// After so many actions the driver looks up: at the clock, and at what came in.
const ACTIONS_IN_A_ROW: usize = 64;

type Asked = BoxFuture<'static, Told>;
type Watched = Abortable<BoxFuture<'static, (ChannelId, Watch, Cursor)>>;

/// One client's connection, ready to run over its transport.
#[derive(Debug)]
pub struct Connection {
    khala: Khala,
    session: Session,
    connected: Connected,
    questions: Questions,
    watched: FuturesUnordered<Watched>,
    watches: HashMap<ChannelId, AbortHandle>,
    /// Where the client stands, for those who ask whom a trim would leave behind.
    places: HashMap<ChannelId, Place>,
    outbox: Outbox,
}

/// What the session is told.
#[derive(Debug)]
pub(super) enum Told {
    Answer(ChannelId, Result<Answer, Error>),
    Verified(Result<Grant, Denied>),
}

/// The questions that are under way. They are driven on while a write waits, so that a client that takes nothing
/// cannot make a store wait for it.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) asked: FuturesUnordered<Asked>,
    /// Answered during a write; at most as many as a session asks at once.
    pub(super) answered: Vec<Told>,
}

impl Questions {
    /// What the pages that were answered during a write take in memory, roughly.
    pub(super) fn answered_bytes(&self) -> u64 {
        let bytes = |told: &Told| match told {
            Told::Answer(_, Ok(Answer::Read(Followed::Page { page, .. }))) => page.bytes(),
            Told::Answer(_, Ok(Answer::Snapshot(SharedSnapshot::Page(page)))) => page.bytes(),
            _ => 0,
        };
        self.answered.iter().map(bytes).sum::<usize>() as u64
    }
}

/// The close that a grant's end asks for, if it was taken back.
pub(super) fn taken_back(connected: &Connected, grant: &Grant) -> Option<Close> {
    match connected.check(grant) {
        Ok(()) => None,
        Err(Denied::UnknownKid) => Some(Close::KeyWithdrawn),
        Err(_) => Some(Close::TokenRevoked),
    }
}

/// The next moment that the session wants to be told of.
struct Timer {
    at: Timestamp,
    sleep: Fuse<BoxFuture<'static, ()>>,
}

impl Connection {
    pub(crate) fn new(khala: Khala, session: Session, connected: Connected) -> Self {
        Self {
            outbox: Outbox::new(Arc::clone(khala.shared_ledger()), Arc::clone(connected.card())),
            places: HashMap::new(),
            khala,
            session,
            connected,
            questions: Questions::default(),
            watched: FuturesUnordered::new(),
            watches: HashMap::new(),
        }
    }

    /// Serves the client until one side ends it.
    ///
    /// Dropping the future closes the connection without a word; nothing is lost, for the client has its cursor.
    pub async fn run<T: Transport>(mut self, mut transport: T) -> Ended {
        let patience = Patience {
            clock: Arc::clone(self.khala.clock()),
            progress: transport.progress(),
            outbox_bytes: self.khala.sessions().outbox_bytes,
        };
        // What was revoked before it had its seat woke nobody.
        self.check_grant();
        let mut drained = self.connected.drained().boxed().fuse();
        let mut timer = Timer { at: Timestamp::from_millis(u64::MAX), sleep: pending().boxed().fuse() };
        loop {
            let mut to_flush = false;
            let mut more = true;
            for _ in 0..ACTIONS_IN_A_ROW {
                let Some(action) = self.session.poll_action() else {
                    more = false;
                    break;
                };
                match action {
                    Action::Send(frame) => {
                        self.outbox.fed(frame.len() + FRAME_OVERHEAD);
                        if let Err(ended) = self.write(&patience, transport.feed(Sent::Text(frame))).await {
                            return self.give_up(&patience, transport, ended).await;
                        }
                        to_flush = true;
                    }
                    Action::Close(close) => {
                        if matches!(close, Close::KeyWithdrawn | Close::TokenExpired | Close::TokenRevoked) {
                            self.close_soon(&mut transport, close).await;
                        } else {
                            // The client may not listen any more; it gets as long as a stalled one.
                            let _ = self.write(&patience, transport.send(Sent::Close(close))).await;
                        }
                        return Ended::Closed(close);
                    }
                    Action::Ask { channel, topic, question } => self.ask(channel, topic, question),
                    Action::Watch { channel, topic } => {
                        if let Err(close) = self.watch(&patience, channel, &topic).await {
                            return self.give_up(&patience, transport, Ended::Closed(close)).await;
                        }
                    }
                    Action::Unwatch(channel) => {
                        self.places.remove(&channel);
                        self.connected.card().follows(self.places.len());
                        if let Some(watch) = self.watches.remove(&channel) {
                            watch.abort();
                        }
                    }
                    Action::Verify(token) => {
                        let khala = self.khala.clone();
                        let verified = async move { Told::Verified(khala.verify(&token).await) };
                        self.questions.asked.push(verified.boxed());
                    }
                }
            }
            if to_flush {
                if let Err(ended) = self.write(&patience, transport.flush()).await {
                    return self.give_up(&patience, transport, ended).await;
                }
                self.outbox.emptied(&patience.progress);
            }
            if !self.questions.answered.is_empty() {
                more = true;
                self.take_answers();
            }
            self.set(&mut timer);
            let mut go_on = if more { Either::Left(ready(())) } else { Either::Right(pending()) }.fuse();
            // Not kept from turn to turn: a wake-up goes to one who waits, and while a write waits that is the write.
            let mut woken = pin!(self.connected.woken().fuse());
            select_biased! {
                () = woken => self.check_grant(),
                () = &mut timer.sleep => {
                    timer.at = Timestamp::from_millis(u64::MAX);
                    // While a write waited nothing was heard: what has come meanwhile counts before silence does.
                    for _ in 0..ACTIONS_IN_A_ROW {
                        let Some(received) = transport.next().now_or_never() else { break };
                        let Some(received) = received else { return Ended::Gone };
                        self.receive(received);
                    }
                    self.session.handle_timeout(self.khala.now());
                }
                close_after = drained => {
                    let now = self.khala.now();
                    self.session.handle_drain(now.plus(close_after), now);
                }
                received = transport.next().fuse() => match received {
                    Some(received) => self.receive(received),
                    None => return Ended::Gone,
                },
                answered = self.questions.asked.select_next_some() => {
                    self.questions.answered.push(answered);
                    while let Some(Some(answered)) = self.questions.asked.next().now_or_never() {
                        self.questions.answered.push(answered);
                    }
                    self.take_answers();
                }
                moved = self.watched.select_next_some() => {
                    let ready = self.watched.len();
                    self.moved(moved);
                    for _ in 0..ready {
                        let Some(Some(moved)) = self.watched.next().now_or_never() else { break };
                        self.moved(moved);
                    }
                }
                () = go_on => {}
            }
        }
    }

    async fn write<E>(
        &mut self,
        patience: &Patience,
        write: impl Future<Output = Result<(), E>> + Send,
    ) -> Result<(), Ended> {
        let mut write = pin!(write.fuse());
        // Nearly every write is done at once; only one that is not needs a timer.
        if let Poll::Ready(written) = futures::poll!(&mut write) {
            return written.map_err(|_| Ended::Gone);
        }
        let (limit, _) = self.session.stall_limit();
        let grant = (self.session.grant(), &self.connected);
        patience.endure(write, limit, grant, &mut self.questions, &mut self.outbox).await
    }

    /// Ends a connection whose transport is stuck or broken: one try at a close frame, and no waiting for it; but a client
    /// that is evicted has a moment to take what is on its way, and to learn why.
    async fn give_up<T: Transport>(&mut self, patience: &Patience, mut transport: T, ended: Ended) -> Ended {
        let Ended::Closed(close) = ended else { return ended };
        telemetry::closed(close);
        let mut sent = pin!(transport.send(Sent::Close(close)).fuse());
        let pressed = patience.outbox_bytes.is_some_and(|most| self.outbox.held_by_all() > most);
        if close == Close::SlowConsumer {
            self.note_eviction();
        }
        if close == Close::SlowConsumer && !pressed {
            let grant = self.session.grant();
            // Whoever does not take it in time does not hear of it.
            let _ = patience.wait(sent, EVICTED_WITHIN, grant, &self.connected, &mut self.questions).await;
        } else {
            let _ = sent.as_mut().now_or_never();
        }
        ended
    }

    fn note_eviction(&self) {
        let (ledger, now) = (self.khala.ledger(), self.khala.now());
        let (limit, class) = self.session.stall_limit();
        ledger.evicted(class);
        for topic in self.session.topics().take(NOTED_TOPICS) {
            ledger.violated(topic, Violation::SlowConsumerEvicted, now);
        }
        let (subject, class) = (self.session.grant().subject(), class.map(|class| &*class.name));
        tracing::info!(
            subject,
            class,
            limit_ms = limit.as_millis() as u64,
            held = self.outbox.held(),
            "evicted: it took nothing of what it was sent"
        );
    }

    /// Closes for a grant that has ended.
    async fn close_soon<T: Transport>(&mut self, transport: &mut T, close: Close) {
        // Nobody needs the answers, and nobody may wait for a read that this connection began.
        self.questions = Questions::default();
        let mut sent = transport.send(Sent::Close(close)).fuse();
        let mut late = self.khala.clock().sleep(CLOSE_WITHIN).fuse();
        select_biased! {
            _ = sent => {}
            () = late => {}
        }
    }

    fn check_grant(&mut self) {
        if let Some(close) = taken_back(&self.connected, self.session.grant()) {
            self.session.handle_revoked(close);
        }
    }

    fn take_answers(&mut self) {
        for told in std::mem::take(&mut self.questions.answered) {
            let now = self.khala.now();
            match told {
                Told::Answer(channel, answer) => self.tell(channel, answer, now),
                Told::Verified(verified) => {
                    self.session.handle_verified(verified, now);
                    self.connected.take(self.session.grant());
                    // What was revoked while it was verified woke the places of the old grant.
                    self.check_grant();
                }
            }
        }
    }

    fn receive(&mut self, received: Received) {
        match received {
            Received::Fault(close) => self.session.handle_fault(close),
            Received::Text(text) => self.session.handle_text(&text, self.khala.now()),
        }
    }

    fn ask(&mut self, channel: ChannelId, topic: Topic, question: Question) {
        let now = self.khala.now();
        let waits = match &question {
            Question::Read { cursor, wanted } | Question::Resume { cursor, wanted, .. } => {
                match self.khala.journal().peek(&topic, *cursor, *wanted, now) {
                    Peek::Found(followed) => return self.tell(channel, Ok(Answer::Read(followed)), now),
                    Peek::Hot => false,
                    Peek::Cold => true,
                }
            }
            Question::Snapshot(_) => true,
            Question::Access(_) | Question::Bounds { .. } => false,
        };
        if waits && !self.session.handle_waiting(channel) {
            return;
        }
        let (khala, waiter) = (self.khala.clone(), self.connected.waiter());
        let answer = async move { Told::Answer(channel, khala.answer(waiter, &topic, question).await) };
        self.questions.asked.push(answer.boxed());
    }

    /// Tells the session an answer, and the handle where the client stands then.
    fn tell(&mut self, channel: ChannelId, answer: Result<Answer, Error>, now: Timestamp) {
        self.session.handle_answer(channel, answer, now);
        let Some(cursor) = self.session.cursor(channel) else { return };
        match self.places.get(&channel) {
            Some(place) => place.moved(cursor, now),
            None => {
                let Some(topic) = self.session.topic(channel) else { return };
                let holder = Some(self.session.grant().subject());
                let place = self.khala.cursors().place(topic, holder, cursor, now);
                self.places.insert(channel, place);
                self.connected.card().follows(self.places.len());
            }
        }
    }

    async fn watch(&mut self, patience: &Patience, channel: ChannelId, topic: &Topic) -> Result<(), Close> {
        let watched = {
            let khala = self.khala.clone();
            let watch = pin!(khala.fanout().watch(topic).fuse());
            let (grant, connected) = (self.session.grant(), &self.connected);
            patience.wait(watch, WATCH_WITHIN, grant, connected, &mut self.questions).await?
        };
        // Without hints delivery completes by polling.
        match watched {
            Some(Ok(watch)) => {
                if let Some(head) = watch.head() {
                    self.session.handle_moved(channel, head);
                }
                self.wait(channel, watch);
            }
            Some(Err(error)) => tracing::warn!(%topic, %error, "the topic cannot be watched"),
            None => tracing::warn!(%topic, "the topic cannot be watched: the fanout does not answer"),
        }
        Ok(())
    }

    fn wait(&mut self, channel: ChannelId, mut watch: Watch) {
        let (handle, registration) = AbortHandle::new_pair();
        let moved = async move {
            let head = watch.moved().await;
            (channel, watch, head)
        };
        self.watches.insert(channel, handle);
        self.watched.push(Abortable::new(moved.boxed(), registration));
    }

    fn moved(&mut self, moved: Result<(ChannelId, Watch, Cursor), Aborted>) {
        let Ok((channel, watch, head)) = moved else { return };
        if self.watches.contains_key(&channel) {
            self.session.handle_moved(channel, head);
            self.wait(channel, watch);
        }
    }

    /// Makes the timer fire no later than the session wants. One that fires early does no harm.
    fn set(&self, timer: &mut Timer) {
        let wanted = self.session.poll_timeout();
        if wanted < timer.at {
            let (clock, wait) = (Arc::clone(self.khala.clock()), wanted.since(self.khala.now()));
            timer.at = wanted;
            timer.sleep = async move { clock.sleep(wait.max(Duration::from_millis(1))).await }.boxed().fuse();
        }
    }
}
