//! The state of a session: what it is told but for frames and answers, and what it does next.
//!
//! # Invariants
//! Nothing is asked while something is left to send, and nothing is sent once the grant has ended but the close that says so.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    action::Action,
    by_channel::{ByChannel, ChannelId},
    channel::Channel,
    options::SessionOptions,
};
use crate::{
    admission::Admitted,
    auth::Grant,
    class::{Classes, TopicClass},
    clock::{Moment, Now},
    position::Cursor,
    stats::{Counts, Stats},
    topic::Topic,
    update::Timestamp,
    wire::{Close, PHOENIX, PathPrefix, Ref, Serializer, event},
};

/// How long after a first look a client that is silent is looked at again.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// The frame that handed over a token, to be answered when that is checked.
#[derive(Debug)]
pub(super) struct Refresh {
    pub(super) join_ref: Option<Ref<'static>>,
    pub(super) reference: Option<Ref<'static>>,
    pub(super) topic: String,
}

/// The protocol state of one client connection.
#[derive(Debug)]
pub struct Session {
    pub(super) grant: Grant,
    /// When it runs out, for this is asked at every turn.
    pub(super) expires_at: Timestamp,
    /// How often the grant was replaced.
    pub(super) grant_generation: u64,
    pub(super) refresh: Option<Refresh>,
    pub(super) admitted: Admitted,
    pub(super) serializer: Serializer,
    /// What stands before links.
    pub(super) path_prefix: Option<PathPrefix>,
    pub(super) options: Arc<SessionOptions>,
    pub(super) classes: Classes,
    pub(super) stats: Arc<Stats>,
    pub(super) counts: Counts,
    pub(super) channels: ByChannel<Channel>,
    pub(super) joined: HashMap<Topic, ChannelId>,
    pub(super) next_channel: u64,
    /// What is to be done at once, in order.
    pub(super) actions: VecDeque<Action>,
    /// Channels that have something to ask, each at most once, in turn.
    pub(super) ready: VecDeque<ChannelId>,
    /// Questions that are not answered yet, but for those that wait for their turn.
    pub(super) asked: usize,
    /// Channels whose question takes a read behind the tail, and waits for its turn.
    pub(super) waiting: BTreeSet<ChannelId>,
    /// Channels whose question will, once one of those is answered.
    pub(super) later: VecDeque<ChannelId>,
    pub(super) malformed: u32,
    /// Frames in a row that were too many.
    pub(super) too_many: u32,
    pub(super) heard_at: Moment,
    /// When a look found that nothing was heard for too long.
    pub(super) silent_at: Option<Moment>,
    pub(super) poll_at: Moment,
    pub(super) retry_at: Option<Moment>,
    pub(super) drain_at: Option<Moment>,
    pub(super) ended: bool,
}

