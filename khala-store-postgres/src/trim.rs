//! Trimming, in steps that are short enough for appends to go in between, and planning it.
//!
//! What a trim removes is decided by the head that its first step finds: what is appended while it goes on is kept, so it
//! ends, and its result is that of one step at that moment. Each step is one transaction that holds the topic, removes
//! updates and raises the floor, so no reader ever sees one without the other (J5, J11). A plan weighs the same updates by
//! the same rule (J19), step by step, and holds nothing.

use khala_core::{
    Bounds, Epoch, Error, Seq, Timestamp, Topic, Watermark,
    journal::{CLOCKS_APART, DEDUP_FOR, Keep, Trimmed, is_ahead},
};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    database::{Database, Work},
    fault::Fault,
    row::{self, TopicRow, column, int},
    sql::{Sql, query},
};

/// The most rows that one step removes, or weighs.
const STEP_ROWS: usize = 500;
/// How often a plan may find that a trim came between its two questions.
const GAPS: u32 = 16;
/// The most bytes that one step removes, or weighs, but for its first update.
const STEP_BYTES: u64 = 4 << 20;

/// What is to be trimmed.
#[derive(Debug)]
pub(crate) struct Order<'o> {
    pub(crate) seed: &'o [u8; 16],
    pub(crate) topic: &'o Topic,
    pub(crate) keep: Keep,
    pub(crate) now: Timestamp,
}

/// One step of a trim.
struct Step<'o> {
    order: &'o Order<'o>,
    before: Option<Progress>,
}

impl Work for Step<'_> {
    type Done = Progress;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<Progress, Fault> {
        self.order.step(conn, sql, self.before).await
    }
}

/// What the steps so far have done, or a plan would.
#[derive(Clone, Copy, Debug)]
struct Progress {
    trimmed: Trimmed,
    /// The floor that the last step left.
    stands: Watermark,
    /// The head that the first step found.
    until: Watermark,
    /// What the updates up to there count that are still kept.
    held: u64,
    done: bool,
}

impl Progress {
    fn begin(bounds: Bounds, bytes: u64) -> Self {
        let trimmed = Trimmed { bounds, updates: 0, bytes: 0, oldest: None };
        Self { trimmed, stands: bounds.floor, until: bounds.head, held: bytes, done: false }
    }

    /// Where it stands now that the topic is `row`. After a trim of somebody else it begins again, and what it did stays
    /// counted if it is `kept`.
    fn go_on(before: Option<Self>, row: &TopicRow, kept: bool) -> Self {
        let mut next = Self::begin(row.bounds, row.bytes);
        match before {
            Some(before)
                if (before.trimmed.bounds.epoch, before.stands) == (row.bounds.epoch, row.bounds.floor) =>
            {
                next = before;
                next.trimmed.bounds.head = row.bounds.head;
            }
            Some(before) if kept => {
                (next.trimmed.updates, next.trimmed.bytes) = (before.trimmed.updates, before.trimmed.bytes);
            }
            _ => {}
        }
        next
    }
}

