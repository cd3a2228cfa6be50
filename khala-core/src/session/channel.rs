//! One joined topic of a session: where it stands, what it has heard of, and what it asks next.

use std::{sync::Arc, time::Duration};

use super::action::Question;
use crate::{
    auth::Grant,
    class::TopicClass,
    clock::Moment,
    documents::SnapshotFrom,
    position::{Cursor, Epoch, Watermark},
    stats::Stats,
    tail::Freshness,
    telemetry::Surface,
    topic::Topic,
    update::Timestamp,
    wire::{Frame, JoinRequest, OnStale, Resume, StaleCursor},
};

/// How often in a row a channel starts over at once, for the log may be trimmed between two of its questions.
const RESTARTS: u32 = 8;

#[derive(Debug)]
pub(super) enum Phase {
    /// The join is not answered yet.
    Opening {
        /// The ref that the answer carries.
        reference: Option<String>,
        /// What was asked for.
        resume: Resume,
        /// Where that is, once it is known.
        at: Option<Cursor>,
    },
    /// Documents are being sent.
    Snapshot {
        /// The ref of the join and why there is a snapshot, until the first page answers it.
        unanswered: Option<(Option<String>, Option<Box<StaleCursor>>)>,
        /// The page that comes next.
        next: SnapshotFrom,
    },
    /// It follows the log.
    Live,
}

impl Phase {
    pub(super) fn open_at(&mut self, cursor: Cursor) {
        if let Self::Opening { at, .. } = self {
            *at = Some(cursor);
        }
    }

    /// Answers a stale cursor with a snapshot.
    pub(super) fn start_snapshot(&mut self, stale: StaleCursor) {
        let unanswered = match self {
            Self::Opening { reference, .. } => Some((reference.take(), Some(Box::new(stale)))),
            Self::Live | Self::Snapshot { .. } => None,
        };
        *self = Self::Snapshot { unanswered, next: SnapshotFrom::Start };
    }

    /// Starts over: the log no longer continues from the watermark of the snapshot that was under way.
    pub(super) fn restart_snapshot(&mut self) {
        if let Self::Snapshot { next, .. } = self {
            *next = SnapshotFrom::Start;
        }
    }
}

/// Counts a channel that reads from the journal and not from the tail, for as long as it does.
#[derive(Debug)]
pub(super) struct Behind(Arc<Stats>);

impl Behind {
    fn new(stats: &Arc<Stats>, was_live: bool) -> Self {
        stats.cells.behind.change(1);
        if was_live {
            stats.cells.demotions.add(1);
        }
        Self(Arc::clone(stats))
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.0.cells.behind.change(-1);
    }
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) topic: Topic,
    /// Its topic's class; none if it is of none.
    pub(super) class: Option<Arc<TopicClass>>,
    pub(super) join_ref: Option<String>,
    pub(super) on_stale: OnStale,
    /// When the update was published that its cursor ends with: what it said itself, until it was sent one.
    pub(super) published_at: Option<Timestamp>,
    pub(super) phase: Phase,
    /// It was checked under the session's grant. Until then nothing is asked or sent.
    pub(super) granted: bool,
    /// It is watched, which it is from when it was granted first.
    pub(super) watched: bool,
    /// Watching it failed, and is tried again at the next poll.
    pub(super) unwatched: bool,
    /// Set while what it is sent comes from behind the tail.
    behind: Option<Behind>,
    /// What the client was sent; means something once it is live.
    pub(super) cursor: Cursor,
    /// Where its replay ends: at the head which the reply to its join named, or which the topic had when a later snapshot
    /// began.
    pub(super) replay_until: Watermark,
    /// The newest announced head.
    pub(super) heard: Option<Cursor>,
    /// When the journal last confirmed what is known.
    pub(super) confirmed_at: Moment,
    /// When anything was last sent on this channel.
    pub(super) spoke_at: Moment,
    /// A question is under way.
    pub(super) asking: bool,
    /// How often the session's grant had been replaced when it asked last.
    pub(super) asked_in: u64,
    /// When to ask again, after something could not be read or was put off.
    pub(super) retry_at: Option<Moment>,
    /// How many reads in a row have failed.
    failures: u32,
    /// How often in a row it had to start over, because the log no longer continued from where it started.
    restarts: u32,
    /// Its question was withdrawn: it asks nothing until the session lets it.
    withdrawn: bool,
    /// It is in the session's queue.
    queued: bool,
    /// There is something to ask once the answer that is under way has come.
    again: bool,
    /// How old "nothing new" may be; raised by polling, and by doubt.
    not_older_than: Moment,
    /// The question under way is a poll.
    polling: bool,
}

impl Channel {
    pub(super) fn opening(
        topic: Topic,
        class: Option<Arc<TopicClass>>,
        frame: &Frame<'_>,
        request: JoinRequest,
        not_older_than: Moment,
        now: Moment,
    ) -> Self {
        let own = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
        let reference = own(&frame.reference);
        let phase = match request.resume {
            Resume::Snapshot => {
                Phase::Snapshot { unanswered: Some((reference, None)), next: SnapshotFrom::Start }
            }
            resume @ Resume::After(cursor) => Phase::Opening { reference, resume, at: Some(cursor) },
            resume @ (Resume::Floor | Resume::Head) => Phase::Opening { reference, resume, at: None },
        };
        Self {
            topic,
            class,
            join_ref: own(&frame.join_ref),
            on_stale: request.on_stale,
            published_at: request.published_at,
            phase,
            granted: false,
            watched: false,
            unwatched: false,
            behind: None,
            cursor: Cursor::new(Epoch::from_bits(0), Watermark::ORIGIN),
            replay_until: Watermark::ORIGIN,
            heard: None,
            confirmed_at: now,
            spoke_at: now,
            asking: false,
            asked_in: 0,
            retry_at: None,
            failures: 0,
            restarts: 0,
            withdrawn: false,
            queued: false,
            again: false,
            not_older_than,
            polling: false,
        }
    }

