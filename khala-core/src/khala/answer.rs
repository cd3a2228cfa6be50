//! The answers to the questions of followers: at once from memory, else by reads that are shared, admitted by their cost, and
//! queued.
//!
//! # Invariants
//! A subscriber at the head costs one read of its topic's bounds at most, shared by all who come at the same time. No subscriber
//! waits for a permit, or is throttled, to be told what is new.

use std::{hash::BuildHasher as _, time::Duration};

use super::Khala;
use crate::{
    auth::{Access, Grant},
    clock::Moment,
    documents::SnapshotFrom,
    error::Error,
    follower::{Answer, Question},
    journal::ReadLimit,
    position::{Bounds, Cursor, Stale, StaleReason},
    replay::{ReadPermit as QueuePermit, Waiter},
    tail::{CacheLookup, FollowResult, Freshness},
    topic::Topic,
    update::Timestamp,
};

/// What the first page of a snapshot costs at admission, in pages: nobody knows how many follow.
const SNAPSHOT_PAGES: u64 = 4;

/// How long a read of history waits before it looks again whether there is memory for it.
const LOOK_FOR_MEMORY_EVERY: Duration = Duration::from_millis(100);

/// The permit to read history, until it is dropped.
#[derive(Debug)]
pub struct ReadPermit {
    _permit: QueuePermit,
}

impl Khala {
    /// Answers a follower's question.
    pub(crate) async fn answer(
        &self,
        waiter: Waiter,
        topic: &Topic,
        question: Question,
    ) -> Result<Answer, Error> {
        let now = self.moment();
        Ok(match question {
            Question::Access(grant) => {
                Answer::Access(self.access().authorize(&grant, topic, Access::Read).await)
            }
            Question::Bounds { not_older_than } => {
                let (bounds, confirmed_at) = self.0.tail.recent_bounds(topic, not_older_than, now).await?;
                Answer::Bounds(bounds, confirmed_at)
            }
            Question::Read { cursor, wanted } => self.read(waiter, topic, cursor, wanted).await?,
            Question::Resume { cursor, wanted, budget, published_at } => {
                self.resume(waiter, topic, cursor, wanted, budget, published_at).await?
            }
            Question::Snapshot(from) => self.snapshot(waiter, topic, from).await?,
        })
    }

    /// A join from a cursor that memory has no answer for.
    async fn resume(
        &self,
        waiter: Waiter,
        topic: &Topic,
        cursor: Cursor,
        wanted: Freshness,
        budget: Option<u64>,
        published_at: Option<Timestamp>,
    ) -> Result<Answer, Error> {
        let now = self.moment();
        let (bounds, _) = self.0.tail.recent_bounds(topic, wanted.not_older_than, now).await?;
        if cursor.epoch == bounds.epoch {
            match bounds.admit_within(cursor, budget) {
                // Both ends of the log only go forward, so this only becomes truer. What comes from another history or
                // from ahead may have become good since, and is read.
                Err(stale) if !stale.reasons.contains(&StaleReason::CursorAhead) => {
                    return Ok(Answer::Read(FollowResult::Stale(stale)));
                }
                _ => {}
            }
            let lag = cursor.watermark.distance_to(bounds.head);
            let cold = lag > 0
                && matches!(self.0.tail.get_unthrottled(topic, cursor, wanted), CacheLookup::MissBehind);
            // Before anything is read: a join that is put off costs nothing, however often it comes.
            if cold
                && let Err(limited) = self.0.replay_admission.admit_replay(waiter, topic, cursor, lag, now)
            {
                return Ok(Answer::Deferred(limited));
            }
            // Of an update that was trimmed it cannot be told.
            if let Some(published_at) = published_at
                && bounds.admit(cursor).is_ok()
                && cursor.watermark > bounds.floor
            {
                let _permit = match self.0.tail.known_moment(topic, cursor) {
                    Some(_) => None,
                    None => Some(self.permit(waiter).await),
                };
                if !self.is_of_this_history(topic, cursor, published_at).await? {
                    return Ok(Answer::Read(FollowResult::Stale(Stale::of_another_history(cursor, bounds))));
                }
            }
            if cold && lag >= ReadLimit::PAGE.updates.get() as u64 {
                // The read that answers the join is not throttled; those after it are, for its sake too.
                self.0.throttle.next_slot(now);
            }
        }
        self.read_now(waiter, topic, cursor, wanted, None).await
    }

    /// What follows a cursor. Behind the tail it waits for a permit, and is throttled while it has one: so the queue decides which
    /// read comes next, and no read waits for the throttle of more than those that have a permit.
    async fn read(
        &self,
        waiter: Waiter,
        topic: &Topic,
        cursor: Cursor,
        wanted: Freshness,
    ) -> Result<Answer, Error> {
        let mut permit = None;
        if self.is_throttled(topic, cursor, wanted, self.moment()) {
            permit = Some(self.permit(waiter).await);
            self.throttle(topic, cursor, wanted).await;
        }
        self.read_now(waiter, topic, cursor, wanted, permit).await
    }