impl Order<'_> {
    /// Trims, and ends early with what is done if a later step fails: an error means that nothing was removed.
    pub(crate) async fn trim(&self, database: &Database) -> Result<Trimmed, Error> {
        let mut progress: Option<Progress> = None;
        loop {
            match database.transaction(Step { order: self, before: progress }).await {
                Ok(Progress { done: true, trimmed, .. }) => return Ok(trimmed),
                Ok(reached) => progress = Some(reached),
                Err(fault) => {
                    let error = Error::from(fault);
                    tracing::error!(topic = %self.topic, %error, source = ?error, "a step of a trim failed");
                    let so_far = progress.map(|progress| progress.trimmed);
                    return so_far.filter(|trimmed| trimmed.updates > 0).ok_or(error);
                }
            }
        }
    }

    /// What a trim would do now.
    pub(crate) async fn plan(&self, database: &Database) -> Result<Trimmed, Fault> {
        let (sql, mut before, mut gaps) = (&database.sql, None, 0);
        loop {
            let rows = database.rows(|| query(&sql.look_at_topic).bind(self.topic.as_str())).await?;
            let Some(found) = rows.first() else { return Ok(self.untouched().trimmed) };
            let topic = row::topic_row(found, 0, self.topic.as_str())?;
            let mut progress = Progress::go_on(before, &topic, false);
            let floor = int(progress.trimmed.bounds.floor.as_u64());
            let oldest = database
                .rows(|| query(&sql.oldest).bind(topic.id).bind(floor).bind(STEP_ROWS as i64 + 1))
                .await?;
            // Trimmed meanwhile: what is read then begins later than it should, and is read again.
            let first = oldest.first().map(|found| row::seq(found, 0)).transpose()?;
            if first.is_some_and(|first| progress.trimmed.bounds.floor.next() != Some(first)) {
                gaps += 1;
                if gaps == GAPS {
                    return Err(Fault::corrupt(format!(
                        "the log of {} does not begin after its floor",
                        self.topic
                    )));
                }
                before = None;
                continue;
            }
            let beyond = match self.ends_ahead(&oldest)? {
                Some(last) => {
                    let by = int(self.now.plus(CLOCKS_APART).as_millis());
                    let next =
                        || query(&sql.next_published_by).bind(topic.id).bind(int(last.as_u64())).bind(by);
                    database.rows(next).await?.first().map(|found| row::moment(found, 0)).transpose()?
                }
                None => None,
            };
            self.weigh(&oldest, beyond, &mut progress)?;
            if progress.done {
                return Ok(progress.trimmed);
            }
            before = Some(progress);
        }
    }

    /// What there is to do about a topic that was never written.
    fn untouched(&self) -> Progress {
        let bounds = Bounds::untouched(Epoch::derive(self.seed, self.topic));
        Progress { done: true, ..Progress::begin(bounds, 0) }
    }

    async fn step(
        &self,
        conn: &mut PgConnection,
        sql: &Sql,
        before: Option<Progress>,
    ) -> Result<Progress, Fault> {
        let found = query(&sql.lock_topic).bind(self.topic.as_str()).fetch_optional(&mut *conn).await?;
        let Some(found) = found else { return Ok(self.untouched()) };
        let topic = row::topic_row(&found, 0, self.topic.as_str())?;
        let mut progress = Progress::go_on(before, &topic, true);
        let floor = int(progress.trimmed.bounds.floor.as_u64());
        let oldest = query(&sql.oldest).bind(topic.id).bind(floor).bind(STEP_ROWS as i64 + 1);
        let oldest: Vec<PgRow> = oldest.fetch_all(&mut *conn).await?;
        let bytes_before = progress.trimmed.bytes;
        let beyond = match self.ends_ahead(&oldest)? {
            Some(last) => {
                let by = int(self.now.plus(CLOCKS_APART).as_millis());
                let next = query(&sql.next_published_by).bind(topic.id).bind(int(last.as_u64())).bind(by);
                let next = next.fetch_optional(&mut *conn).await?;
                next.map(|found| row::moment(&found, 0)).transpose()?
            }
            None => None,
        };
        self.weigh(&oldest, beyond, &mut progress)?;
        let Trimmed { bounds, bytes, .. } = progress.trimmed;
        if bounds.floor > topic.bounds.floor {
            let floor = int(bounds.floor.as_u64());
            query(&sql.remove_updates).bind(topic.id).bind(floor).execute(&mut *conn).await?;
            let left = int(topic.bytes.saturating_sub(bytes - bytes_before));
            query(&sql.raise_floor).bind(topic.id).bind(floor).bind(left).execute(&mut *conn).await?;
        }
        progress.stands = bounds.floor;
        if progress.done {
            let forgotten = query(&sql.remove_receipts)
                .bind(topic.id)
                .bind(int(bounds.floor.as_u64()))
                .bind(int(self.now.minus(DEDUP_FOR).as_millis()))
                .bind(STEP_ROWS as i64)
                .bind(int(self.now.plus(CLOCKS_APART).as_millis()));
            progress.done = forgotten.execute(&mut *conn).await?.rows_affected() < STEP_ROWS as u64;
        }
        if let Some(age) = self.keep.tombstones.filter(|_| progress.done) {
            let removed = query(&sql.remove_tombstones)
                .bind(topic.id)
                .bind(int(bounds.floor.as_u64()))
                .bind(int(self.now.minus(age).as_millis()))
                .bind(STEP_ROWS as i64)
                .bind(int(self.now.plus(CLOCKS_APART).as_millis()));
            progress.done = removed.execute(conn).await?.rows_affected() < STEP_ROWS as u64;
        }
        Ok(progress)
    }

    /// The last of these updates, if a clock stored it that was far ahead: then it is as old as what follows it.
    fn ends_ahead(&self, oldest: &[PgRow]) -> Result<Option<Seq>, Fault> {
        let Some(last) = oldest.last() else { return Ok(None) };
        Ok(if is_ahead(row::moment(last, 1)?, self.now) { Some(row::seq(last, 0)?) } else { None })
    }

    /// Counts what may go of the next oldest updates, and raises the floor of `progress` over it. `beyond` is when the first
    /// update after them was published whose clock was not far ahead.
    fn weigh(
        &self,
        oldest: &[PgRow],
        beyond: Option<Timestamp>,
        progress: &mut Progress,
    ) -> Result<(), Fault> {
        let (mut next, mut ages) = (beyond, Vec::with_capacity(oldest.len()));
        for found in oldest.iter().rev() {
            let at = row::moment(found, 1)?;
            if !is_ahead(at, self.now) {
                next = Some(at);
            }
            ages.push(next.unwrap_or(at));
        }
        let Progress { trimmed, until, held, done, .. } = progress;
        let (mut rows_seen, mut bytes_seen) = (0, 0);
        (trimmed.oldest, *done) = (None, true);
        for (found, old_as) in oldest.iter().zip(ages.into_iter().rev()) {
            let (seq, at) = (row::seq(found, 0)?, row::moment(found, 1)?);
            let size: i64 = column(found, 2)?;
            let size = u64::try_from(size)
                .map_err(|_| Fault::corrupt(format!("an update of {} counts {size} bytes", self.topic)))?;
            let kept = trimmed.bounds.floor.distance_to(*until);
            if !until.covers(seq) || !self.keep.lets_go(seq, old_as, kept, *held, self.now) {
                trimmed.oldest = Some(at);
                return Ok(());
            }
            if rows_seen == STEP_ROWS || (rows_seen > 0 && bytes_seen + size > STEP_BYTES) {
                (trimmed.oldest, *done) = (Some(at), false);
                return Ok(());
            }
            (rows_seen, bytes_seen) = (rows_seen + 1, bytes_seen + size);
            trimmed.bounds.floor = seq.watermark();
            trimmed.updates += 1;
            trimmed.bytes += size;
            *held = held.saturating_sub(size);
        }
        Ok(())
    }
}
