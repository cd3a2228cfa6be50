//! The session: the protocol state of one client connection, as a value.
//!
//! It reads no clock and touches no socket. It is told what happened (`handle_*`) and says what to do next
//! (`poll_action`, `poll_timeout`). What must stay true: each join gets exactly one answer, before any update;
//! what a channel is sent continues from what it was sent before; and a client that does not read costs one
//! cursor per topic, because nothing is asked for while there is something left to send.

mod access;
mod action;
mod answers;
mod by_channel;
mod channel;
mod counts;
mod options;
mod say;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

pub(crate) use self::by_channel::ByChannel;
use self::{
    access::Refresh,
    answers::News,
    channel::{Channel, Phase},
    counts::Counts,
    say::{Empty, Status},
};
pub use self::{
    action::{Action, Answer, Question},
    channel::ChannelId,
    options::SessionOptions,
};
use crate::{
    admission::{Admitted, Limited},
    auth::{Denied, Grant},
    class::{Classes, TopicClass},
    clock::{Moment, Now},
    documents::SnapshotFrom,
    error::Error,
    ledger::Ledger,
    position::Cursor,
    snapshots::SharedSnapshot,
    tail::Followed,
    telemetry::{self, Surface},
    topic::Topic,
    update::Timestamp,
    wire::{Close, Code, Frame, JoinRequest, Refusal, Serializer, event},
};

/// How long after a first look a client that is silent is looked at again.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// Topic of the connection itself.
const PHOENIX: &str = "phoenix";
/// A ref is a counter, written out. What is much longer is not one, and would be kept for as long as the channel.
const MAX_REF_BYTES: usize = 64;

/// The protocol state of one client connection.
#[derive(Debug)]
pub struct Session {
    grant: Grant,
    /// When it runs out, for this is asked at every turn.
    expires_at: Timestamp,
    /// How often the grant was replaced.
    round: u64,
    refresh: Option<Refresh>,
    admitted: Admitted,
    serializer: Serializer,
    options: Arc<SessionOptions>,
    classes: Classes,
    ledger: Arc<Ledger>,
    counts: Counts,
    channels: ByChannel<Channel>,
    joined: HashMap<Topic, ChannelId>,
    next_channel: u64,
    /// What is to be done at once, in order.
    actions: VecDeque<Action>,
    /// Channels that have something to ask, each at most once, in turn.
    ready: VecDeque<ChannelId>,
    /// Questions that are not answered yet, but for those that wait for their turn.
    asked: usize,
    /// Channels whose question takes a read behind the tail, and waits for its turn.
    waiting: BTreeSet<ChannelId>,
    /// Channels whose question will, once one of those is answered.
    later: VecDeque<ChannelId>,
    malformed: u32,
    /// Frames in a row that were too many.
    too_many: u32,
    heard_at: Moment,
    /// When a look found that nothing was heard for too long.
    silent_at: Option<Moment>,
    poll_at: Moment,
    retry_at: Option<Moment>,
    drain_at: Option<Moment>,
    ended: bool,
}

impl Session {
    /// The session of a connection that was opened `now` by the holder of `grant`. Sessions may share their options.
    pub fn new(
        grant: Grant,
        admitted: Admitted,
        serializer: Serializer,
        options: impl Into<Arc<SessionOptions>>,
        now: Moment,
    ) -> Self {
        let options = options.into();
        Self {
            expires_at: grant.expires_at(),
            grant,
            round: 0,
            refresh: None,
            admitted,
            serializer,
            classes: Classes::default(),
            ledger: Arc::default(),
            counts: Counts::default(),
            channels: ByChannel::default(),
            joined: HashMap::new(),
            next_channel: 0,
            // Most sessions have one of each at a time; a queue that grows begins with four.
            actions: VecDeque::with_capacity(1),
            ready: VecDeque::with_capacity(1),
            asked: 0,
            waiting: BTreeSet::new(),
            later: VecDeque::new(),
            malformed: 0,
            too_many: 0,
            heard_at: now,
            silent_at: None,
            poll_at: now.plus(options.poll_every),
            retry_at: None,
            drain_at: None,
            ended: false,
            options,
        }
    }

    /// Holds topics to the rules of these classes; without, to those of [`Classes::default`].
    #[must_use]
    pub fn with_classes(mut self, classes: Classes) -> Self {
        self.classes = classes;
        self
    }

    /// Notes what goes wrong in a ledger that it shares; without, in one of its own.
    #[must_use]
    pub fn with_ledger(mut self, ledger: Arc<Ledger>) -> Self {
        self.ledger = ledger;
        self
    }

