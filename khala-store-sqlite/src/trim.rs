//! Trimming, in steps that are short enough for appends to go in between, and planning it.
//!
//! What a trim removes is decided by the head that its first step finds: what is appended while it goes on is
//! kept, so it ends, and its result is that of one step at that moment. Each step is one transaction that
//! removes updates and raises the floor, so no reader ever sees one without the other (J5, J11). A plan weighs
//! the same updates by the same rule (J19), also in steps, so that no moment of the file is held on to for long.

use khala_core::{
    Bounds, Epoch, Error, Seq, Timestamp, Topic, Watermark,
    journal::{CLOCKS_APART, DEDUP_FOR, Keep, Trimmed, is_ahead},
};
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use crate::{
    fault::Fault,
    read,
    row::{self, TopicRow, int},
    sql,
};

/// The most rows that one step removes, or weighs.
const STEP_ROWS: i64 = 500;

/// The most bytes that one step removes, or weighs, but for its first update.
const STEP_BYTES: u64 = 4 << 20;

/// What is to be trimmed.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) topic: Topic,
    pub(crate) keep: Keep,
    pub(crate) now: Timestamp,
}

/// A trim that is under way.
#[derive(Debug)]
pub(crate) struct Trim {
    pub(crate) order: Order,
    pub(crate) answer: oneshot::Sender<Result<Trimmed, Error>>,
    pub(crate) progress: Option<Progress>,
}

/// What the steps so far have done, or a plan would.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) trimmed: Trimmed,
    /// The floor that the last step found, or that it left.
    stands: Watermark,
    /// The head that the first step found.
    until: Watermark,
    /// What the updates up to there count that are still kept.
    held: u64,
}

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Done,
    Step,
}

impl Progress {
    fn begin(bounds: Bounds, bytes: u64) -> Self {
        let trimmed = Trimmed { bounds, updates: 0, bytes: 0, oldest: None };
        Self { trimmed, stands: bounds.floor, until: bounds.head, held: bytes }
    }

    /// With the head that the topic has now; none where another process has trimmed it since the last step, for then
    /// what was known of the log's start is void.
    fn resume(mut self, row: &TopicRow) -> Option<Self> {
        let bounds = &mut self.trimmed.bounds;
        if (bounds.epoch, self.stands) != (row.bounds.epoch, row.bounds.floor) {
            return None;
        }
        bounds.head = row.bounds.head;
        Some(self)
    }
}

impl Order {
    /// One step of a plan.
    pub(crate) fn plan(
        &self,
        conn: &Connection,
        seed: &[u8; 16],
        progress: Option<Progress>,
    ) -> Result<(Progress, Next), Fault> {
        read::at_one_moment(conn, |conn| {
            let Some(row) = TopicRow::read(&mut *conn.prepare_cached(sql::TOPIC)?, &self.topic)? else {
                return Ok((self.untouched(seed), Next::Done));
            };
            let resumed = progress.and_then(|progress| progress.resume(&row));
            let mut progress = resumed.unwrap_or_else(|| Progress::begin(row.bounds, row.bytes));
            let next = self.weigh(conn, row.id, &mut progress)?;
            Ok((progress, next))
        })
    }

    /// What there is to do about a topic that was never written.
    fn untouched(&self, seed: &[u8; 16]) -> Progress {
        Progress::begin(Bounds::untouched(Epoch::derive(seed, &self.topic)), 0)
    }

    /// Counts what may go of the next oldest updates, and raises the floor of `progress` over it.
    fn weigh(&self, conn: &Connection, topic: i64, progress: &mut Progress) -> Result<Next, Fault> {
        let Progress { trimmed, until, held, .. } = progress;
        let (mut rows_seen, mut bytes_seen) = (0, 0);
        trimmed.oldest = None;
        let mut oldest = conn.prepare_cached(sql::OLDEST)?;
        // One more than may go, which is then the oldest that stays.
        let mut rows = oldest.query(params![topic, int(trimmed.bounds.floor.as_u64()), STEP_ROWS + 1])?;
        let mut next = None;
        while let Some(found) = rows.next()? {
            let (seq, at) = (row::seq(found, 0)?, row::moment(found, 1)?);
            let size: i64 = found.get(2)?;
            let size = u64::try_from(size)
                .map_err(|_| Fault::corrupt(format!("an update of {} counts {size} bytes", self.topic)))?;
            let kept = trimmed.bounds.floor.distance_to(*until);
            let mut old_as = at;
            if is_ahead(at, self.now) {
                if next.is_none_or(|(next, _)| next < seq) {
                    next = self.next_in_time(conn, topic, seq)?;
                }
                old_as = next.map_or(at, |(_, at)| at);
            }
            if !until.covers(seq) || !self.keep.lets_go(seq, old_as, kept, *held, self.now) {
                trimmed.oldest = Some(at);
                break;
            }
            if rows_seen == STEP_ROWS || (rows_seen > 0 && bytes_seen + size > STEP_BYTES) {
                trimmed.oldest = Some(at);
                return Ok(Next::Step);
            }
            (rows_seen, bytes_seen) = (rows_seen + 1, bytes_seen + size);
            trimmed.bounds.floor = seq.watermark();
            trimmed.updates += 1;
            trimmed.bytes += size;
            *held = held.saturating_sub(size);
        }
        Ok(Next::Done)
    }
}

