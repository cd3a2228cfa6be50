//! Trimming, in steps that are short enough for appends to go in between, and planning it.
//!
//! How far a trim goes is the core's to say ([`trim`](khala_core::store::trim)). Each step is one transaction that removes updates
//! and raises the floor, so no reader ever sees one without the other (J5, J11). A plan goes in steps too, so that no moment of the
//! file is held on to for long.

use khala_core::{
    Error, Seq, Timestamp, Watermark,
    journal::{CLOCKS_APART, DEDUP_FOR, Trimmed, is_ahead},
    store::{
        rows::{self, int},
        trim::{STEP_ROWS, TrimOrder, TrimProgress, Weighed, oldest_update},
    },
};
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use crate::{
    fault::Fault,
    read,
    row::{StoredRow, TopicRow},
    sql,
};

/// A trim that is under way.
#[derive(Debug)]
pub(crate) struct Trim {
    pub(crate) order: TrimOrder,
    pub(crate) answer: oneshot::Sender<Result<Trimmed, Error>>,
    pub(crate) progress: Option<TrimProgress>,
}

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Done,
    Step,
}

/// One step of a plan.
pub(crate) fn plan(
    order: &TrimOrder,
    conn: &Connection,
    seed: &[u8; 16],
    before: Option<TrimProgress>,
) -> Result<(TrimProgress, Next), Fault> {
    read::at_one_moment(conn, |conn| {
        let Some(row) = TopicRow::read(&mut *conn.prepare_cached(sql::TOPIC)?, &order.topic)? else {
            return Ok((order.untouched(seed), Next::Done));
        };
        let mut progress = TrimProgress::of_plan(before, row.bounds, row.bytes);
        let (next, _) = weigh(order, conn, row.id, &mut progress)?;
        Ok((progress, next))
    })
}

/// Weighs the next oldest updates, and says how many bytes of them may go.
fn weigh(
    order: &TrimOrder,
    conn: &Connection,
    topic: i64,
    progress: &mut TrimProgress,
) -> Result<(Next, u64), Fault> {
    let floor = int(progress.floor().as_u64());
    let mut step = progress.step(order);
    let mut oldest = conn.prepare_cached(sql::OLDEST)?;
    // One more than may go, which is then the oldest that stays.
    let mut rows = oldest.query(params![topic, floor, STEP_ROWS as i64 + 1])?;
    let mut next = None;
    while let Some(found) = rows.next()? {
        let update = oldest_update(&StoredRow(found), &order.topic)?;
        let mut old_as = update.published_at;
        if is_ahead(old_as, order.now) {
            if next.is_none_or(|(next, _)| next < update.seq) {
                next = next_in_time(order, conn, topic, update.seq)?;
            }
            old_as = next.map_or(old_as, |(_, at)| at);
        }
        match step.weigh(update, old_as) {
            Weighed::Goes => {}
            Weighed::Later => return Ok((Next::Step, step.bytes())),
            Weighed::Stays => break,
        }
    }
    Ok((Next::Done, step.bytes()))
}

/// The first update after `seq` whose clock was not far ahead, and when it was published.
fn next_in_time(
    order: &TrimOrder,
    conn: &Connection,
    topic: i64,
    seq: Seq,
) -> Result<Option<(Seq, Timestamp)>, Fault> {
    let by = int(order.now.plus(CLOCKS_APART).as_millis());
    let mut next = conn.prepare_cached(sql::NEXT_PUBLISHED_BY)?;
    let mut rows = next.query(params![topic, int(seq.as_u64()), by])?;
    let Some(found) = rows.next()? else { return Ok(None) };
    Ok(Some((rows::seq(&StoredRow(found), 0)?, rows::moment(&StoredRow(found), 1)?)))
}

