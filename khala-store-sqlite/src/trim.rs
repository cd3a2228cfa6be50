//! Trimming, in steps that are short enough for appends to go in between.
//!
//! What a trim removes is decided by the head that its first step finds: what is appended while it goes on is
//! kept, so it ends, and its result is that of one step at that moment. Each step is one transaction that
//! removes updates and raises the floor, so no reader ever sees one without the other (J5, J11).

use khala_core::{Bounds, DEDUP_FOR, Epoch, Error, Keep, Seq, Timestamp, Topic, Trimmed, Watermark};
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use crate::{
    fault::Fault,
    row::{self, TopicRow, int},
    sql,
};

/// The most rows that one step removes.
const STEP_ROWS: i64 = 500;

/// The most bytes that one step removes, but for its first update.
const STEP_BYTES: u64 = 4 << 20;

/// A trim that is under way.
#[derive(Debug)]
pub(crate) struct Trim {
    pub(crate) topic: Topic,
    pub(crate) keep: Keep,
    pub(crate) now: Timestamp,
    pub(crate) answer: oneshot::Sender<Result<Trimmed, Error>>,
    pub(crate) progress: Option<Progress>,
}

/// What the steps so far have done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) trimmed: Trimmed,
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

impl Trim {
    /// One step, in the transaction that is open on `conn`.
    pub(crate) fn step(&self, conn: &Connection, seed: &[u8; 16]) -> Result<(Progress, Next), Fault> {
        let Some(row) = TopicRow::read(&mut *conn.prepare_cached(sql::TOPIC)?, &self.topic)? else {
            let bounds = Bounds::untouched(Epoch::derive(seed, &self.topic));
            let trimmed = Trimmed { bounds, updates: 0, bytes: 0 };
            return Ok((Progress { trimmed, until: bounds.head, held: 0 }, Next::Done));
        };
        let mut progress = self.resume(&row);
        let next = self.remove_updates(conn, &row, &mut progress)?;
        if next == Next::Step {
            return Ok((progress, next));
        }
        let floor = progress.trimmed.bounds.floor;
        Ok((progress, self.remove_receipts(conn, row.id, floor)?))
    }

    /// Where the trim stands. Another process may have trimmed since the last step: then what was known of the
    /// log's start is void, and this one begins again from there.
    fn resume(&self, row: &TopicRow) -> Progress {
        let (mut updates, mut bytes) = (0, 0);
        if let Some(progress) = self.progress {
            let before = progress.trimmed.bounds;
            if (before.epoch, before.floor) == (row.bounds.epoch, row.bounds.floor) {
                let trimmed = Trimmed { bounds: row.bounds, ..progress.trimmed };
                return Progress { trimmed, ..progress };
            }
            (updates, bytes) = (progress.trimmed.updates, progress.trimmed.bytes);
        }
        let trimmed = Trimmed { bounds: row.bounds, updates, bytes };
        Progress { trimmed, until: row.bounds.head, held: row.bytes }
    }

    fn remove_updates(
        &self,
        conn: &Connection,
        row: &TopicRow,
        progress: &mut Progress,
    ) -> Result<Next, Fault> {
        let (mut floor, mut removed, mut seen) = (row.bounds.floor, 0, 0);
        let mut next = Next::Done;
        let mut oldest = conn.prepare_cached(sql::OLDEST)?;
        let mut rows = oldest.query(params![row.id, int(floor.as_u64()), STEP_ROWS])?;
        while let Some(found) = rows.next()? {
            let (seq, at) = (row::seq(found, 0)?, row::moment(found, 1)?);
            let size = found.get::<_, i64>(2)?.cast_unsigned();
            if !progress.until.covers(seq)
                || !self.goes(seq, at, floor.distance_to(progress.until), progress.held)
            {
                break;
            }
            if seen > 0 && removed + size > STEP_BYTES {
                next = Next::Step;
                break;
            }
            floor = seq.watermark();
            progress.held = progress.held.saturating_sub(size);
            removed += size;
            seen += 1;
        }
        if seen == STEP_ROWS {
            next = Next::Step;
        }
        drop(rows);
        if floor > row.bounds.floor {
            conn.prepare_cached(sql::REMOVE_UPDATES)?.execute(params![row.id, int(floor.as_u64())])?;
            let left = row.bytes.saturating_sub(removed);
            conn.prepare_cached(sql::RAISE_FLOOR)?.execute(params![
                row.id,
                int(floor.as_u64()),
                int(left)
            ])?;
            progress.trimmed.updates += row.bounds.floor.distance_to(floor);
            progress.trimmed.bytes += removed;
            progress.trimmed.bounds.floor = floor;
        }
        Ok(next)
    }

    /// Whether the oldest of `kept` updates, which count `held` bytes together, may go.
    fn goes(&self, oldest: Seq, at: Timestamp, kept: u64, held: u64) -> bool {
        let keep = &self.keep;
        let over = keep.age.is_some_and(|age| self.now.since(at) > age)
            || keep.updates.is_some_and(|most| kept > most)
            || keep.bytes.is_some_and(|most| held > most);
        over && keep.not_past.is_none_or(|past| past.covers(oldest))
    }

    /// Forgets dedup keys whose updates are gone and that are old enough, from the oldest up to the first that is
    /// not: one that a clock out of step made look younger keeps those behind it a little longer.
    fn remove_receipts(&self, conn: &Connection, topic: i64, floor: Watermark) -> Result<Next, Fault> {
        let mut oldest = conn.prepare_cached(sql::OLDEST_RECEIPTS)?;
        let mut rows = oldest.query(params![topic, int(floor.as_u64()), STEP_ROWS])?;
        let (mut last, mut seen) = (None, 0);
        while let Some(found) = rows.next()? {
            if self.now.since(row::moment(found, 1)?) < DEDUP_FOR {
                break;
            }
            last = Some(row::watermark(found, 0)?);
            seen += 1;
        }
        drop(rows);
        if let Some(last) = last {
            conn.prepare_cached(sql::REMOVE_RECEIPTS)?.execute(params![topic, int(last.as_u64())])?;
        }
        Ok(if seen == STEP_ROWS { Next::Step } else { Next::Done })
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
        let mut trim = Trim { topic: topic.clone(), keep, now: Timestamp::default(), answer, progress: None };
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
    }
}