impl Order {
    /// The first update after `seq` whose clock was not far ahead, and when it was published.
    fn next_in_time(
        &self,
        conn: &Connection,
        topic: i64,
        seq: Seq,
    ) -> Result<Option<(Seq, Timestamp)>, Fault> {
        let by = int(self.now.plus(CLOCKS_APART).as_millis());
        let mut next = conn.prepare_cached(sql::NEXT_PUBLISHED_BY)?;
        let mut rows = next.query(params![topic, int(seq.as_u64()), by])?;
        rows.next()?.map(|found| Ok((row::seq(found, 0)?, row::moment(found, 1)?))).transpose()
    }
}

impl Trim {
    /// One step, in the transaction that is open on `conn`.
    pub(crate) fn step(&self, conn: &Connection, seed: &[u8; 16]) -> Result<(Progress, Next), Fault> {
        let Some(row) = TopicRow::read(&mut *conn.prepare_cached(sql::TOPIC)?, &self.order.topic)? else {
            return Ok((self.order.untouched(seed), Next::Done));
        };
        let mut progress = self.resume(&row);
        let next = self.remove_updates(conn, &row, &mut progress)?;
        if next == Next::Step {
            return Ok((progress, next));
        }
        let floor = progress.trimmed.bounds.floor;
        let next = self.remove_receipts(conn, row.id, floor)?;
        if next == Next::Step {
            return Ok((progress, next));
        }
        Ok((progress, self.remove_tombstones(conn, row.id, floor)?))
    }

    /// Where the trim stands. After a trim of another process it begins again, and what it did stays counted.
    fn resume(&self, row: &TopicRow) -> Progress {
        let resumed = self.progress.and_then(|progress| progress.resume(row));
        resumed.unwrap_or_else(|| {
            let mut progress = Progress::begin(row.bounds, row.bytes);
            if let Some(before) = self.progress {
                (progress.trimmed.updates, progress.trimmed.bytes) =
                    (before.trimmed.updates, before.trimmed.bytes);
            }
            progress
        })
    }

    fn remove_updates(
        &self,
        conn: &Connection,
        row: &TopicRow,
        progress: &mut Progress,
    ) -> Result<Next, Fault> {
        let before = progress.trimmed.bytes;
        let next = self.order.weigh(conn, row.id, progress)?;
        let floor = progress.trimmed.bounds.floor;
        if floor > row.bounds.floor {
            let floor = int(floor.as_u64());
            conn.prepare_cached(sql::REMOVE_UPDATES)?.execute(params![row.id, floor])?;
            let left = row.bytes.saturating_sub(progress.trimmed.bytes - before);
            conn.prepare_cached(sql::RAISE_FLOOR)?.execute(params![row.id, floor, int(left)])?;
        }
        progress.stands = floor;
        Ok(next)
    }

    /// Removes tombstones whose updates are gone and that are old enough.
    fn remove_tombstones(&self, conn: &Connection, topic: i64, floor: Watermark) -> Result<Next, Fault> {
        let Some(age) = self.order.keep.tombstones else { return Ok(Next::Done) };
        let before = int(self.order.now.minus(age).as_millis());
        let mut remove = conn.prepare_cached(sql::REMOVE_TOMBSTONES)?;
        let ahead = int(self.order.now.plus(CLOCKS_APART).as_millis());
        let removed = remove.execute(params![topic, int(floor.as_u64()), before, STEP_ROWS, ahead])?;
        Ok(if removed as i64 >= STEP_ROWS { Next::Step } else { Next::Done })
    }