impl Trim {
    /// One step, in the transaction that is open on `conn`.
    pub(crate) fn step(&self, conn: &Connection, seed: &[u8; 16]) -> Result<(TrimProgress, Next), Fault> {
        let Some(row) = TopicRow::read(&mut *conn.prepare_cached(sql::TOPIC)?, &self.order.topic)? else {
            return Ok((self.order.untouched(seed), Next::Done));
        };
        let mut progress = TrimProgress::of_trim(self.progress, row.bounds, row.bytes);
        let next = self.remove_updates(conn, &row, &mut progress)?;
        if next == Next::Step {
            return Ok((progress, next));
        }
        let floor = progress.floor();
        let next = self.remove_receipts(conn, row.id, floor)?;
        if next == Next::Step {
            return Ok((progress, next));
        }
        Ok((progress, self.remove_tombstones(conn, row.id, floor)?))
    }

    fn remove_updates(
        &self,
        conn: &Connection,
        row: &TopicRow,
        progress: &mut TrimProgress,
    ) -> Result<Next, Fault> {
        let (next, bytes) = weigh(&self.order, conn, row.id, progress)?;
        let floor = progress.floor();
        if floor > row.bounds.floor {
            let floor = int(floor.as_u64());
            conn.prepare_cached(sql::REMOVE_UPDATES)?.execute(params![row.id, floor])?;
            let left = int(row.bytes.saturating_sub(bytes));
            conn.prepare_cached(sql::RAISE_FLOOR)?.execute(params![row.id, floor, left])?;
        }
        progress.removed();
        Ok(next)
    }

    /// Removes tombstones whose updates are gone and that are old enough.
    fn remove_tombstones(&self, conn: &Connection, topic: i64, floor: Watermark) -> Result<Next, Fault> {
        let Some(age) = self.order.keep.tombstones else { return Ok(Next::Done) };
        let before = int(self.order.now.minus(age).as_millis());
        let mut remove = conn.prepare_cached(sql::REMOVE_TOMBSTONES)?;
        let ahead = int(self.order.now.plus(CLOCKS_APART).as_millis());
        let removed = remove.execute(params![topic, int(floor.as_u64()), before, STEP_ROWS as i64, ahead])?;
        Ok(if removed >= STEP_ROWS { Next::Step } else { Next::Done })
    }

    /// Forgets dedup keys whose updates are gone and that are old enough, from the oldest up to the first that is
    /// not: one that a clock out of step made look younger keeps those behind it a little longer.
    fn remove_receipts(&self, conn: &Connection, topic: i64, floor: Watermark) -> Result<Next, Fault> {
        let mut oldest = conn.prepare_cached(sql::OLDEST_RECEIPTS)?;
        let ahead = int(self.order.now.plus(CLOCKS_APART).as_millis());
        let mut rows = oldest.query(params![topic, int(floor.as_u64()), STEP_ROWS as i64, ahead])?;
        let (mut last, mut seen) = (None, 0);
        while let Some(found) = rows.next()? {
            let written_at = rows::moment(&StoredRow(found), 1)?;
            if self.order.now.since(written_at) < DEDUP_FOR {
                break;
            }
            last = Some(rows::watermark(&StoredRow(found), 0)?);
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
    use khala_core::{Batch, Kind, NewUpdate, Payload, Topic, journal::Keep};

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
        let keep = Keep { updates: Some(100), ..Keep::everything() };
        let (answer, _answered) = oneshot::channel();
        let order = TrimOrder { topic: topic.clone(), keep, now: Timestamp::default() };
        let mut trim = Trim { order, answer, progress: None };
        let mut floors = Vec::new();
        loop {
            let (progress, next) = trim.step(&conn, &seed).unwrap();
            trim.progress = Some(progress);
            floors.push(progress.floor().as_u64());
            if next == Next::Done {
                break;
            }
            append(&conn, &seed, &topic, 10);
        }
        assert_eq!(floors, [500, 1_000, 1_100], "1,100 of the 1,200 that the first step found");
        let trimmed = trim.progress.unwrap().trimmed();
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
            let keep = Keep { updates: Some(updates), ..Keep::everything() };
            TrimOrder { topic: topic.clone(), keep, now: Timestamp::default() }
        };
        let mut progress = None;
        let mut step = || {
            let (reached, next) = plan(&order(100), &conn, &seed, progress).unwrap();
            progress = Some(reached);
            assert!(conn.is_autocommit(), "no moment is held on to");
            let Trimmed { bounds, updates, bytes, .. } = reached.trimmed();
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
