//! The driver: carries out what a session asks, over any transport, with one flush for all that is ready.
//!
//! It is the only place where a session meets the world.
//!
//! # Invariants
//! While the transport takes nothing, nothing more is asked for. A blocked transport cannot outlive its grant, or make no progress
//! for ever.

use std::{
    fmt,
    hash::BuildHasher as _,
    mem,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{
    FutureExt as _, SinkExt as _, StreamExt as _,
    future::{BoxFuture, poll_fn},
    select_biased,
};

use super::{
    questions::{Questions, Told},
    transport::{Received, Sent, Transport},
    write::{Ended, GrantWatch, Outbox, WriteDeadline},
};
use crate::{
    admission::Limited,
    auth::Grant,
    clock::{Moment, Now},
    error::Error,
    fanout::Watch,
    follower::{Evidence, Question},
    khala::Khala,
    registry::ConnectionGuard,
    retention::CursorHandle,
    session::{Action, ByChannel, ChannelId, Session},
    stats::TopicIncident,
    topic::Topic,
    wake::{ChannelWaker, ConnectionWaker, WakeReasons},
    wire::{Close, PathPrefix, Serializer},
};

/// How long the fanout may take to watch a topic.
const WATCH_WITHIN: Duration = Duration::from_secs(5);
/// How long a client has to take the close of a grant that has ended: long enough to learn why, if it reads at all.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long a client that is evicted has to take what is on its way, and the close that says why.
const EVICTED_WITHIN: Duration = Duration::from_secs(2);
/// Topics that an eviction is noted for: who follows a thousand would push all others out of what is remembered.
const NOTED_TOPICS: usize = 16;
/// Actions after which the driver looks at the clock, and at what came in.
const ACTIONS_IN_A_ROW: usize = 64;

/// One client's connection, ready to run over its transport.
#[derive(Debug)]
pub struct Connection(Box<Driver>); // A future that is given something by value has room for it twice.

impl Connection {
    pub(crate) fn new(khala: Khala, session: Session, guard: ConnectionGuard) -> Self {
        Self(Box::new(Driver::new(khala, session, guard)))
    }

    /// Links in what it is sent lead to a server that is reached under `prefix`.
    #[must_use]
    pub fn with_path_prefix(mut self, prefix: Option<PathPrefix>) -> Self {
        self.0.session.set_path_prefix(prefix);
        self
    }

    /// Serves the client until one side ends it.
    ///
    /// Dropping the future closes the connection without a word; nothing is lost, for the client has its cursor.
    pub async fn run<T: Transport>(self, transport: T) -> Ended {
        self.0.run(transport).await
    }
}

impl Khala {
    /// A connection for the subject of `grant`, to be run over its transport; `address` is where it comes from, for
    /// the limits per address.
    ///
    /// # Errors
    /// [`Limited`] when the subject or the address has, or opens, too many.
    pub fn connect(
        &self,
        grant: Grant,
        address: Option<IpAddr>,
        serializer: Serializer,
    ) -> Result<Connection, Limited> {
        let now = self.clock().read();
        let admitted = self.access().admit(grant.subject(), address, now.steady)?;
        let subject = self.0.hasher.hash_one(grant.subject());
        let guard = self.0.connections.register(&grant, subject, address, now);
        let session = Session::new(grant, admitted, serializer, Arc::clone(&self.0.sessions), now.steady)
            .with_classes(self.0.classes.clone())
            .with_stats(Arc::clone(&self.0.stats));
        Ok(Connection::new(self.clone(), session, guard))
    }
}

/// What carries out the session's actions.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) khala: Khala,
    pub(super) session: Session,
    pub(super) guard: ConnectionGuard,
    pub(super) questions: Questions,
    pub(super) channels: ByChannel<ChannelState>,
    /// How many topics the client has a cursor in.
    pub(super) followed: usize,
    outbox: Outbox,
    waker: Arc<ConnectionWaker>,
    /// Why it was woken, as far as that is not dealt with yet.
    reasons: WakeReasons,
    /// What is waited for; goes off no later than the session wants.
    timer: Timer,
    /// What the clocks said when they were read last.
    read_at: Now,
    /// Wakes it when something may have come in.
    input: Waker,
}

/// What is held for a channel.
#[derive(Debug, Default)]
pub(super) struct ChannelState {
    pub(super) watch: Option<(Watch, Arc<ChannelWaker>)>,
    /// A question that waits until another connection has read: the leader of that number.
    pub(super) waiting: Option<Box<(Topic, Question, u64)>>,
    /// Where the client stands, for the report of the cursors that a trim would make stale.
    pub(super) cursor: Option<CursorHandle>,
    /// What the tail has of its topic, and whether that went back.
    pub(super) evidence: Evidence,
    /// Watching it has failed.
    unwatched: bool,
}