impl Session {
    /// The session of a connection that was opened `now` by the subject of `grant`. Sessions may share their options.
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
            grant_generation: 0,
            refresh: None,
            admitted,
            serializer,
            path_prefix: None,
            classes: Classes::default(),
            stats: Arc::default(),
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
            poll_at: now.plus(options.poll_interval),
            retry_at: None,
            drain_at: None,
            ended: false,
            options,
        }
    }

    /// Sets the classes whose rules hold for topics. The default is [`Classes::default`].
    #[must_use]
    pub fn with_classes(mut self, classes: Classes) -> Self {
        self.classes = classes;
        self
    }

    /// Sets the figures that the session counts in. By default it has figures of its own.
    #[must_use]
    pub fn with_stats(mut self, stats: Arc<Stats>) -> Self {
        self.stats = stats;
        self
    }

    /// Says under which path clients reach the server: it stands before links. By default there is none.
    pub(crate) fn set_path_prefix(&mut self, prefix: Option<PathPrefix>) {
        self.path_prefix = prefix;
    }

    /// What to do next; none until something is handled.
    ///
    /// A driver that cannot send holds an action back and asks for no other: that is the back-pressure.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        while !self.ended && self.asked < self.options.concurrent_reads.get() {
            let id = self.ready.pop_front()?;
            let Some(channel) = self.channels.get_mut(id) else { continue };
            let question = channel.ask(&self.grant, self.grant_generation);
            let topic = channel.follower.topic().clone();
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
    pub fn stall_timeout(&self) -> (Duration, Option<&TopicClass>) {
        let classes = self.channels.values().filter_map(|channel| channel.follower.class());
        let strictest =
            classes.filter_map(|class| Some((class.stall_timeout?, class))).min_by_key(|(limit, _)| *limit);
        match strictest {
            Some((limit, class)) if limit <= self.options.stall_timeout => (limit, Some(class)),
            _ => (self.options.stall_timeout, None),
        }
    }

    /// The topics that the client has joined.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.channels.values().map(|channel| channel.follower.topic())
    }

    /// A channel's topic.
    pub(crate) fn topic(&self, id: ChannelId) -> Option<&Topic> {
        self.channels.get(id).map(|channel| channel.follower.topic())
    }

    /// Where the client needs the log to go on on a channel: after what it was sent, or after the snapshot that it is
    /// being sent; none before its join was answered.
    pub fn cursor(&self, id: ChannelId) -> Option<Cursor> {
        self.channels.get(id)?.follower.cursor()
    }

    /// When the last update was published that a channel which follows the log was sent, or said that it has.
    pub(crate) fn published_at(&self, id: ChannelId) -> Option<Timestamp> {
        self.channels.get(id)?.follower.published_at()
    }

    /// The client broke the WebSocket's rules.
    pub fn handle_fault(&mut self, close: Close) {
        self.end(close);
    }

    /// A head was announced for a watching channel.
    pub fn handle_moved(&mut self, id: ChannelId, head: Cursor) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.follower.on_head(head);
        self.counts.heard();
        if channel.follower.has_news() {
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
        if self.waiting.len() < self.options.concurrent_reads.get() {
            self.waiting.insert(id);
            return true;
        }
        if let Some(channel) = self.channels.get_mut(id) {
            channel.put_back();
            self.later.push_back(id);
        }
        false
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.counts.tell(&self.stats);
        if !self.advance_clock(now) {
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
            self.poll_at = now.plus(self.options.poll_interval);
            // Half a period: the first poll of a topic serves all polls of the same period.
            let not_older_than = now.minus(self.options.poll_interval / 2);
            self.enqueue_where(|channel| channel.follower.poll(not_older_than));
            for (id, channel) in self.channels.iter_mut() {
                if std::mem::take(&mut channel.unwatched) {
                    let topic = channel.follower.topic().clone();
                    self.actions.push_back(Action::Watch { channel: id, topic });
                }
            }
        }
    }

    /// The server stops: the client is told now, and its connection closed after `wait`.
    pub fn handle_drain(&mut self, wait: Duration, now: Now) {
        if !self.advance_clock(now) || self.drain_at.is_some() {
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
    pub(super) fn advance_clock(&mut self, now: Now) -> bool {
        if self.expires_at <= now.wall {
            self.abort_with(Close::TokenExpired);
        }
        !self.ended
    }

    /// Whether nothing was heard for too long, by a second look: at the first one after a pause of this process, what the
    /// client sent meanwhile may not have been read yet. A second look that comes late is a first one.
    pub(super) fn is_silent(&mut self, now: Moment) -> bool {
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

    pub(super) fn second_look(&self) -> Duration {
        SECOND_LOOK.min(self.options.heartbeat_timeout / 2)
    }

    pub(super) fn end(&mut self, close: Close) {
        if !self.ended {
            self.ended = true;
            self.stats.closed(close);
            self.count_channels(-(self.channels.len() as i64));
            self.channels.clear();
            self.joined.clear();
            self.actions.push_back(Action::Close(close));
        }
    }

    /// Ends it without a word more: not even what was ready to go is sent, nor what another close had left.
    pub(super) fn abort_with(&mut self, close: Close) {
        self.actions.retain(|action| matches!(action, Action::Close(_)));
        self.end(close);
    }

    /// Lets the next question that was withdrawn be asked again.
    pub(super) fn ask_later(&mut self) {
        while let Some(id) = self.later.pop_front() {
            if let Some(channel) = self.channels.get_mut(id) {
                channel.resume_asking();
                return self.enqueue(id);
            }
        }
    }

    /// Has a channel ask again after `wait`.
    pub(super) fn retry(&mut self, id: ChannelId, wait: Duration, now: Moment) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        let at = now.plus(wait);
        channel.retry_at = Some(channel.retry_at.map_or(at, |before| before.min(at)));
        self.retry_at = Some(self.retry_at.map_or(at, |before| before.min(at)));
    }

    pub(super) fn enqueue(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(id)
            && channel.enqueue()
        {
            self.ready.push_back(id);
        }
    }

    pub(super) fn enqueue_where(&mut self, mut wanted: impl FnMut(&mut Channel) -> bool) {
        for (id, channel) in self.channels.iter_mut() {
            if wanted(channel) && channel.enqueue() {
                self.ready.push_back(id);
            }
        }
    }

    pub(super) fn count_channels(&self, change: i64) {
        self.stats.cells.channels.change(change);
    }

    pub(super) fn remove(&mut self, id: ChannelId) -> Option<Channel> {
        let channel = self.channels.remove(id)?;
        self.joined.remove(channel.follower.topic());
        self.count_channels(-1);
        if channel.watched {
            self.actions.push_back(Action::Unwatch(id));
        }
        Some(channel)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.counts.tell(&self.stats);
        self.count_channels(-(self.channels.len() as i64));
    }
}
