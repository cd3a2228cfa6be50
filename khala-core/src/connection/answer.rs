//! The handle's answers to the questions of its sessions: at once from memory, else by reads that are shared, let in by
//! their cost, and taken in turns.
//!
//! What must stay true: whoever stands at the head costs one read of its topic's bounds at most, shared by all who come
//! at the same time; and nobody waits for a turn, or rests, to hear what is new.

use std::{hash::BuildHasher as _, time::Duration};

use crate::{
    auth::{Access, Grant},
    clock::Moment,
    documents::SnapshotFrom,
    error::Error,
    journal::ReadLimit,
    khala::Khala,
    position::{Bounds, Cursor, Stale, StaleReason},
    replay::{Turn, Waiter},
    session::{Answer, Question},
    tail::{Followed, Peek, Wanted},
    topic::Topic,
    update::Timestamp,
};

/// What the first page of a snapshot costs at the gate, in pages: nobody knows how many follow.
const SNAPSHOT_PAGES: u64 = 4;

/// How long a read of history waits before it looks again whether there is memory for it.
const ROOM_AGAIN: Duration = Duration::from_millis(100);

/// The turn to read history, until it is dropped.
#[derive(Debug)]
pub struct HistoryTurn {
    _turn: Turn,
}

impl Khala {
    /// Answers a session's question.
    pub(crate) async fn answer(
        &self,
        waiter: Waiter,
        topic: &Topic,
        question: Question,
    ) -> Result<Answer, Error> {
        let now = self.moment();
        Ok(match question {
            Question::Access(grant) => Answer::Access(self.authorize(&grant, topic, Access::Read).await),
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
        wanted: Wanted,
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
                    return Ok(Answer::Read(Followed::Stale(stale)));
                }
                _ => {}
            }
            let lag = cursor.watermark.distance_to(bounds.head);
            let cold = lag > 0 && matches!(self.0.tail.look(topic, cursor, wanted), Peek::Cold);
            // Before anything is read: a join that is put off costs nothing, however often it comes.
            if cold && let Err(limited) = self.0.gate.replay(waiter, topic, cursor, lag, now) {
                return Ok(Answer::Deferred(limited));
            }
            // Of an update that was trimmed it cannot be told.
            if let Some(published_at) = published_at
                && bounds.admit(cursor).is_ok()
                && cursor.watermark > bounds.floor
            {
                let _turn = match self.0.tail.known_moment(topic, cursor) {
                    Some(_) => None,
                    None => Some(self.turn(waiter).await),
                };
                if !self.is_of_this_history(topic, cursor, published_at).await? {
                    return Ok(Answer::Read(Followed::Stale(Stale::of_another_history(cursor, bounds))));
                }
            }
            if cold && lag >= ReadLimit::PAGE.updates.get() as u64 {
                // What answers the join does not rest; those after it do, for its sake too.
                self.0.pace.place(now);
            }
        }
        self.read_now(waiter, topic, cursor, wanted, None).await
    }

    /// What follows a cursor. Behind the tail it waits for a turn, and with that it rests beside appends: so turns decide who
    /// comes next, and nobody waits for the rest of more than those who have one.
    async fn read(
        &self,
        waiter: Waiter,
        topic: &Topic,
        cursor: Cursor,
        wanted: Wanted,
    ) -> Result<Answer, Error> {
        let mut turn = None;
        if self.rests(topic, cursor, wanted, self.moment()) {
            turn = Some(self.turn(waiter).await);
            self.rest(topic, cursor, wanted).await;
        }
        self.read_now(waiter, topic, cursor, wanted, turn).await
    }

    /// Whether what follows the cursor is history that rests, because somebody appends.
    fn rests(&self, topic: &Topic, cursor: Cursor, wanted: Wanted, now: Moment) -> bool {
        // Who misses less than a page, or follows a topic of which nothing is known here, may only be late for what is new.
        let lags = |bounds: Bounds| {
            let lag = cursor.watermark.distance_to(bounds.head);
            bounds.epoch == cursor.epoch && lag >= ReadLimit::PAGE.updates.get() as u64
        };
        self.0.pace.holds(now)
            && self.0.tail.known_bounds(topic).is_some_and(lags)
            && matches!(self.0.tail.peek(topic, cursor, wanted, now), Peek::Cold)
    }

    /// Rests, until somebody else has read it if it is young. A dropped future has taken nobody's place.
    pub(crate) async fn rest(&self, topic: &Topic, cursor: Cursor, wanted: Wanted) {
        let mut now = self.moment();
        if !self.rests(topic, cursor, wanted, now) {
            return;
        }
        let place = self.0.pace.take_place(now);
        if place.at() > now {
            self.0.stats.cells.replays_rested.add(1);
        }
        while let Some(rest) = self.0.pace.rest(place.at(), now) {
            self.clock().sleep(rest).await;
            now = self.moment();
            if !self.rests(topic, cursor, wanted, now) {
                return;
            }
        }
        place.keep();
    }

    /// What follows a cursor. Behind the tail, it waits for a turn, unless it has one.
    async fn read_now(
        &self,
        waiter: Waiter,
        topic: &Topic,
        cursor: Cursor,
        wanted: Wanted,
        turn: Option<Turn>,
    ) -> Result<Answer, Error> {
        let _turn = match (self.0.tail.look(topic, cursor, wanted), turn) {
            (Peek::Found(followed), _) => return Ok(Answer::Read(followed)),
            (Peek::Hot, _) => None,
            (Peek::Cold, Some(turn)) => Some(turn),
            (Peek::Cold, None) => {
                self.room().await;
                Some(self.turn(waiter).await)
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
            && let Err(limited) = self.0.gate.enter(waiter, SNAPSHOT_PAGES, self.moment())
        {
            return Ok(Answer::Deferred(limited));
        }
        self.room().await;
        let _turn = self.turn(waiter).await;
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

    /// Waits for the turn of `grant`'s holder to read history, as connections do that replay: for a host that reads the
    /// journal on behalf of others. Holders take turns, so one who asks for much delays nobody else by more than a read.
    ///
    /// The turn lasts until it is dropped: it is held for one read, and not for what follows. Dropping the future gives it
    /// up.
    pub async fn history_turn(&self, grant: &Grant) -> HistoryTurn {
        // Its requests are one connection among those of the same holder.
        let waiter = Waiter { principal: self.0.hasher.hash_one(grant.subject()), connection: 0 };
        HistoryTurn { _turn: self.turn(waiter).await }
    }

    /// Waits while the memory budget is spent: a subscriber that reads history holds a cursor, and has time.
    async fn room(&self) {
        while self.0.memory.is_spent() {
            self.0.snapshots.let_go();
            self.0.tail.let_go();
            if !self.0.memory.is_spent() {
                break;
            }
            self.clock().sleep(ROOM_AGAIN).await;
        }
    }

    async fn turn(&self, waiter: Waiter) -> Turn {
        match self.0.turns.free() {
            Some(turn) => turn,
            None => {
                self.0.stats.cells.turns_waited.add(1);
                self.0.turns.wait(waiter).await
            }
        }
    }
}
