//! Trimming, in steps that are short enough for appends to go in between, and planning it.
//!
//! How far a trim goes is the core's to say ([`trim`](khala_core::store::trim)). Each step is one transaction that holds the topic,
//! removes updates and raises the floor, so no reader ever sees one without the other (J5, J11). A plan goes in steps too, and holds
//! nothing.

use khala_core::{
    Error, Timestamp,
    journal::{CLOCKS_APART, DEDUP_FOR, Trimmed, is_ahead},
    store::{
        rows::{self, int},
        trim::{OldestUpdate, STEP_ROWS, TrimOrder, TrimProgress, TrimStep, Weighed, ages, oldest_update},
    },
};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    database::{Database, Work},
    fault::Fault,
    row::{self, StoredRow},
    sql::{Sql, query},
};

/// How often a plan may find that a trim came between its two questions.
const GAPS: u32 = 16;

/// One step of a trim.
struct Step<'o> {
    order: &'o TrimOrder,
    seed: &'o [u8; 16],
    before: Option<TrimProgress>,
}

/// Trims, and ends early with what is done if a later step fails: an error means that nothing was removed.
pub(crate) async fn trim(order: &TrimOrder, seed: &[u8; 16], database: &Database) -> Result<Trimmed, Error> {
    let mut before: Option<TrimProgress> = None;
    loop {
        match database.transaction(Step { order, seed, before }).await {
            Ok((progress, true)) => return Ok(progress.trimmed()),
            Ok((progress, false)) => before = Some(progress),
            Err(fault) => return TrimProgress::ended_by(before, order, fault),
        }
    }
}

/// What a trim would do now.
pub(crate) async fn plan(order: &TrimOrder, seed: &[u8; 16], database: &Database) -> Result<Trimmed, Fault> {
    let (sql, mut before, mut gaps) = (&database.sql, None, 0);
    loop {
        let rows = database.rows(|| query(&sql.look_at_topic).bind(order.topic.as_str())).await?;
        let Some(found) = rows.first() else { return Ok(order.untouched(seed).trimmed()) };
        let topic = row::topic_row(found, 0, order.topic.as_str())?;
        let mut progress = TrimProgress::of_plan(before, topic.bounds, topic.bytes);
        let floor = int(progress.floor().as_u64());
        let ask = || query(&sql.oldest).bind(topic.id).bind(floor).bind(STEP_ROWS as i64 + 1);
        let oldest = oldest_of(&database.rows(ask).await?, order)?;
        // Trimmed meanwhile: what is read then begins later than it should, and is read again.
        if oldest.first().is_some_and(|first| progress.floor().next() != Some(first.seq)) {
            gaps += 1;
            if gaps == GAPS {
                return Err(Fault::corrupt(format!(
                    "the log of {} does not begin after its floor",
                    order.topic
                )));
            }
            before = None;
            continue;
        }
        let beyond = match ends_ahead(&oldest, order) {
            Some(last) => {
                let by = int(order.now.plus(CLOCKS_APART).as_millis());
                let next =
                    || query(&sql.next_published_by).bind(topic.id).bind(int(last.seq.as_u64())).bind(by);
                database
                    .rows(next)
                    .await?
                    .first()
                    .map(|found| rows::moment(&StoredRow(found), 0))
                    .transpose()?
            }
            None => None,
        };
        if weigh(&oldest, beyond, order, &mut progress.step(order)) {
            return Ok(progress.trimmed());
        }
        before = Some(progress);
    }
}

impl Work for Step<'_> {
    /// And whether there is no further step.
    type Done = (TrimProgress, bool);

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<(TrimProgress, bool), Fault> {
        let Self { order, seed, before } = self;
        let found = query(&sql.lock_topic).bind(order.topic.as_str()).fetch_optional(&mut *conn).await?;
        let Some(found) = found else { return Ok((order.untouched(seed), true)) };
        let topic = row::topic_row(&found, 0, order.topic.as_str())?;
        let mut progress = TrimProgress::of_trim(*before, topic.bounds, topic.bytes);
        let floor = int(progress.floor().as_u64());
        let oldest = query(&sql.oldest).bind(topic.id).bind(floor).bind(STEP_ROWS as i64 + 1);
        let oldest = oldest_of(&oldest.fetch_all(&mut *conn).await?, order)?;
        let ahead = int(order.now.plus(CLOCKS_APART).as_millis());
        let beyond = match ends_ahead(&oldest, order) {
            Some(last) => {
                let next =
                    query(&sql.next_published_by).bind(topic.id).bind(int(last.seq.as_u64())).bind(ahead);
                let next = next.fetch_optional(&mut *conn).await?;
                next.map(|found| rows::moment(&StoredRow(&found), 0)).transpose()?
            }
            None => None,
        };
        let mut step = progress.step(order);
        let mut done = weigh(&oldest, beyond, order, &mut step);
        let left = int(topic.bytes.saturating_sub(step.bytes()));
        let floor = int(progress.floor().as_u64());
        if progress.floor() > topic.bounds.floor {
            query(&sql.remove_updates).bind(topic.id).bind(floor).execute(&mut *conn).await?;
            query(&sql.raise_floor).bind(topic.id).bind(floor).bind(left).execute(&mut *conn).await?;
        }
        progress.removed();
        if done {
            let forgotten = query(&sql.remove_receipts)
                .bind(topic.id)
                .bind(floor)
                .bind(int(order.now.minus(DEDUP_FOR).as_millis()))
                .bind(STEP_ROWS as i64)
                .bind(ahead);
            done = forgotten.execute(&mut *conn).await?.rows_affected() < STEP_ROWS as u64;
        }
        if let Some(age) = order.keep.tombstones.filter(|_| done) {
            let removed = query(&sql.remove_tombstones)
                .bind(topic.id)
                .bind(floor)
                .bind(int(order.now.minus(age).as_millis()))
                .bind(STEP_ROWS as i64)
                .bind(ahead);
            done = removed.execute(conn).await?.rows_affected() < STEP_ROWS as u64;
        }
        Ok((progress, done))
    }
}

fn oldest_of(rows: &[PgRow], order: &TrimOrder) -> Result<Vec<OldestUpdate>, Fault> {
    rows.iter().map(|found| oldest_update(&StoredRow(found), &order.topic)).collect()
}

/// The last of these updates, if a clock stored it that was far ahead: then it is as old as what follows it.
fn ends_ahead<'u>(oldest: &'u [OldestUpdate], order: &TrimOrder) -> Option<&'u OldestUpdate> {
    oldest.last().filter(|last| is_ahead(last.published_at, order.now))
}

/// Weighs these updates, and says whether there is no further step. `beyond` is when the first update after them was published whose
/// clock was not far ahead.
fn weigh(
    oldest: &[OldestUpdate],
    beyond: Option<Timestamp>,
    order: &TrimOrder,
    step: &mut TrimStep<'_>,
) -> bool {
    let ages = ages(oldest.iter().map(|update| update.published_at), beyond, order.now);
    let weighed = oldest.iter().zip(ages).map(|(update, old_as)| step.weigh(*update, old_as));
    weighed.into_iter().find(|weighed| *weighed != Weighed::Goes) != Some(Weighed::Later)
}
