//! Following a topic within the process: the attach rule in a loop.
//!
//! Watch, read until caught up, sleep until the watch shows more or it is time to poll, read again. Because the
//! hint is a level and the cursor moves only with what was returned, there is nothing to buffer or de-duplicate.
//! What it does on a doubt, after a failure and at a floor that moves is what a session does.

use std::time::Duration;

use futures::{Stream, future::Either, stream};

use super::Khala;
use crate::{
    clock::Moment,
    documents::{Snapshot, SnapshotFrom},
    error::Error,
    event::{DocumentPage, EventPage, Start, Subscription, UpdatePage},
    fanout::Watch,
    journal::{Journal as _, ReadLimit},
    position::{Bounds, Cursor, Stale},
    retention::CursorHandle,
    tail::{FollowResult, Freshness, inconclusive},
    topic::Topic,
    wire::{JoinRequest, OnStale, Resume},
};

/// How often one call starts over, for the log may be trimmed between two reads.
const RESTARTS: u32 = 8;

/// A topic that is followed within the process.
#[derive(Debug)]
struct Follower {
    khala: Khala,
    topic: Topic,
    on_stale: OnStale,
    watch: Watch,
    cursor: Cursor,
    snapshot: Option<SnapshotFrom>,
    /// It starts at the floor, wherever that is when the log is first read.
    at_floor: bool,
    /// Why there is a snapshot that was not asked for; its first page says so.
    stale: Option<Stale>,
    /// The announced head that could not be read, and when that was first tried.
    doubted: Option<(Cursor, Moment)>,
    /// The journal failed, and is not asked before this.
    retry_at: Option<Moment>,
    /// Counts among those whom a trim would leave behind.
    place: Box<CursorHandle>,
}

impl Khala {
    /// Follows a topic in this process, with the promises of the wire: first what was missed, then what comes.
    pub(super) async fn follow(&self, topic: &Topic, start: Start) -> Result<Subscription, Error> {
        match Follower::open(self.clone(), topic.clone(), start.into()).await? {
            Ok(follower) => {
                let at = follower.snapshot.is_none().then_some(follower.cursor);
                Ok(Subscription::new(follower.into_stream(), at))
            }
            Err(stale) => Ok(Subscription::new(stream::once(async { Ok(EventPage::Stale(stale)) }), None)),
        }
    }
}

impl Follower {
    async fn open(khala: Khala, topic: Topic, request: JoinRequest) -> Result<Result<Self, Stale>, Error> {
        // The watch comes first: what is appended after the bounds were read is then heard of.
        let watch = khala.fanout().watch(&topic).await?;
        let bounds = khala.journal().bounds(&topic).await?;
        let budget = khala.class_of(&topic).and_then(|class| class.replay_budget);
        let mut stale = None;
        let (cursor, snapshot) = match request.resume {
            Resume::After(cursor) => match admit(&khala, &topic, &request, cursor, bounds, budget).await? {
                Ok(()) => (cursor, None),
                Err(why) if request.on_stale == OnStale::Error => return Ok(Err(why)),
                Err(why) => {
                    stale = Some(why);
                    (bounds.at_head(), Some(SnapshotFrom::Start))
                }
            },
            Resume::Floor => (bounds.at_floor(), None),
            Resume::Head => (bounds.at_head(), None),
            Resume::Snapshot => (bounds.at_head(), Some(SnapshotFrom::Start)),
        };
        let place = Box::new(khala.cursors().follow(&topic, None, cursor, khala.moment()));
        Ok(Ok(Self {
            place,
            khala,
            topic,
            on_stale: request.on_stale,
            watch,
            cursor,
            snapshot,
            at_floor: request.resume == Resume::Floor,
            stale,
            doubted: None,
            retry_at: None,
        }))
    }

    /// Waits for what comes next. After an error it stands where it stood, and waits before the journal is asked again, so that
    /// a loop that notes the error and goes on does not spin.
    async fn next(&mut self) -> Result<EventPage, Error> {
        self.wait_after_error().await;
        let next = self.look().await;
        if next.is_err() {
            self.retry_at = Some(self.khala.moment().plus(self.khala.sessions().retry_after));
        }
        next
    }

    async fn wait_after_error(&mut self) {
        let Some(retry_at) = self.retry_at else { return };
        self.khala.clock().sleep(retry_at.since(self.khala.moment())).await;
        self.retry_at = None;
    }