    /// What to do next; none until something is handled.
    ///
    /// A driver that cannot send holds an action back and asks for no other: that is the back-pressure.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        while !self.ended && self.asked < self.options.questions_at_once.get() {
            let id = self.ready.pop_front()?;
            let Some(channel) = self.channels.get_mut(id) else { continue };
            let question = channel.ask(&self.grant, self.round);
            let topic = channel.topic.clone();
            self.asked += 1;
            return Some(Action::Ask { channel: id, topic, question });
        }
        None
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), at the latest, unless the wall clock is set meanwhile.
    pub fn poll_timeout(&self, now: Now) -> Moment {
        let hung_up = match self.silent_at {
            Some(at) => at.plus(self.second_look()),
            None => self.heard_at.plus(self.options.heartbeat_timeout),
        };
        let soonest = self.poll_at.min(now.moment_of(self.expires_at)).min(hung_up);
        [self.retry_at, self.drain_at].into_iter().flatten().fold(soonest, Moment::min)
    }

    /// Whether [`Action::Close`] was given or is about to be.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// When the grant runs out.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// How long a connection may take nothing of what it is sent: by the strictest class of the topics that it
    /// follows, which is given too; else as long as any connection.
    pub fn stall_limit(&self) -> (Duration, Option<&TopicClass>) {
        let classes = self.channels.values().filter_map(|channel| channel.class.as_deref());
        let strictest =
            classes.filter_map(|class| Some((class.stall_limit?, class))).min_by_key(|(limit, _)| *limit);
        match strictest {
            Some((limit, class)) if limit <= self.options.stall_limit => (limit, Some(class)),
            _ => (self.options.stall_limit, None),
        }
    }

    /// The topics that the client has joined.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.channels.values().map(|channel| &channel.topic)
    }

    /// A channel's topic.
    pub(crate) fn topic(&self, id: ChannelId) -> Option<&Topic> {
        self.channels.get(id).map(|channel| &channel.topic)
    }

    /// Where the client needs the log to go on on a channel: after what it was sent, or after the snapshot that it is
    /// being sent; none before its join was answered.
    pub fn cursor(&self, id: ChannelId) -> Option<Cursor> {
        let channel = self.channels.get(id)?;
        match &channel.phase {
            Phase::Live => Some(channel.cursor),
            Phase::Snapshot { next: SnapshotFrom::After { at, .. }, .. } => Some(*at),
            Phase::Opening { .. } | Phase::Snapshot { next: SnapshotFrom::Start, .. } => None,
        }
    }

    /// When the last update was published that a channel which follows the log was sent, or said that it has.
    pub(crate) fn published_at(&self, id: ChannelId) -> Option<Timestamp> {
        self.channels.get(id).filter(|channel| matches!(channel.phase, Phase::Live))?.published_at
    }

    /// The client sent a text frame.
    pub fn handle_text(&mut self, text: &str, now: Now) {
        if !self.goes_on(now) {
            return;
        }
        (self.heard_at, self.silent_at) = (now.steady, None);
        let Ok(frame) = self.serializer.decode(text) else {
            // The fault's own text would repeat a part of what was sent, which may hold a token.
            return self.malformed(format!("the frame is not {}", shape_of(self.serializer)));
        };
        let too_long = |text: &Option<_>| {
            text.as_ref().is_some_and(|text: &std::borrow::Cow<'_, str>| text.len() > MAX_REF_BYTES)
        };
        if too_long(&frame.join_ref) || too_long(&frame.reference) {
            return self.malformed(format!("a ref has more than {MAX_REF_BYTES} bytes"));
        }
        if let Err(limited) = self.admitted.frame(now.steady) {
            return self.too_many(&frame, &limited);
        }
        self.too_many = 0;
        match (&*frame.topic, &*frame.event) {
            (PHOENIX, event::ACCESS_TOKEN) => self.take_token(&frame),
            (_, event::ACCESS_TOKEN) if self.current(&frame).is_some() => self.take_token(&frame),
            (PHOENIX, event::HEARTBEAT) => self.reply_ok(&frame, &Empty {}),
            (_, event::JOIN) => self.join(&frame, now.steady),
            (_, event::LEAVE) => self.leave(&frame),
            _ => self.unknown(&frame),
        }
    }

    /// The client sent that many frames beside text: they are charged as text frames are, and have no answer that could
    /// say so.
    pub fn handle_frames(&mut self, frames: u32, now: Now) {
        if !self.goes_on(now) {
            return;
        }
        for _ in 0..frames {
            if self.admitted.frame(now.steady).is_ok() {
                continue;
            }
            self.note_refusal(Code::FrameRateLimited.as_str(), Surface::Frame, PHOENIX);
            self.too_many += 1;
            if self.too_many > self.options.malformed_frames {
                return self.end(Close::TooManyFrames);
            }
        }
    }

    /// The client broke the WebSocket's rules.
    pub fn handle_fault(&mut self, close: Close) {
        self.end(close);
    }

    /// A head was announced for a watching channel.
    pub fn handle_moved(&mut self, id: ChannelId, head: Cursor) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.hear(head);
        self.counts.heard();
        if channel.has_news() {
            self.enqueue(id);
        }
    }

    /// A topic that was to be [watched](Action::Watch) could not be: it is to be tried again at the next poll.
    pub fn handle_unwatched(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(id) {
            channel.unwatched = true;
        }
    }

    /// The question that was asked last takes a read behind the tail, whose turn may be long in coming. Says whether to go
    /// on with it; if not, it is withdrawn, and asked again when another one of these was answered.
    ///
    /// Those that wait so do not count among the questions that are asked at once: what is new must not wait for them. A
    /// driver in which no read waits for long need not tell.
    pub fn handle_waiting(&mut self, id: ChannelId) -> bool {
        self.asked -= 1;
        if self.waiting.len() < self.options.questions_at_once.get() {
            self.waiting.insert(id);
            return true;
        }
        if let Some(channel) = self.channels.get_mut(id) {
            channel.put_back();
            self.later.push_back(id);
        }
        false
    }

    /// A question was answered, or could not be.
    pub fn handle_answer(&mut self, id: ChannelId, answer: Result<Answer, Error>, now: Now) {
        if self.waiting.remove(&id) {
            self.ask_later();
        } else {
            self.asked -= 1;
        }
        if !self.goes_on(now) {
            return;
        }
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.asking = false;
        if answer.is_ok() {
            channel.succeeded();
        }
        if channel.asked_in != self.round {
            // Asked under a grant that was replaced meanwhile: it is asked again once the new one was checked.
            return self.enqueue(id);
        }
        match answer {
            Ok(Answer::Access(verdict)) => self.answer_access(id, verdict),
            Err(error) if !channel.granted => self.answer_access(id, Err(Denied::Unavailable(error))),
            // What was not asked for gets nobody past the check.
            Ok(_) if !channel.granted => self.enqueue(id),
            Ok(Answer::Bounds(bounds, confirmed_at)) => {
                self.answer_bounds(id, bounds, confirmed_at, now.steady);
            }
            Ok(Answer::Deferred(limited)) => self.answer_deferred(id, &limited, now),
            Ok(Answer::Read(Followed::Page { page, bounds, confirmed_at, behind })) => {
                let news = News { bounds, confirmed_at, behind };
                self.answer_page(id, &page, &news, now);
            }
            Ok(Answer::Read(Followed::CaughtUp { bounds, confirmed_at })) => {
                let news = News { bounds, confirmed_at, behind: false };
                self.answer_caught_up(id, &news, now.steady);
            }
            Ok(Answer::Read(Followed::Stale(stale))) => self.answer_stale(id, stale, now),
            Ok(Answer::Snapshot(SharedSnapshot::Page(page))) => self.answer_snapshot(id, &page, now.steady),
            Ok(Answer::Snapshot(SharedSnapshot::Stale(stale))) => {
                // The client is told by the page that starts it anew; operators are by this.
                let class = channel.class.as_deref();
                self.ledger.stale(self.grant.subject(), &channel.topic, class, &stale.reasons, now);
                channel.phase.restart_snapshot();
                self.start_over(id, now);
            }
            Err(error) => self.answer_error(id, &error, now.steady),
        }
        if self.channels.get(id).is_some_and(|channel| channel.asks_again()) {
            self.enqueue(id);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.counts.tell(&self.ledger);
        if !self.goes_on(now) {
            return;
        }
        let now = now.steady;
        if self.is_silent(now) {
            return self.end(Close::HeartbeatTimeout);
        }
        if self.drain_at.is_some_and(|at| at <= now) {
            return self.end(Close::Restart);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.enqueue_where(|channel| channel.retries(now));
            self.retry_at = self.channels.values().filter_map(|channel| channel.retry_at).min();
        }
        if self.poll_at <= now {
            self.poll_at = now.plus(self.options.poll_every);
            // Half a period: whoever polls a topic first does it for all who poll it in the same period.
            let not_older_than = now.minus(self.options.poll_every / 2);
            self.enqueue_where(|channel| channel.poll(not_older_than));
            for (id, channel) in self.channels.iter_mut() {
                if std::mem::take(&mut channel.unwatched) {
                    let topic = channel.topic.clone();
                    self.actions.push_back(Action::Watch { channel: id, topic });
                }
            }
        }
    }

    /// The server stops: the client is told now, and its connection closed after `wait`.
    pub fn handle_drain(&mut self, wait: Duration, now: Now) {
        if !self.goes_on(now) || self.drain_at.is_some() {
            return;
        }
        self.drain_at = Some(now.steady.plus(wait));
        #[derive(serde::Serialize)]
        struct Drain {
            retry_after_ms: u64,
        }
        let payload = Drain { retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) };
        self.push(None, PHOENIX, event::DRAIN, &payload);
    }

    /// Takes in the time, and ends the session if its grant has run out; says whether it goes on.
    fn goes_on(&mut self, now: Now) -> bool {
        if self.expires_at <= now.wall {
            self.cut_off(Close::TokenExpired);
        }
        !self.ended
    }

    /// Whether nothing was heard for too long, by a second look: at the first one after a pause of this process, what the
    /// client sent meanwhile may not have been read yet. A second look that comes late is a first one.
    fn is_silent(&mut self, now: Moment) -> bool {
        if now < self.heard_at.plus(self.options.heartbeat_timeout) {
            return false;
        }
        let wait = self.second_look();
        match self.silent_at {
            Some(at) if now < at.plus(wait) => false,
            Some(at) if now < at.plus(2 * wait) => true,
            Some(_) | None => {
                self.silent_at = Some(now);
                false
            }
        }
    }

    fn second_look(&self) -> Duration {
        SECOND_LOOK.min(self.options.heartbeat_timeout / 2)
    }

    fn end(&mut self, close: Close) {
        if !self.ended {
            self.ended = true;
            telemetry::closed(close);
            telemetry::channels(-(self.channels.len() as f64));
            self.channels.clear();
            self.joined.clear();
            self.actions.push_back(Action::Close(close));
        }
    }

    /// Ends it without a word more: not even what was ready to go is sent, nor what another close had left.
    fn cut_off(&mut self, close: Close) {
        self.actions.retain(|action| matches!(action, Action::Close(_)));
        self.end(close);
    }

    fn malformed(&mut self, message: String) {
        self.malformed += 1;
        self.note_refusal(Code::MalformedFrame.as_str(), Surface::Frame, PHOENIX);
        self.push(None, PHOENIX, event::SYNC_ERROR, &Refusal::new(Code::MalformedFrame, message));
        if self.malformed > self.options.malformed_frames {
            self.end(Close::Hostile);
        }
    }

    /// A frame above what the client may send: it is answered and has no effect, a few times.
    fn too_many(&mut self, frame: &Frame<'_>, limited: &Limited) {
        self.too_many += 1;
        self.refuse(frame, Surface::Frame, &Refusal::limited(limited));
        if self.too_many > self.options.malformed_frames {
            self.end(Close::TooManyFrames);
        }
    }

    fn join(&mut self, frame: &Frame<'_>, now: Moment) {
        let topic = match Topic::parse(&frame.topic) {
            Ok(topic) => topic,
            Err(fault) => {
                let refusal = Refusal::new(Code::InvalidTopic, fault.to_string());
                return self.refuse(frame, Surface::Join, &refusal);
            }
        };
        let request = match frame.payload_as::<JoinRequest>() {
            Ok(request) => request,
            Err(fault) => {
                let refusal = Refusal::new(Code::InvalidJoin, fault.to_string());
                return self.refuse(frame, Surface::Join, &refusal);
            }
        };
        if let Err(limited) = self.admitted.join(now) {
            return self.refuse(frame, Surface::Join, &Refusal::limited(&limited));
        }
        if let Some(old) = self.joined.get(&topic).copied() {
            self.give_way(old, frame);
        } else if self.channels.len() >= self.options.topics {
            let message = format!("a connection joins at most {} topics", self.options.topics);
            return self.refuse(frame, Surface::Join, &Refusal::new(Code::TooManyTopics, message));
        }
        let id = ChannelId::new(self.next_channel);
        self.next_channel += 1;
        let not_older_than = now.minus(self.options.poll_every);
        let class = self.classes.of(&topic).cloned();
        let channel = Channel::opening(topic.clone(), class, frame, request, not_older_than, now);
        self.channels.get_or_insert_with(id, || channel);
        self.joined.insert(topic, id);
        telemetry::channels(1.0);
        self.enqueue(id);
    }

    fn leave(&mut self, frame: &Frame<'_>) {
        let current = self.current(frame);
        if current.is_none() && self.joined.contains_key(&*frame.topic) {
            return; // of an earlier join, whose close was sent when this one came
        }
        self.reply_ok(frame, &Empty {});
        if let Some(id) = current {
            self.close_channel(id, event::CLOSE);
        }
    }

    /// A frame that is neither of the connection's nor of a channel's events.
    fn unknown(&mut self, frame: &Frame<'_>) {
        let joined = self.joined.contains_key(&*frame.topic);
        if joined && self.current(frame).is_none() {
            return; // of an earlier join
        }
        let (code, join_ref) = if joined {
            (Code::UnknownEvent, frame.join_ref.as_deref())
        } else {
            (Code::UnmatchedTopic, None)
        };
        let message = match code {
            Code::UnknownEvent => {
                format!("this connection only reads; it has no event {:?}", clip(&frame.event))
            }
            _ => format!("the topic {:?} is not joined", clip(&frame.topic)),
        };
        self.note_refusal(code.as_str(), Surface::Frame, &frame.topic);
        self.reply(
            join_ref,
            frame.reference.as_deref(),
            &frame.topic,
            Status::Error,
            &Refusal::new(code, message),
        );
    }

    /// The channel that a frame is for; none if it is of an earlier join. A null `join_ref` means the current one.
    fn current(&self, frame: &Frame<'_>) -> Option<ChannelId> {
        let id = *self.joined.get(&*frame.topic)?;
        let channel = self.channels.get(id)?;
        (frame.join_ref.is_none() || frame.join_ref.as_deref() == channel.join_ref.as_deref()).then_some(id)
    }

    /// Lets the next question that was withdrawn be asked again.
    fn ask_later(&mut self) {
        while let Some(id) = self.later.pop_front() {
            if let Some(channel) = self.channels.get_mut(id) {
                channel.resume_asking();
                return self.enqueue(id);
            }
        }
    }

    /// Has a channel ask again after `wait`.
    fn retry(&mut self, id: ChannelId, wait: Duration, now: Moment) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        let at = now.plus(wait);
        channel.retry_at = Some(channel.retry_at.map_or(at, |before| before.min(at)));
        self.retry_at = Some(self.retry_at.map_or(at, |before| before.min(at)));
    }

    fn enqueue(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(id)
            && channel.enqueue()
        {
            self.ready.push_back(id);
        }
    }

    fn enqueue_where(&mut self, mut wanted: impl FnMut(&mut Channel) -> bool) {
        for (id, channel) in self.channels.iter_mut() {
            if wanted(channel) && channel.enqueue() {
                self.ready.push_back(id);
            }
        }
    }

    /// Closes a channel for a join that takes its place.
    fn give_way(&mut self, id: ChannelId, join: &Frame<'_>) {
        let old = self.channels.get(id).and_then(|channel| channel.join_ref.as_deref());
        if old == join.join_ref.as_deref() {
            // A close under the same join_ref would be taken for that of the new join.
            self.remove(id);
        } else {
            self.close_channel(id, event::CLOSE);
        }
    }

    /// Tells the client that a channel is over, and forgets it.
    fn close_channel(&mut self, id: ChannelId, event: &str) {
        if let Some(channel) = self.remove(id) {
            self.push(channel.join_ref.as_deref(), channel.topic.as_str(), event, &Empty {});
        }
    }

    fn remove(&mut self, id: ChannelId) -> Option<Channel> {
        let channel = self.channels.remove(id)?;
        self.joined.remove(&channel.topic);
        telemetry::channels(-1.0);
        if channel.watched {
            self.actions.push_back(Action::Unwatch(id));
        }
        Some(channel)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.counts.tell(&self.ledger);
        telemetry::channels(-(self.channels.len() as f64));
    }
}

/// What a frame is.
fn shape_of(serializer: Serializer) -> &'static str {
    match serializer {
        Serializer::V1 => "an object with join_ref, ref, topic, event and payload",
        Serializer::V2 => "an array of join_ref, ref, topic, event and payload",
    }
}

/// The start of a client's text, short enough to be sent back and logged.
fn clip(text: &str) -> &str {
    let end = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    &text[..end]
}