/// What a look around has found.
enum Looked {
    /// There is something to do.
    Found,
    /// The client is gone.
    Gone,
}

/// The next moment that the session wants to be told of.
struct Timer {
    at: Moment,
    sleep: Option<BoxFuture<'static, ()>>,
    waker: Waker,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Timer {
    fn new(waker: &Arc<ConnectionWaker>) -> Self {
        Self { at: Moment::from_millis(u64::MAX), sleep: None, waker: waker.waker(WakeReasons::TIMER) }
    }

    /// Whether it went off, which it does once.
    fn is_due(&mut self) -> bool {
        let Some(sleep) = &mut self.sleep else { return false };
        let due = sleep.poll_unpin(&mut Context::from_waker(&self.waker)).is_ready();
        if due {
            (self.at, self.sleep) = (Moment::from_millis(u64::MAX), None);
        }
        due
    }
}

impl Driver {
    fn new(khala: Khala, session: Session, guard: ConnectionGuard) -> Self {
        let waker = Arc::clone(guard.waker());
        let mut reasons = WakeReasons::default();
        reasons.add(WakeReasons::INPUT);
        let read_at = khala.clock().read();
        Self {
            outbox: Outbox::new(Arc::clone(khala.shared_stats()), Arc::clone(guard.entry())),
            khala,
            session,
            guard,
            questions: Questions::default(),
            channels: ByChannel::default(),
            followed: 0,
            reasons,
            timer: Timer::new(&waker),
            read_at,
            input: waker.waker(WakeReasons::INPUT),
            waker,
        }
    }

