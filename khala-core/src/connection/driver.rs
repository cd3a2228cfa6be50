//! The driver: carries out what a session asks, over any transport, with one flush for all that is ready.
//!
//! It is the only place where a session meets the world. What must stay true: while the transport takes nothing,
//! nothing more is asked for; and a blocked transport cannot outlive its grant or make no progress for ever.

use std::{
    fmt, mem,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{
    FutureExt as _, SinkExt as _, StreamExt as _,
    future::{BoxFuture, poll_fn},
    select_biased,
    stream::FuturesUnordered,
};

use super::{
    Received, Sent, Transport,
    doubt::doubt,
    write::{Outbox, Patience},
};
use crate::{
    auth::{Denied, Grant},
    clock::{Moment, Now},
    error::Error,
    fanout::Watch,
    khala::Khala,
    position::{Cursor, Stale},
    registry::Connected,
    retention::Place,
    session::{Action, Answer, ByChannel, ChannelId, Question, Session},
    snapshots::SharedSnapshot,
    stats::TopicIncident,
    tail::{Followed, HeldTopic, Lead, Part, Peek, Wanted},
    telemetry,
    topic::Topic,
    wake::{Bell, ChannelCord, Why},
    wire::Close,
};

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
/// Topics that an eviction is noted for: who follows a thousand would push all others out of what is remembered.
const NOTED_TOPICS: usize = 16;
/// After so many actions the driver looks up: at the clock, and at what came in.
const ACTIONS_IN_A_ROW: usize = 64;

type Asked = BoxFuture<'static, Told>;

/// One client's connection, ready to run over its transport.
#[derive(Debug)]
pub struct Connection(Box<Driver>); // A future that is given something by value has room for it twice.

impl Connection {
    pub(crate) fn new(khala: Khala, session: Session, connected: Connected) -> Self {
        Self(Box::new(Driver::new(khala, session, connected)))
    }

    /// Serves the client until one side ends it.
    ///
    /// Dropping the future closes the connection without a word; nothing is lost, for the client has its cursor.
    pub async fn run<T: Transport>(self, transport: T) -> Ended {
        self.0.run(transport).await
    }
}

/// What carries out the session's actions.
#[derive(Debug)]
struct Driver {
    khala: Khala,
    session: Session,
    connected: Connected,
    questions: Questions,
    channels: ByChannel<Held>,
    /// How many topics the client stands somewhere in.
    followed: usize,
    outbox: Outbox,
    bell: Arc<Bell>,
    /// What the bell has rung for and is not dealt with yet.
    rung: Why,
    /// What is waited for; goes off no later than the session wants.
    timer: Timer,
    /// Rings where something may have come in.
    input: Waker,
}

/// What is held for a channel.
#[derive(Debug, Default)]
struct Held {
    watch: Option<(Watch, Arc<ChannelCord>)>,
    /// A question that waits until somebody else has read: the lead of that number.
    waiting: Option<Box<(Topic, Question, u64)>>,
    /// Where the client stands, for those who ask whom a trim would leave behind.
    place: Option<Place>,
    /// What the tail has of its topic, once it has something.
    tail: Option<HeldTopic>,
    /// The newest evidence that the topic's journal went back, as it was when what it follows was last known to be kept.
    evidence: u64,
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

/// What the session is told.
#[derive(Debug)]
pub(super) enum Told {
    Answer(ChannelId, Result<Answer, Error>),
    Verified(Result<Grant, Denied>),
    /// None if the fanout did not answer in time.
    Watched(ChannelId, Topic, Option<Result<Watch, Error>>),
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
    fn new(bell: &Arc<Bell>) -> Self {
        Self { at: Moment::from_millis(u64::MAX), sleep: None, waker: bell.waker(Why::TIMER) }
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
    fn new(khala: Khala, session: Session, connected: Connected) -> Self {
        let bell = Arc::clone(connected.bell());
        let mut rung = Why::default();
        rung.add(Why::INPUT);
        Self {
            outbox: Outbox::new(Arc::clone(khala.shared_stats()), Arc::clone(connected.card())),
            khala,
            session,
            connected,
            questions: Questions::default(),
            channels: ByChannel::default(),
            followed: 0,
            rung,
            timer: Timer::new(&bell),
            input: bell.waker(Why::INPUT),
            bell,
        }
    }

    async fn run<T: Transport>(mut self: Box<Self>, mut transport: T) -> Ended {
        let patience = Patience {
            clock: Arc::clone(self.khala.clock()),
            progress: transport.progress(),
            outbox_bytes: self.khala.sessions().outbox_bytes,
        };
        // What was revoked before it had its seat woke nobody.
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
                    Action::Ask { channel, topic, question } => self.ask(channel, topic, question, None),
                    Action::Watch { channel, topic }
                        if self.channels.get(channel).is_some_and(|held| held.unwatched) =>
                    {
                        self.watch_again(channel, topic);
                    }
                    Action::Watch { channel, topic } => {
                        if let Err(close) = self.watch(&patience, channel, &topic).await {
                            return self.give_up(&patience, transport, Ended::Closed(close)).await;
                        }
                    }
                    Action::Unwatch(channel) => {
                        let held = self.channels.remove(channel).unwrap_or_default();
                        self.followed -= usize::from(held.place.is_some());
                        self.connected.card().follows(self.followed);
                        // The session counts what it has asked.
                        if let Some((topic, question, _)) = held.waiting.map(|waiting| *waiting) {
                            self.ask_khala(channel, topic, question, None);
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
        self.rung.add(self.bell.look(context.waker()));
        if self.rung.remove(Why::GRANT) {
            self.check_grant();
        } else if self.rung.remove(Why::TIMER) && self.timer.is_due() {
            // While a write waited nothing was heard: what has come meanwhile counts before silence does.
            for _ in 0..ACTIONS_IN_A_ROW {
                match self.hear(transport) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(Looked::Gone),
                    Poll::Pending => break,
                }
            }
            self.session.handle_timeout(self.khala.clock().read());
        } else if self.rung.remove(Why::DRAIN)
            && let Some(close_after) = self.connected.drained()
        {
            self.session.handle_drain(close_after, self.khala.clock().read());
        } else if !self.questions.asked.is_empty()
            // Before what came in: others may wait for a read of this one, and a client may have much to say.
            && let Poll::Ready(Some(answered)) = self.questions.asked.poll_next_unpin(context)
        {
            self.questions.answered.push(answered);
            while let Poll::Ready(Some(answered)) = self.questions.asked.poll_next_unpin(context) {
                self.questions.answered.push(answered);
            }
            self.take_answers();
        } else if let Poll::Ready(heard) = self.hear(transport) {
            return Poll::Ready(if heard { Looked::Found } else { Looked::Gone });
        } else if self.rung.remove(Why::MOVED) {
            self.take_moves();
        } else if !more {
            return Poll::Pending;
        }
        Poll::Ready(Looked::Found)
    }

    /// Takes one thing that came in; gives false when nothing ever will.
    fn hear<T: Transport>(&mut self, transport: &mut T) -> Poll<bool> {
        if !self.rung.has(Why::INPUT) {
            return Poll::Pending;
        }
        match transport.poll_next_unpin(&mut Context::from_waker(&self.input)) {
            Poll::Ready(Some(received)) => {
                self.receive(received);
                Poll::Ready(true)
            }
            Poll::Ready(None) => Poll::Ready(false),
            Poll::Pending => {
                self.rung.remove(Why::INPUT);
                Poll::Pending
            }
        }
    }

    async fn write<E>(
        &mut self,
        patience: &Patience,
        write: impl Future<Output = Result<(), E>> + Send,
    ) -> Result<(), Ended> {
        let mut write = pin!(write.fuse());
        // Nearly every write is done at once; only one that is not needs a timer, and memory for its wait.
        if let Poll::Ready(written) = futures::poll!(&mut write) {
            return written.map_err(|_| Ended::Gone);
        }
        let (limit, _) = self.session.stall_limit();
        let grant = (self.session.grant(), &self.connected);
        patience.endure(write, limit, grant, &mut self.questions, &mut self.outbox).boxed().await
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
        let (stats, now) = (self.khala.stats(), self.khala.now());
        let (limit, class) = self.session.stall_limit();
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
        if let Some(close) = taken_back(&self.connected, self.session.grant()) {
            self.session.handle_revoked(close);
        }
    }

    fn take_answers(&mut self) {
        for told in mem::take(&mut self.questions.answered) {
            let now = self.khala.clock().read();
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
                    self.connected.take(self.session.grant(), now.steady);
                    // What was revoked while it was verified woke the places of the old grant.
                    self.check_grant();
                }
            }
        }
    }

    fn receive(&mut self, received: Received) {
        match received {
            Received::Fault(close) => self.session.handle_fault(close),
            Received::Frames(frames) => self.session.handle_frames(frames, self.khala.clock().read()),
            Received::Text(text) => self.session.handle_text(&text, self.khala.clock().read()),
        }
    }

    /// Has a question answered, which has waited for that lead, if for any.
    fn ask(&mut self, channel: ChannelId, topic: Topic, question: Question, waited_for: Option<u64>) {
        let now = self.khala.clock().read();
        let question = match self.doubt(channel, &topic, question) {
            Ok(question) => question,
            Err(stale) => return self.tell(channel, Ok(Answer::Read(Followed::Stale(stale))), now),
        };
        let (mut lead, mut waits) = (None, matches!(question, Question::Snapshot(_)));
        if let Question::Resume { cursor, published_at: Some(published_at), .. } = &question
            && self.khala.journal().known_moment(&topic, *cursor) != Some(*published_at)
        {
            // Whether the cursor is of this history has to be read.
            waits = true;
        } else if let Question::Read { cursor, wanted } | Question::Resume { cursor, wanted, .. } = &question
        {
            match self.peek(channel, *cursor, *wanted, now.steady) {
                Peek::Found(followed) => return self.tell(channel, Ok(Answer::Read(followed)), now),
                Peek::Cold => waits = true,
                Peek::Hot => match self.take_part(channel, waited_for) {
                    Part::Alone => {}
                    Part::Leads(leads) => lead = Some(leads),
                    Part::Waits(lead) => {
                        let held = self.channels.get_or_insert_with(channel, Held::default);
                        held.waiting = Some(Box::new((topic, question, lead)));
                        return;
                    }
                },
            }
        }
        if waits && !self.session.handle_waiting(channel) {
            return;
        }
        self.ask_khala(channel, topic, question, lead);
    }

    /// The question to ask in the place of that one, if the topic's journal went back.
    fn doubt(&mut self, channel: ChannelId, topic: &Topic, question: Question) -> Result<Question, Stale> {
        if let Question::Access(_) = question {
            return Ok(question);
        }
        let held = self.channels.get_or_insert_with(channel, Held::default);
        held.tail = held.tail.take().or_else(|| self.khala.journal().held(topic));
        let Some(tail) = &held.tail else { return Ok(question) };
        doubt(question, self.session.published_at(channel), tail, &mut held.evidence)
    }

    /// Asks again where the journal went back while a page was on its way, which may continue what is lost; says whether
    /// it does.
    fn asks_again(&mut self, channel: ChannelId, answer: &Result<Answer, Error>, now: Now) -> bool {
        let Ok(Answer::Read(Followed::Page { .. })) = answer else { return false };
        let went_back = |held: &Held| held.tail.as_ref().is_some_and(|tail| tail.evidence() != held.evidence);
        if !self.channels.get(channel).is_some_and(went_back) {
            return false;
        }
        let (Some(cursor), Some(topic)) = (self.session.cursor(channel), self.session.topic(channel)) else {
            return false;
        };
        let (topic, wanted) = (topic.clone(), Wanted::default());
        match self.doubt(channel, &topic, Question::Read { cursor, wanted }) {
            Ok(question @ Question::Resume { .. }) => self.ask_khala(channel, topic, question, None),
            Ok(_) => return false,
            Err(stale) => self.tell(channel, Ok(Answer::Read(Followed::Stale(stale))), now),
        }
        true
    }

    fn ask_khala(&mut self, channel: ChannelId, topic: Topic, question: Question, lead: Option<Lead>) {
        let (khala, waiter) = (self.khala.clone(), self.connected.waiter());
        let answer = async move {
            let answer = khala.answer(waiter, &topic, question).await;
            if let (Some(mut lead), Err(_)) = (lead, &answer) {
                lead.fail();
            }
            Told::Answer(channel, answer)
        };
        self.questions.asked.push(answer.boxed());
    }

    /// What to do for a channel whose newest updates are not in memory yet.
    fn take_part(&self, channel: ChannelId, waited_for: Option<u64>) -> Part {
        let held = self.channels.get(channel);
        match held.and_then(|held| held.watch.as_ref().zip(held.tail.as_ref())) {
            Some(((_, cord), tail)) => tail.take_part(waited_for, &Waker::from(Arc::clone(cord))),
            // Nothing would wake it.
            None => Part::Alone,
        }
    }

    /// What the tail has in memory after `cursor`.
    fn peek(&self, channel: ChannelId, cursor: Cursor, wanted: Wanted, now: Moment) -> Peek {
        // It was looked for as the question was doubted.
        match self.channels.get(channel).and_then(|held| held.tail.as_ref()) {
            Some(held) => self.khala.journal().peek_held(held, cursor, wanted, now),
            None => Peek::Cold,
        }
    }

    /// Tells the session an answer, and the handle where the client stands then.
    fn tell(&mut self, channel: ChannelId, answer: Result<Answer, Error>, now: Now) {
        if matches!(answer, Err(_) | Ok(Answer::Deferred(_)))
            && let Some(held) = self.channels.get_mut(channel).filter(|held| held.evidence > 0)
        {
            // What was doubted still is.
            held.evidence = u64::MAX;
        }
        self.session.handle_answer(channel, answer, now);
        let Some(cursor) = self.session.cursor(channel) else { return };
        let Some(topic) = self.session.topic(channel) else { return };
        let held = self.channels.get_or_insert_with(channel, Held::default);
        match &held.place {
            Some(place) => place.moved(cursor, now.steady),
            None => {
                let holder = Some(self.session.grant().subject());
                held.place = Some(self.khala.cursors().place(topic, holder, cursor, now.steady));
                self.followed += 1;
                self.connected.card().follows(self.followed);
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
        let held = self.channels.get_or_insert_with(channel, Held::default);
        let again = mem::replace(&mut held.unwatched, !matches!(watched, Some(Ok(_))));
        if held.unwatched {
            self.session.handle_unwatched(channel);
        }
        match watched {
            Some(Ok(mut watch)) => {
                let cord = ChannelCord::new(&self.bell, channel);
                watch.wake(Arc::clone(&cord).into());
                if let Some(head) = watch.head() {
                    self.session.handle_moved(channel, head);
                }
                self.channels.get_or_insert_with(channel, Held::default).watch = Some((watch, cord));
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
        let mut moved = self.bell.moved();
        while let Some(channel) = moved.next() {
            let Some(held) = self.channels.get_mut(channel) else { continue };
            let Some((watch, cord)) = &mut held.watch else { continue };
            cord.release();
            if let Some(head) = watch.news() {
                self.session.handle_moved(channel, head);
            }
            // One more announcement ends no waiting: the end of the lead does.
            let led = |lead| held.tail.as_ref().is_some_and(|tail| tail.is_led(lead));
            if held.waiting.as_ref().is_some_and(|waiting| !led(waiting.2))
                && let Some((topic, question, lead)) = held.waiting.take().map(|waiting| *waiting)
            {
                self.ask(channel, topic, question, Some(lead));
            }
        }
    }

    /// Makes the timer go off no later than the session wants. One that goes off early does no harm.
    fn set_timer(&mut self) {
        let now = self.khala.clock().read();
        let wanted = self.session.poll_timeout(now);
        if wanted < self.timer.at {
            let (clock, wait) = (Arc::clone(self.khala.clock()), wanted.since(now.steady));
            let sleep = async move { clock.sleep(wait.max(Duration::from_millis(1))).await };
            (self.timer.at, self.timer.sleep) = (wanted, Some(sleep.boxed()));
            // It is to be looked at once before it wakes anybody.
            self.rung.add(Why::TIMER);
        }
    }
}