    /// How far behind the head a cursor that it brought may be.
    pub(super) fn budget(&self) -> Option<u64> {
        self.class.as_ref().and_then(|class| class.replay_budget)
    }

    /// Notes where what it is sent comes from, and counts each change of that.
    pub(super) fn reads(&mut self, behind: bool, was_live: bool, stats: &Arc<Stats>) {
        if behind {
            self.behind.get_or_insert_with(|| Behind::new(stats, was_live));
        } else if self.behind.take().is_some() {
            stats.cells.promotions.add(1);
        }
    }

    /// Takes in an announced head. One of the same epoch that is not newer comes late, and hides none.
    pub(super) fn hear(&mut self, head: Cursor) {
        let late = |heard: Cursor| heard.epoch == head.epoch && heard.watermark >= head.watermark;
        if !self.heard.is_some_and(late) {
            self.heard = Some(head);
        }
    }

    /// What was announced could not be read at that moment: it is to be read again, later than that.
    pub(super) fn doubt(&mut self, confirmed_at: Moment) {
        self.heard = None;
        self.not_older_than = self.not_older_than.max(confirmed_at.plus(Duration::from_millis(1)));
    }

    /// Whether more was announced than was sent.
    pub(super) fn has_news(&self) -> bool {
        matches!(self.phase, Phase::Live) && self.heard.is_some_and(|head| head.is_news_to(self.cursor))
    }

    /// The newest head of the history that it follows: what was sent, or more if more was announced.
    pub(super) fn newest(&self) -> Watermark {
        let sent = self.cursor;
        let heard = self.heard.filter(|head| head.epoch == sent.epoch);
        heard.map_or(sent.watermark, |head| head.watermark.max(sent.watermark))
    }

    /// Notes that it wants to ask; says whether it has to be put into the queue for that.
    pub(super) fn enqueue(&mut self) -> bool {
        if self.asking || self.withdrawn {
            self.again = true;
            return false;
        }
        !std::mem::replace(&mut self.queued, true)
    }

    /// Withdraws its question.
    pub(super) fn put_back(&mut self) {
        (self.asking, self.withdrawn) = (false, true);
    }

    /// Lets it ask again what was withdrawn.
    pub(super) fn resume_asking(&mut self) {
        self.withdrawn = false;
    }

    /// How long to wait after a read that failed: twice as long after each in a row, up to `longest`.
    pub(super) fn back_off(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let wait = shortest.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        wait.min(longest.max(shortest))
    }

    /// Whether it may start over at once: a journal that never continues from what it has just said itself is asked again
    /// later.
    pub(super) fn starts_over(&mut self) -> bool {
        self.restarts += 1;
        self.restarts <= RESTARTS
    }

    /// The log continues from where it started.
    pub(super) fn continues(&mut self) {
        self.restarts = 0;
    }

    /// It was answered.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Whether it is time to ask again.
    pub(super) fn retries(&mut self, now: Moment) -> bool {
        self.retry_at.take_if(|at| *at <= now).is_some()
    }

    /// Whether it wanted to ask while a question was under way.
    pub(super) fn asks_again(&self) -> bool {
        self.again && !self.asking && !self.withdrawn
    }

    /// Wants to hear from the journal unless it has since that moment; says whether it does.
    pub(super) fn poll(&mut self, not_older_than: Moment) -> bool {
        let due = matches!(self.phase, Phase::Live) && self.confirmed_at < not_older_than;
        if due {
            self.not_older_than = self.not_older_than.max(not_older_than);
            self.polling = true;
        }
        due
    }

    /// Whether what was just answered was found by polling and nothing had told of it.
    pub(super) fn polled(&mut self) -> bool {
        std::mem::take(&mut self.polling) && !self.has_news()
    }

    /// The ref of the join, if that is not answered yet.
    pub(super) fn unanswered(&self) -> Option<Option<&str>> {
        match &self.phase {
            Phase::Opening { reference, .. } => Some(reference.as_deref()),
            Phase::Snapshot { unanswered: Some((reference, _)), .. } => Some(reference.as_deref()),
            Phase::Live | Phase::Snapshot { .. } => None,
        }
    }

    /// What is refused when it is ended.
    pub(super) fn surface(&self) -> Surface {
        if self.unanswered().is_some() { Surface::Join } else { Surface::Live }
    }

    /// The question that it has now, under a grant that took the place of `round` others.
    pub(super) fn ask(&mut self, grant: &Grant, round: u64) -> Question {
        self.queued = false;
        self.again = false;
        self.asking = true;
        self.asked_in = round;
        if !self.granted {
            return Question::Access(grant.clone());
        }
        let not_older_than = self.not_older_than;
        match &self.phase {
            Phase::Opening { at: Some(cursor), resume, .. } => Question::Resume {
                cursor: *cursor,
                wanted: Freshness { head: self.heard, not_older_than },
                budget: self.budget().filter(|_| matches!(resume, Resume::After(_))),
                published_at: self.published_at,
            },
            Phase::Opening { at: None, .. } => Question::Bounds { not_older_than },
            Phase::Snapshot { next, .. } => Question::Snapshot(next.clone()),
            Phase::Live => {
                Question::Read { cursor: self.cursor, wanted: Freshness { head: self.heard, not_older_than } }
            }
        }
    }
}