    async fn run<T: Transport>(mut self: Box<Self>, mut transport: T) -> Ended {
        let deadline = WriteDeadline {
            clock: Arc::clone(self.khala.clock()),
            progress: transport.progress(),
            outbox_bytes: self.khala.sessions().outbox_bytes,
        };
        // What was revoked before it was registered woke nobody.
        self.check_grant();
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
                        self.outbox.fed(frame.framed_len());
                        if let Err(ended) = self.write(&deadline, transport.feed(Sent::Text(frame))).await {
                            return self.give_up(&deadline, transport, ended).await;
                        }
                        to_flush = true;
                    }
                    Action::Close(close) => {
                        if matches!(close, Close::KeyWithdrawn | Close::TokenExpired | Close::TokenRevoked) {
                            self.close_soon(&mut transport, close).await;
                        } else {
                            // The client may not listen any more; it gets as long as a stalled one.
                            let _ = self.write(&deadline, transport.send(Sent::Close(close))).await;
                        }
                        return Ended::Closed(close);
                    }
                    Action::Ask { channel, topic, question } => self.ask(channel, topic, question, None),
                    Action::Watch { channel, topic }
                        if self.channels.get(channel).is_some_and(|held| held.unwatched) =>
                    {
                        self.watch_again(channel, topic);
                    }
                    Action::Watch { channel, topic } => {
                        if let Err(close) = self.watch(&deadline, channel, &topic).await {
                            return self.give_up(&deadline, transport, Ended::Closed(close)).await;
                        }
                    }
                    Action::Unwatch(channel) => {
                        let held = self.channels.remove(channel).unwrap_or_default();
                        self.followed -= usize::from(held.cursor.is_some());
                        self.guard.entry().set_channels(self.followed);
                        // The session counts what it has asked.
                        if let Some((topic, question, _)) = held.waiting.map(|waiting| *waiting) {
                            self.ask_khala(channel, topic, question, None);
                        }
                    }
                    Action::Verify(token) => {
                        let khala = self.khala.clone();
                        let verified = async move { Told::Verified(khala.access().verify(&token).await) };
                        self.questions.asked.push(verified.boxed());
                    }
                }
            }
            if to_flush {
                if let Err(ended) = self.write(&deadline, transport.flush()).await {
                    return self.give_up(&deadline, transport, ended).await;
                }
                self.outbox.emptied(&deadline.progress);
            }
            if !self.questions.answered.is_empty() {
                more = true;
                self.take_answers();
            }
            self.set_timer();
            match poll_fn(|context| self.look_around(context, &mut transport, more)).await {
                Looked::Found => {}
                Looked::Gone => return Ended::Gone,
            }
        }
    }

    /// Deals with what has happened, the most urgent first. Ready with `more`, when there is something to do anyway.
    fn look_around<T: Transport>(
        &mut self,
        context: &mut Context<'_>,
        transport: &mut T,
        more: bool,
    ) -> Poll<Looked> {
        self.reasons.add(self.waker.take(context.waker()));
        if self.reasons.remove(WakeReasons::GRANT) {
            self.check_grant();
        } else if self.reasons.remove(WakeReasons::TIMER) && self.timer.is_due() {
            // While a write waited nothing was heard: what has come meanwhile counts before silence does.
            for _ in 0..ACTIONS_IN_A_ROW {
                match self.receive_next(transport) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(Looked::Gone),
                    Poll::Pending => break,
                }
            }
            let now = self.read_clocks();
            self.session.handle_timeout(now);
        } else if self.reasons.remove(WakeReasons::DRAIN)
            && let Some(close_after) = self.guard.close_after()
        {
            let now = self.read_clocks();
            self.session.handle_drain(close_after, now);
        } else if !self.questions.asked.is_empty()
            // Before what came in: others may wait for a read of this one, and a client may have much to say.
            && let Poll::Ready(Some(answered)) = self.questions.asked.poll_next_unpin(context)
        {
            self.questions.answered.push(answered);
            while let Poll::Ready(Some(answered)) = self.questions.asked.poll_next_unpin(context) {
                self.questions.answered.push(answered);
            }
            self.take_answers();
        } else if let Poll::Ready(heard) = self.receive_next(transport) {
            return Poll::Ready(if heard { Looked::Found } else { Looked::Gone });
        } else if self.reasons.remove(WakeReasons::MOVED) {
            self.take_moves();
        } else if !more {
            return Poll::Pending;
        }
        Poll::Ready(Looked::Found)
    }

    /// Takes one thing that came in; gives false when nothing ever will.
    fn receive_next<T: Transport>(&mut self, transport: &mut T) -> Poll<bool> {
        if !self.reasons.has(WakeReasons::INPUT) {
            return Poll::Pending;
        }
        match transport.poll_next_unpin(&mut Context::from_waker(&self.input)) {
            Poll::Ready(Some(received)) => {
                self.receive(received);
                Poll::Ready(true)
            }
            Poll::Ready(None) => Poll::Ready(false),
            Poll::Pending => {
                self.reasons.remove(WakeReasons::INPUT);
                Poll::Pending
            }
        }
    }

    async fn write<E>(
        &mut self,
        deadline: &WriteDeadline,
        write: impl Future<Output = Result<(), E>> + Send,
    ) -> Result<(), Ended> {
        let mut write = pin!(write.fuse());
        // Nearly every write is done at once; only one that is not needs a timer, and memory for its wait.
        if let Poll::Ready(written) = futures::poll!(&mut write) {
            return written.map_err(|_| Ended::Gone);
        }
        let (limit, _) = self.session.stall_timeout();
        let Self { khala, session, guard, questions, outbox, .. } = self;
        let watch = GrantWatch { grant: session.grant(), guard, access: khala.access() };
        deadline.wait_for_write(write, limit, watch, questions, outbox).boxed().await
    }

    /// Ends a connection whose transport is stuck or broken: one try at a close frame, and no waiting for it; but a client
    /// that is evicted has a moment to take what is on its way, and to learn why.
    async fn give_up<T: Transport>(
        &mut self,
        deadline: &WriteDeadline,
        mut transport: T,
        ended: Ended,
    ) -> Ended {
        let Ended::Closed(close) = ended else { return ended };
        self.khala.stats().closed(close);
        let mut sent = pin!(transport.send(Sent::Close(close)).fuse());
        let pressed = deadline.outbox_bytes.is_some_and(|most| self.outbox.held_by_all() > most);
        if close == Close::SlowConsumer {
            self.note_eviction();
        }
        if close == Close::SlowConsumer && !pressed {
            let Self { khala, session, guard, questions, .. } = self;
            let watch = GrantWatch { grant: session.grant(), guard, access: khala.access() };
            // A client that does not take it in time is not told.
            let _ = deadline.wait(sent, EVICTED_WITHIN, watch, questions).await;
        } else {
            let _ = sent.as_mut().now_or_never();
        }
        ended
    }

    fn note_eviction(&self) {
        let (stats, now) = (self.khala.stats(), self.khala.now());
        let (limit, class) = self.session.stall_timeout();
        stats.of_class(class).slow_evictions.add(1);
        for topic in self.session.topics().take(NOTED_TOPICS) {
            stats.incident(topic, TopicIncident::SlowConsumerEvicted, now);
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
        let Self { khala, session, guard, .. } = self;
        let watch = GrantWatch { grant: session.grant(), guard, access: khala.access() };
        if let Some(close) = watch.close() {
            session.handle_revoked(close);
        }
    }

    fn take_answers(&mut self) {
        for told in mem::take(&mut self.questions.answered) {
            let now = self.read_clocks();
            match told {
                Told::Answer(channel, answer) => {
                    if !self.asks_again(channel, &answer, now) {
                        self.tell(channel, answer, now);
                    }
                }
                Told::Watched(channel, topic, watched) => {
                    // It may have been left meanwhile.
                    if self.session.topic(channel).is_some() {
                        self.take_watch(channel, &topic, watched);
                    }
                }
                Told::Verified(verified) => {
                    self.session.handle_verified(verified, now);
                    // Answers under the old grant are dropped.
                    self.channels.iter_mut().for_each(|(_, held)| held.evidence.unanswered());
                    self.guard.replace_grant(self.session.grant(), now.steady);
                    // What was revoked while it was verified was looked up under the old grant.
                    self.check_grant();
                }
            }
        }
    }

    fn receive(&mut self, received: Received) {
        let now = self.read_clocks();
        match received {
            Received::Binary => self.session.handle_binary(now),
            Received::Fault(close) => self.session.handle_fault(close),
            Received::Frames(frames) => self.session.handle_frames(frames, now),
            Received::Text(text) => self.session.handle_text(&text, now),
        }
    }

    pub(super) fn read_clocks(&mut self) -> Now {
        self.read_at = self.khala.clock().read();
        self.read_at
    }

    async fn watch(
        &mut self,
        deadline: &WriteDeadline,
        channel: ChannelId,
        topic: &Topic,
    ) -> Result<(), Close> {
        let watched = {
            let khala = self.khala.clone();
            let watch = pin!(khala.fanout().watch(topic).fuse());
            let Self { khala, session, guard, questions, .. } = &mut *self;
            let grant = GrantWatch { grant: session.grant(), guard, access: khala.access() };
            deadline.wait(watch, WATCH_WITHIN, grant, questions).await?
        };
        self.take_watch(channel, topic, watched);
        Ok(())
    }

    /// Tries again to watch a topic, which holds up nothing.
    fn watch_again(&mut self, channel: ChannelId, topic: Topic) {
        let khala = self.khala.clone();
        let watched = async move {
            let watched = {
                let mut watch = pin!(khala.fanout().watch(&topic).fuse());
                let mut late = pin!(khala.clock().sleep(WATCH_WITHIN).fuse());
                select_biased! {
                    watched = watch => Some(watched),
                    () = late => None,
                }
            };
            Told::Watched(channel, topic, watched)
        };
        self.questions.asked.push(watched.boxed());
    }

    /// Without hints delivery completes by polling, and with each poll it is tried again to watch.
    fn take_watch(&mut self, channel: ChannelId, topic: &Topic, watched: Option<Result<Watch, Error>>) {
        let held = self.channels.get_or_insert_with(channel, ChannelState::default);
        let again = mem::replace(&mut held.unwatched, !matches!(watched, Some(Ok(_))));
        if held.unwatched {
            self.session.handle_unwatched(channel);
        }
        match watched {
            Some(Ok(mut watch)) => {
                let waker = ChannelWaker::new(&self.waker, channel);
                watch.wake(Arc::clone(&waker).into());
                if let Some(head) = watch.head() {
                    self.session.handle_moved(channel, head);
                }
                self.channels.get_or_insert_with(channel, ChannelState::default).watch = Some((watch, waker));
            }
            Some(Err(error)) if again => tracing::debug!(%topic, %error, "the topic still cannot be watched"),
            Some(Err(error)) => {
                tracing::warn!(%topic, %error, "the topic cannot be watched: each poll tries again")
            }
            None if again => tracing::debug!(%topic, "the topic still cannot be watched"),
            None => {
                tracing::warn!(%topic, "the topic cannot be watched, for the fanout does not answer: each poll tries again");
            }
        }
    }

    fn take_moves(&mut self) {
        let mut moved = self.waker.moved();
        while let Some(channel) = moved.next() {
            let Some(held) = self.channels.get_mut(channel) else { continue };
            let Some((watch, waker)) = &mut held.watch else { continue };
            waker.rearm();
            if let Some(head) = watch.news() {
                self.session.handle_moved(channel, head);
            }
            // Another announcement does not end the wait: the end of the leader's read does.
            let is_led = |leader| held.evidence.tail().is_some_and(|tail| tail.is_led_by(leader));
            if held.waiting.as_ref().is_some_and(|waiting| !is_led(waiting.2))
                && let Some((topic, question, leader)) = held.waiting.take().map(|waiting| *waiting)
            {
                self.ask(channel, topic, question, Some(leader));
            }
        }
    }

    /// Makes the timer go off no later than the session wants. One that goes off early does no harm.
    fn set_timer(&mut self) {
        // When the grant ends does not change with the time that has passed since the clocks were read.
        let wanted = self.session.poll_timeout(self.read_at);
        if wanted < self.timer.at {
            let (clock, wait) = (Arc::clone(self.khala.clock()), wanted.since(self.khala.moment()));
            let sleep = async move { clock.sleep(wait.max(Duration::from_millis(1))).await };
            (self.timer.at, self.timer.sleep) = (wanted, Some(sleep.boxed()));
            // It is to be looked at once before it wakes anybody.
            self.reasons.add(WakeReasons::TIMER);
        }
    }
}
