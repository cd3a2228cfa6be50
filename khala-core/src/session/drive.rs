//! The driver: carries out what a session asks, over any transport, with one flush for all that is ready.
//!
//! It is the only place where a session meets the world. What must stay true: while the transport takes nothing,
//! nothing more is asked for; and a blocked transport cannot outlive its grant or make no progress for ever.

use std::{
    collections::HashMap,
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

use super::{Action, Answer, ChannelId, Question, Session};
use crate::{
    clock::Clock,
    error::Error,
    fanout::Watch,
    khala::{Connected, Khala},
    position::Cursor,
    telemetry,
    topic::Topic,
    update::Timestamp,
    wire::Close,
};

/// What comes in from a client. The end of the stream means that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a transport maps everything it can receive to these")]
pub enum Received {
    /// It broke the transport's rules, and is to be closed with this.
    Fault(Close),
    /// A text frame.
    Text(String),
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

/// After so many actions the driver looks up: at the clock, and at what came in.
const ACTIONS_IN_A_ROW: usize = 64;

type Asked = BoxFuture<'static, (ChannelId, Result<Answer, Error>)>;
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
}

/// The questions that are under way. They are driven on while a write waits, so that a client that takes nothing
/// cannot make a store wait for it.
#[derive(Debug, Default)]
struct Questions {
    asked: FuturesUnordered<Asked>,
    /// Answered during a write; at most as many as a session asks at once.
    answered: Vec<(ChannelId, Result<Answer, Error>)>,
}

/// How long a write may take: as long as the client takes something now and then, and its grant holds.
struct Patience {
    clock: Arc<dyn Clock>,
    progress: Progress,
    stall_limit: Duration,
    expires_at: Timestamp,
}

impl Patience {
    async fn write<E>(
        &self,
        write: impl Future<Output = Result<(), E>> + Send,
        questions: &mut Questions,
    ) -> Result<(), Ended> {
        let mut write = pin!(write.fuse());
        // Nearly every write is done at once; only one that is not needs a timer.
        if let Poll::Ready(written) = futures::poll!(&mut write) {
            return written.map_err(|_| Ended::Gone);
        }
        loop {
            let before = self.progress.bytes();
            let wait = self.stall_limit.min(self.expires_at.since(self.clock.now()));
            let mut sleep = self.clock.sleep(wait).fuse();
            loop {
                select_biased! {
                    written = write => return written.map_err(|_| Ended::Gone),
                    () = sleep => break,
                    answered = questions.asked.select_next_some() => questions.answered.push(answered),
                }
            }
            if self.expires_at <= self.clock.now() {
                return Err(Ended::Closed(Close::TokenExpired));
            }
            if self.progress.bytes() == before {
                return Err(Ended::Closed(Close::SlowConsumer));
            }
        }
    }
}

/// Ends a connection whose transport is stuck or broken: one try at a close frame, and no waiting for it.
fn give_up<T: Transport>(mut transport: T, ended: Ended) -> Ended {
    if let Ended::Closed(close) = ended {
        telemetry::closed(close);
        let _ = transport.send(Sent::Close(close)).now_or_never();
    }
    ended
}

/// The next moment that the session wants to be told of.
struct Timer {
    at: Timestamp,
    sleep: Fuse<BoxFuture<'static, ()>>,
}

impl Connection {
    pub(crate) fn new(khala: Khala, session: Session, connected: Connected) -> Self {
        Self {
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
            stall_limit: self.session.stall_limit(),
            expires_at: self.session.expires_at(),
        };
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
                        if let Err(ended) =
                            patience.write(transport.feed(Sent::Text(frame)), &mut self.questions).await
                        {
                            return give_up(transport, ended);
                        }
                        to_flush = true;
                    }
                    Action::Close(close) => {
                        // The client may not listen any more; it gets as long as a stalled one.
                        let _ = patience.write(transport.send(Sent::Close(close)), &mut self.questions).await;
                        return Ended::Closed(close);
                    }
                    Action::Ask { channel, topic, question } => self.ask(channel, topic, question),
                    Action::Watch { channel, topic } => self.watch(channel, &topic).await,
                    Action::Unwatch(channel) => {
                        if let Some(watch) = self.watches.remove(&channel) {
                            watch.abort();
                        }
                    }
                }
            }
            if to_flush && let Err(ended) = patience.write(transport.flush(), &mut self.questions).await {
                return give_up(transport, ended);
            }
            if !self.questions.answered.is_empty() {
                more = true;
                self.take_answers();
            }
            self.set(&mut timer);
            let mut go_on = if more { Either::Left(ready(())) } else { Either::Right(pending()) }.fuse();
            select_biased! {
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

    fn take_answers(&mut self) {
        for (channel, answer) in self.questions.answered.drain(..) {
            self.session.handle_answer(channel, answer, self.khala.now());
        }
    }

    fn receive(&mut self, received: Received) {
        match received {
            Received::Fault(close) => self.session.handle_fault(close),
            Received::Text(text) => self.session.handle_text(&text, self.khala.now()),
        }
    }

    fn ask(&mut self, channel: ChannelId, topic: Topic, question: Question) {
        if let Question::Read { cursor, wanted } = &question
            && let Some(followed) =
                self.khala.journal().follow_from_memory(&topic, *cursor, *wanted, self.khala.now())
        {
            return self.session.handle_answer(channel, Ok(Answer::Read(followed)), self.khala.now());
        }
        let khala = self.khala.clone();
        self.questions.asked.push(async move { (channel, khala.answer(&topic, question).await) }.boxed());
    }

    async fn watch(&mut self, channel: ChannelId, topic: &Topic) {
        match self.khala.fanout().watch(topic).await {
            Ok(watch) => {
                if let Some(head) = watch.head() {
                    self.session.handle_moved(channel, head);
                }
                self.wait(channel, watch);
            }
            // Without hints delivery completes by polling.
            Err(error) => tracing::warn!(%topic, %error, "the topic cannot be watched"),
        }
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