    /// Forgets dedup keys whose updates are gone and that are old enough, from the oldest up to the first that is
    /// not: one that a clock out of step made look younger keeps those behind it a little longer.
    fn remove_receipts(&self, conn: &Connection, topic: i64, floor: Watermark) -> Result<Next, Fault> {
        let mut oldest = conn.prepare_cached(sql::OLDEST_RECEIPTS)?;
        let ahead = int(self.order.now.plus(CLOCKS_APART).as_millis());
        let mut rows = oldest.query(params![topic, int(floor.as_u64()), STEP_ROWS, ahead])?;
        let (mut last, mut seen) = (None, 0);
        while let Some(found) = rows.next()? {
            let written_at = row::moment(found, 1)?;
            if self.order.now.since(written_at) < DEDUP_FOR {
                break;
            }
            last = Some(row::watermark(found, 0)?);
            seen += 1;
        }
        drop(rows);
        if let Some(last) = last {
            conn.prepare_cached(sql::REMOVE_RECEIPTS)?.execute(params![topic, int(last.as_u64())])?;
        }
        Ok(if last.is_some() && seen == STEP_ROWS { Next::Step } else { Next::Done })
    }
}

#[cfg(test)]
mod tests {
    use khala_core::{Batch, Kind, NewUpdate, Payload};

    use super::*;
    use crate::{append::Group, schema};

    fn append(conn: &Connection, seed: &[u8; 16], topic: &Topic, updates: usize) {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::null());
        let mut group = Group::new(conn, seed);
        group
            .append(topic, &Batch::new(vec![update; updates]).unwrap(), Timestamp::default())
            .unwrap()
            .unwrap();
        group.finish().unwrap();
    }

    #[test]
    fn a_step_is_bounded_and_what_comes_between_steps_is_kept() {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::prepare(&mut conn).unwrap();
        let (seed, topic) = ([7; 16], Topic::parse("t").unwrap());
        append(&conn, &seed, &topic, 1_000);
        append(&conn, &seed, &topic, 200);
        let keep = Keep::everything().with_updates(100);
        let (answer, _answered) = oneshot::channel();
        let order = Order { topic: topic.clone(), keep, now: Timestamp::default() };
        let mut trim = Trim { order, answer, progress: None };
        let mut floors = Vec::new();
        loop {
            let (progress, next) = trim.step(&conn, &seed).unwrap();
            trim.progress = Some(progress);
            floors.push(progress.trimmed.bounds.floor.as_u64());
            if next == Next::Done {
                break;
            }
            append(&conn, &seed, &topic, 10);
        }
        assert_eq!(floors, [500, 1_000, 1_100], "1,100 of the 1,200 that the first step found");
        let trimmed = trim.progress.unwrap().trimmed;
        assert_eq!((trimmed.updates, trimmed.bytes, trimmed.bounds.head.as_u64()), (1_100, 5_500, 1_220));
        assert_eq!(trimmed.oldest, Some(Timestamp::default()));
    }

    #[test]
    fn a_step_of_a_plan_is_bounded_and_a_trim_between_steps_begins_it_anew() {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::prepare(&mut conn).unwrap();
        let (seed, topic) = ([7; 16], Topic::parse("t").unwrap());
        append(&conn, &seed, &topic, 1_000);
        append(&conn, &seed, &topic, 700);
        let order = |updates| {
            let keep = Keep::everything().with_updates(updates);
            Order { topic: topic.clone(), keep, now: Timestamp::default() }
        };
        let mut progress = None;
        let mut step = || {
            let (reached, next) = order(100).plan(&conn, &seed, progress).unwrap();
            progress = Some(reached);
            assert!(conn.is_autocommit(), "no moment is held on to");
            let Trimmed { bounds, updates, bytes, .. } = reached.trimmed;
            (bounds.floor.as_u64(), updates, bytes, next)
        };
        assert_eq!(step(), (500, 500, 2_500, Next::Step));
        append(&conn, &seed, &topic, 10);
        assert_eq!(step(), (1_000, 1_000, 5_000, Next::Step));
        let (answer, _answered) = oneshot::channel();
        Trim { order: order(1_400), answer, progress: None }.step(&conn, &seed).unwrap();
        assert_eq!(step(), (810, 500, 2_500, Next::Step), "again from the floor of 310");
        assert_eq!(step(), (1_310, 1_000, 5_000, Next::Step));
        assert_eq!(step(), (1_610, 1_300, 6_500, Next::Done));
    }
}