    async fn look(&mut self) -> Result<EventPage, Error> {
        let mut restarts = 0;
        loop {
            if let Some(from) = self.snapshot.clone() {
                return self.next_documents(from).await;
            }
            let now = self.khala.moment();
            let poll_every = self.khala.sessions().poll_every;
            // What was in doubt has to be read later than it could not be.
            let doubted = self.doubted.map(|(_, at)| at.plus(Duration::from_millis(1)).min(now));
            let not_older_than = now.minus(poll_every).max(doubted.unwrap_or_default());
            let wanted = Freshness { head: self.watch.head(), not_older_than };
            self.khala.throttle(&self.topic, self.cursor, wanted).await;
            match self.khala.journal().follow(&self.topic, self.cursor, wanted, now).await? {
                FollowResult::Page { page, .. } => {
                    self.cursor = page.page().cursor();
                    self.place.moved(self.cursor, now);
                    self.at_floor = false;
                    return Ok(EventPage::Updates(UpdatePage::shared(page)));
                }
                // Trimmed since the bounds were read; the floor is where it is now.
                FollowResult::Stale(stale) if self.at_floor => {
                    restarts += 1;
                    if restarts > RESTARTS {
                        return Err(inconclusive(&self.topic));
                    }
                    self.cursor = stale.bounds.at_floor();
                    self.place.moved(self.cursor, now);
                }
                FollowResult::Stale(stale) if self.on_stale == OnStale::Snapshot => {
                    self.stale = Some(stale);
                    self.snapshot = Some(SnapshotFrom::Start);
                }
                FollowResult::Stale(stale) => return Ok(EventPage::Stale(stale)),
                FollowResult::CaughtUp { .. } => {
                    self.at_floor = false;
                    let wait = self.doubt(now).unwrap_or(poll_every);
                    self.sleep(wait).await;
                }
            }
        }
    }

    async fn next_documents(&mut self, from: SnapshotFrom) -> Result<EventPage, Error> {
        let mut from = from;
        for _ in 0..=RESTARTS {
            match self.khala.documents().snapshot(&self.topic, from.clone(), ReadLimit::PAGE).await? {
                Snapshot::Page(page) => {
                    self.cursor = page.at;
                    self.place.moved(self.cursor, self.khala.moment());
                    self.snapshot = page.next();
                    let first = from == SnapshotFrom::Start;
                    let stale = if first { self.stale.take() } else { None };
                    let page = DocumentPage::new(page.at, first, page.documents, page.complete);
                    return Ok(EventPage::Snapshot(page.with_stale(stale)));
                }
                // The log no longer continues from the watermark of page one: from the start.
                Snapshot::Stale(_) => from = SnapshotFrom::Start,
            }
        }
        Err(inconclusive(&self.topic))
    }

    /// How soon to look again, if more was announced than the journal had at `now`.
    ///
    /// Once per head: one that is not there then either may never be, and is left to polling.
    fn doubt(&mut self, now: Moment) -> Option<Duration> {
        let announced = self.watch.head().filter(|head| head.is_news_to(self.cursor));
        let known = self.doubted.filter(|(head, _)| Some(*head) == announced);
        self.doubted = known.or_else(|| announced.map(|head| (head, now)));
        let (_, tried_at) = self.doubted?;
        // What is left of the wait, for one that was given up halfway goes on.
        let left = self.khala.sessions().retry_after.saturating_sub(now.since(tried_at));
        (!left.is_zero()).then_some(left)
    }

    /// Sleeps until a head is announced that is news, or it is time to look again.
    async fn sleep(&mut self, wait: Duration) {
        let mut look = self.khala.clock().sleep(wait);
        loop {
            let moved = std::pin::pin!(self.watch.moved());
            match futures::future::select(moved, look).await {
                Either::Left((head, rest)) if !head.is_news_to(self.cursor) => look = rest,
                Either::Left(_) | Either::Right(_) => return,
            }
        }
    }

    /// Ends after [`EventPage::Stale`]. A wait that was begun is kept in the stream, so that one that is not polled to its end goes
    /// on with the next poll.
    fn into_stream(self) -> impl Stream<Item = Result<EventPage, Error>> + Send {
        stream::unfold(Some(self), |follower| async move {
            let mut follower = follower?;
            let next = follower.next().await;
            let goes_on = !matches!(next, Ok(EventPage::Stale(_)));
            Some((next, goes_on.then_some(follower)))
        })
    }
}

/// Whether a cursor can be resumed from: one that says which update it ends with, only where that is still there.
async fn admit(
    khala: &Khala,
    topic: &Topic,
    request: &JoinRequest,
    cursor: Cursor,
    bounds: Bounds,
    budget: Option<u64>,
) -> Result<Result<(), Stale>, Error> {
    if let Some(published_at) = request.published_at
        && bounds.admit(cursor).is_ok()
        && !khala.is_of_this_history(topic, cursor, published_at).await?
    {
        return Ok(Err(Stale::of_another_history(cursor, bounds)));
    }
    Ok(bounds.admit_within(cursor, budget))
}
