//! The follower itself: what it knows, and what each answer makes of that.

use std::{sync::Arc, time::Duration};

use super::{
    phase::{Behind, Phase},
    question::{Answer, Question},
    step::{Context, Delivery, Next, Opened, Step},
};
use crate::{
    class::TopicClass,
    clock::Moment,
    documents::SnapshotFrom,
    error::Error,
    position::{Bounds, Cursor, Epoch, Stale, Watermark},
    snapshots::{SharedSnapshot, SharedSnapshotPage},
    stats::Stats,
    tail::{FollowResult, Freshness, SharedPage},
    topic::Topic,
    update::Timestamp,
    wire::{JoinRequest, OnStale, Resume},
};

/// How often in a row it starts over at once, for the log may be trimmed between two of its questions.
const RESTARTS: u32 = 8;

/// Where one subscriber of one topic stands.
#[derive(Debug)]
pub(crate) struct Follower {
    topic: Topic,
    /// Its topic's class; none if it is of none.
    class: Option<Arc<TopicClass>>,
    on_stale: OnStale,
    /// When the update was published that its cursor ends with: what the subscriber said itself, until it was sent one.
    published_at: Option<Timestamp>,
    phase: Phase,
    /// Set while what it is sent comes from behind the tail.
    behind: Option<Behind>,
    /// What was delivered; means something once it is live.
    cursor: Cursor,
    /// Where its replay ends: at the head of the moment when it was opened, or when a later snapshot began.
    replay_until: Watermark,
    /// The newest announced head.
    announced: Option<Cursor>,
    /// A head was announced after the question that is under way was asked.
    head_since_question: bool,
    /// When the journal last confirmed what is known.
    confirmed_at: Moment,
    /// How old "nothing new" may be; raised by polling, and by doubt.
    not_older_than: Moment,
    /// The question under way is a poll.
    polling: bool,
    /// How many reads in a row have failed.
    failures: u32,
    /// How often in a row it had to start over, because the log no longer continued from where it started.
    restarts: u32,
}

/// What came with a page, or with the news that there is none.
struct News {
    /// What the topic holds.
    bounds: Bounds,
    /// When the journal last confirmed that.
    confirmed_at: Moment,
    /// The page lies behind what the tail holds.
    behind: bool,
}