    /// Whether what follows the cursor is history that is throttled, because somebody appends.
    fn is_throttled(&self, topic: &Topic, cursor: Cursor, wanted: Freshness, now: Moment) -> bool {
        // Who misses less than a page, or follows a topic of which nothing is known here, may only be late for what is new.
        let lags = |bounds: Bounds| {
            let lag = cursor.watermark.distance_to(bounds.head);
            bounds.epoch == cursor.epoch && lag >= ReadLimit::PAGE.updates.get() as u64
        };
        self.0.throttle.is_active(now)
            && self.0.tail.known_bounds(topic).is_some_and(lags)
            && matches!(self.0.tail.get(topic, cursor, wanted, now), CacheLookup::MissBehind)
    }

    /// Waits while the throttle asks for it, or until another read has brought what follows. A dropped future gives its slot back.
    pub(crate) async fn throttle(&self, topic: &Topic, cursor: Cursor, wanted: Freshness) {
        let mut now = self.moment();
        if !self.is_throttled(topic, cursor, wanted, now) {
            return;
        }
        let slot = self.0.throttle.reserve_slot(now);
        if slot.at() > now {
            self.0.stats.cells.replays_throttled.add(1);
        }
        while let Some(wait) = self.0.throttle.wait_left(slot.at(), now) {
            self.clock().sleep(wait).await;
            now = self.moment();
            if !self.is_throttled(topic, cursor, wanted, now) {
                return;
            }
        }
        slot.keep();
    }

    /// What follows a cursor. Behind the tail, it waits for a permit, unless it has one.
    async fn read_now(
        &self,
        waiter: Waiter,
        topic: &Topic,
        cursor: Cursor,
        wanted: Freshness,
        permit: Option<QueuePermit>,
    ) -> Result<Answer, Error> {
        let _permit = match (self.0.tail.get_unthrottled(topic, cursor, wanted), permit) {
            (CacheLookup::Hit(followed), _) => return Ok(Answer::Read(followed)),
            (CacheLookup::MissAtHead, _) => None,
            (CacheLookup::MissBehind, Some(permit)) => Some(permit),
            (CacheLookup::MissBehind, None) => {
                self.wait_for_memory().await;
                Some(self.permit(waiter).await)
            }
        };
        Ok(Answer::Read(self.0.tail.follow(topic, cursor, wanted, self.moment()).await?))
    }

    /// A page of a snapshot: that of somebody else who reads the same, or one of its own.
    async fn snapshot(&self, waiter: Waiter, topic: &Topic, from: SnapshotFrom) -> Result<Answer, Error> {
        let find = || {
            let (bounds, now) = (self.0.tail.known_bounds(topic), self.moment());
            self.0.snapshots.find(topic, &from, bounds.as_ref(), self.0.tail.evidence(topic), now)
        };
        if let Some(read) = find() {
            return Ok(Answer::Snapshot(read.await?));
        }
        if from == SnapshotFrom::Start
            && let Err(limited) = self.0.replay_admission.admit_pages(waiter, SNAPSHOT_PAGES, self.moment())
        {
            return Ok(Answer::Deferred(limited));
        }
        self.wait_for_memory().await;
        let _permit = self.permit(waiter).await;
        // Somebody may have begun it meanwhile.
        let read = find().unwrap_or_else(|| {
            self.0.snapshots.read(topic, from.clone(), self.0.tail.evidence(topic), self.moment())
        });
        Ok(Answer::Snapshot(read.await?))
    }

    /// Whether the last update that `cursor` covers is, as far as can be told, the one that was published at that moment:
    /// if not, the topic was restored from a backup and has grown past the cursor since.
    ///
    /// It cannot be told of an update that was trimmed, or that is not there: then it is taken to be. Reads one update of
    /// the journal at most, shared by all who ask for the same.
    ///
    /// # Errors
    /// An [`Error`] when the journal had to be read and could not.
    pub async fn is_of_this_history(
        &self,
        topic: &Topic,
        cursor: Cursor,
        published_at: Timestamp,
    ) -> Result<bool, Error> {
        let stored = self.0.tail.moment_of(topic, cursor, self.moment()).await?;
        Ok(stored.is_none_or(|stored| stored == published_at))
    }

    /// Waits for a permit to read history for the subject of `grant`, as connections do that replay: for a host that reads the
    /// journal on behalf of others. Subjects take turns, so one that asks for much delays the others by one read at most.
    ///
    /// The permit lasts until it is dropped: it is held for one read, and not for what follows. Dropping the future gives up
    /// the place in the queue.
    pub async fn acquire_read_permit(&self, grant: &Grant) -> ReadPermit {
        // Its requests are one connection among those of the same subject.
        let waiter = Waiter { subject: self.0.hasher.hash_one(grant.subject()), connection: 0 };
        ReadPermit { _permit: self.permit(waiter).await }
    }

    /// Waits while the memory budget is spent: a subscriber that reads history holds a cursor, and has time.
    async fn wait_for_memory(&self) {
        while self.0.memory.is_spent() {
            self.0.snapshots.let_go();
            self.0.tail.let_go();
            if !self.0.memory.is_spent() {
                break;
            }
            self.clock().sleep(LOOK_FOR_MEMORY_EVERY).await;
        }
    }

    async fn permit(&self, waiter: Waiter) -> QueuePermit {
        match self.0.read_queue.try_acquire() {
            Some(permit) => permit,
            None => {
                self.0.stats.cells.replays_queued.add(1);
                self.0.read_queue.acquire(waiter).await
            }
        }
    }
}