impl Follower {
    /// A subscriber that asks for `request`, and takes what is known since `not_older_than` for fresh.
    pub(crate) fn new(
        topic: Topic,
        class: Option<Arc<TopicClass>>,
        request: &JoinRequest,
        not_older_than: Moment,
        now: Moment,
    ) -> Self {
        Self {
            topic,
            class,
            on_stale: request.on_stale,
            published_at: request.published_at,
            phase: Phase::of(request.resume),
            behind: None,
            cursor: Cursor::new(Epoch::from_bits(0), Watermark::ORIGIN),
            replay_until: Watermark::ORIGIN,
            announced: None,
            head_since_question: false,
            confirmed_at: now,
            not_older_than,
            polling: false,
            failures: 0,
            restarts: 0,
        }
    }

    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }

    pub(crate) fn class(&self) -> Option<&TopicClass> {
        self.class.as_deref()
    }

    /// When the last update was published that its cursor covers, once it follows the log.
    pub(crate) fn published_at(&self) -> Option<Timestamp> {
        self.published_at.filter(|_| self.is_live())
    }

    /// When the journal last confirmed what is known.
    pub(crate) fn confirmed_at(&self) -> Moment {
        self.confirmed_at
    }

    /// Whether it is not opened yet.
    pub(crate) fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Opening { .. } | Phase::Snapshot { opened: false, .. })
    }

    /// Whether it follows the log.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Where the subscriber needs the log to go on: after what it was sent, or after the snapshot that it is being sent;
    /// none before it is opened.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        match &self.phase {
            Phase::Live => Some(self.cursor),
            Phase::Snapshot { next: SnapshotFrom::After { at, .. }, .. } => Some(*at),
            Phase::Opening { .. } | Phase::Snapshot { next: SnapshotFrom::Start, .. } => None,
        }
    }

    /// Takes in an announced head. One of the same epoch that is not newer comes late, and hides none.
    pub(crate) fn on_head(&mut self, head: Cursor) {
        let late = |known: Cursor| known.epoch == head.epoch && known.watermark >= head.watermark;
        if !self.announced.is_some_and(late) {
            (self.announced, self.head_since_question) = (Some(head), true);
        }
    }

    /// Whether more was announced than was sent.
    pub(crate) fn has_news(&self) -> bool {
        self.is_live() && self.announced.is_some_and(|head| head.is_news_to(self.cursor))
    }

    /// The newest head of the history that it follows: what was sent, or more if more was announced.
    pub(crate) fn newest(&self) -> Watermark {
        let sent = self.cursor;
        let announced = self.announced.filter(|head| head.epoch == sent.epoch);
        announced.map_or(sent.watermark, |head| head.watermark.max(sent.watermark))
    }

    /// Wants to hear from the journal unless it has since that moment; says whether it does.
    pub(crate) fn poll(&mut self, not_older_than: Moment) -> bool {
        let due = self.is_live() && self.confirmed_at < not_older_than;
        if due {
            self.not_older_than = self.not_older_than.max(not_older_than);
            self.polling = true;
        }
        due
    }

    /// The question that it has now. One at a time.
    pub(crate) fn question(&mut self) -> Question {
        self.head_since_question = false;
        let not_older_than = self.not_older_than;
        let wanted = Freshness { head: self.announced, not_older_than };
        match &self.phase {
            Phase::Opening { at: Some(cursor), resume } => Question::Resume {
                cursor: *cursor,
                wanted,
                budget: self.budget().filter(|_| matches!(resume, Resume::After(_))),
                published_at: self.published_at,
            },
            Phase::Opening { at: None, .. } => Question::Bounds { not_older_than },
            Phase::Snapshot { next, .. } => Question::Snapshot(next.clone()),
            Phase::Live => Question::Read { cursor: self.cursor, wanted },
        }
    }

    /// Its question was answered, or could not be.
    pub(crate) fn answer(&mut self, answer: Result<Answer, Error>, context: &Context<'_>) -> Step {
        if answer.is_ok() {
            self.failures = 0;
        }
        match answer {
            Ok(Answer::Read(FollowResult::Page { page, bounds, confirmed_at, behind })) => {
                self.take_page(page, &News { bounds, confirmed_at, behind }, context)
            }
            Ok(Answer::Read(FollowResult::CaughtUp { bounds, confirmed_at })) => {
                self.catch_up(&News { bounds, confirmed_at, behind: false }, context)
            }
            Ok(Answer::Read(FollowResult::Stale(stale))) => self.take_stale(stale, context),
            Ok(Answer::Bounds(bounds, confirmed_at)) => self.take_bounds(&bounds, confirmed_at, context),
            Ok(Answer::Deferred(limited)) => {
                context.stats.replay_deferred(&self.topic, self.class(), context.now.wall);
                Step::next(Next::Deferred(limited))
            }
            Ok(Answer::Snapshot(SharedSnapshot::Page(page))) => self.take_documents(page, context),
            Ok(Answer::Snapshot(SharedSnapshot::Stale(stale))) => {
                // The subscriber is told by the page that starts it anew; operators are by this.
                self.count_stale(&stale, context);
                self.phase.restart_snapshot();
                Step::next(self.start_over(context))
            }
            // It is no answer to what this asks.
            Ok(Answer::Access(_)) => Step::next(Next::Ask),
            Err(error) => {
                let wait = self.back_off(context.retry_after, context.poll_interval);
                Step::next(Next::Failed { error, wait })
            }
        }
    }

    fn take_bounds(&mut self, bounds: &Bounds, confirmed_at: Moment, context: &Context<'_>) -> Step {
        self.confirmed_at = confirmed_at;
        match &mut self.phase {
            Phase::Opening { resume: Resume::Floor, at } => {
                *at = Some(bounds.at_floor());
                Step::next(Next::Ask)
            }
            Phase::Opening { .. } => self.open(bounds.at_head(), bounds, context),
            Phase::Live | Phase::Snapshot { .. } => Step::next(Next::Rest),
        }
    }

    fn take_page(&mut self, page: Arc<SharedPage>, news: &News, context: &Context<'_>) -> Step {
        if let Err(stale) = self.within_budget(&news.bounds) {
            return self.take_stale(stale, context);
        }
        self.confirmed_at = news.confirmed_at;
        let was_live = self.is_live();
        let after = page.page().after;
        let mut step = if let Phase::Opening { .. } = self.phase {
            self.open(Cursor::new(news.bounds.epoch, after), &news.bounds, context)
        } else {
            Step::next(Next::Rest)
        };
        if self.cursor.watermark != after {
            // It answers a question that this follower no longer has; what is wanted is asked for again.
            step.next = Next::Ask;
            return step;
        }
        self.restarts = 0;
        self.reads(news.behind, was_live, context.stats);
        if self.polled() {
            context.stats.cells.missed_announcements.add(page.page().updates.len() as u64);
        }
        (self.cursor, self.published_at) = (page.page().cursor(), Some(page.published_at()));
        // A shared page may have been complete when it was read, and the tail have read on since.
        let more = self.cursor.watermark < news.bounds.head || self.has_news();
        step.next = if more { Next::Ask } else { Next::Rest };
        let complete = self.cursor.watermark >= self.replay_until;
        step.delivery = Some(Delivery::Updates { page, complete });
        step
    }

    fn catch_up(&mut self, news: &News, context: &Context<'_>) -> Step {
        self.confirmed_at = news.confirmed_at;
        if let Phase::Opening { .. } = self.phase {
            return self.open(news.bounds.at_head(), &news.bounds, context);
        }
        self.restarts = 0;
        self.reads(false, true, context.stats);
        // Polling found nothing.
        self.polled();
        if !self.has_news() {
            return Step::next(Next::Rest);
        }
        if self.head_since_question {
            return Step::next(Next::Ask);
        }
        // The announced update cannot be read yet, and asking again at once would only spin. It is looked for once more, later than
        // this. If it is not there then, it may never come, and is left to polling.
        self.announced = None;
        self.not_older_than = self.not_older_than.max(news.confirmed_at.plus(Duration::from_millis(1)));
        Step::next(Next::Wait(context.retry_after))
    }

    fn take_documents(&mut self, page: Arc<SharedSnapshotPage>, context: &Context<'_>) -> Step {
        let documents = page.page();
        let Phase::Snapshot { opened, stale, next } = &mut self.phase else { return Step::next(Next::Rest) };
        let first = matches!(next, SnapshotFrom::Start);
        if first {
            self.replay_until = documents.bounds.head;
        }
        *next = documents.next().unwrap_or(SnapshotFrom::Start);
        let stale = stale.take();
        let opens = !std::mem::replace(opened, true);
        let opened = opens.then(|| {
            context.stats.cells.joins_from_snapshot.add(1);
            let Bounds { head, floor, .. } = documents.bounds;
            Opened { at: documents.at, head, floor, stale: stale.clone() }
        });
        self.published_at = None;
        if documents.complete {
            (self.phase, self.cursor) = (Phase::Live, documents.at);
        }
        let delivery = Some(Delivery::Documents { page, first, stale });
        Step { opened, delivery, fell_back: false, next: Next::Ask }
    }

    /// The cursor cannot be resumed from: at the start, or because the log was trimmed past a slow subscriber.
    fn take_stale(&mut self, stale: Stale, context: &Context<'_>) -> Step {
        if let Phase::Opening { resume: Resume::Floor, at } = &mut self.phase {
            // Trimmed between the two questions; the floor is where it is now.
            *at = Some(stale.bounds.at_floor());
            return Step::next(self.start_over(context));
        }
        let stale = stale.within(self.budget());
        self.count_stale(&stale, context);
        if self.on_stale == OnStale::Error {
            return Step::next(Next::Stale(stale));
        }
        self.phase.start_snapshot(stale);
        Step { fell_back: true, ..Step::next(self.start_over(context)) }
    }

    /// Begins to follow the log.
    fn open(&mut self, at: Cursor, bounds: &Bounds, context: &Context<'_>) -> Step {
        let cells = &context.stats.cells;
        match std::mem::replace(&mut self.phase, Phase::Live) {
            Phase::Opening { resume: Resume::After(_), .. } => cells.joins_from_cursor.add(1),
            Phase::Opening { resume: Resume::Floor, .. } => cells.joins_from_floor.add(1),
            _ => cells.joins_from_head.add(1),
        }
        self.cursor = at;
        self.replay_until = bounds.head;
        let next = if self.has_news() { Next::Ask } else { Next::Rest };
        let opened = Opened { at, head: bounds.head, floor: bounds.floor, stale: None };
        Step { opened: Some(opened), ..Step::next(next) }
    }

    /// How far behind the head a cursor that was brought may be.
    fn budget(&self) -> Option<u64> {
        self.class.as_ref().and_then(|class| class.replay_budget)
    }

    /// Whether a cursor that was brought is not too far behind the head for its class.
    fn within_budget(&self, bounds: &Bounds) -> Result<(), Stale> {
        match self.phase {
            Phase::Opening { resume: Resume::After(cursor), .. } => {
                bounds.admit_within(cursor, self.budget())
            }
            _ => Ok(()),
        }
    }

    fn count_stale(&self, stale: &Stale, context: &Context<'_>) {
        context.stats.stale(context.subject, &self.topic, self.class(), &stale.reasons, context.now);
    }

    /// Notes where what it is sent comes from, and counts each change of that.
    fn reads(&mut self, behind: bool, was_live: bool, stats: &Arc<Stats>) {
        if behind {
            self.behind.get_or_insert_with(|| Behind::new(stats, was_live));
        } else if self.behind.take().is_some() {
            stats.cells.promotions.add(1);
        }
    }

    /// Whether what was just answered was found by polling and nothing had told of it.
    fn polled(&mut self) -> bool {
        std::mem::take(&mut self.polling) && !self.has_news()
    }

    /// Asks from a new start: at once, but for one that did so again and again. A journal that never continues from what it
    /// has just said itself is asked again later.
    fn start_over(&mut self, context: &Context<'_>) -> Next {
        self.restarts += 1;
        if self.restarts <= RESTARTS { Next::Ask } else { Next::Wait(context.retry_after) }
    }

    /// How long to wait after a read that failed: twice as long after each in a row, up to `longest`.
    fn back_off(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let wait = shortest.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        wait.min(longest.max(shortest))
    }
}
