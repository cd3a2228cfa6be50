//! What is to be looked at for what may go, and what is put off.
//!
//! # Invariants
//! - `meta` names the rules under which topics are put off. Under other rules they are made due first, in steps, so that appends
//!   go on in between.
//! - A topic is put off only where its head is the one that was looked at (J21), and locked meanwhile, as for an append.

use std::num::NonZeroUsize;

use khala_core::{
    Error, Timestamp,
    journal::{CLOCKS_APART, DEDUP_FOR, DueAfter, DuePage, Settled},
    store::rows::{self, age, int, ordered_moment},
};
use sqlx::PgConnection;

use crate::{
    database::{Database, Work},
    fault::Fault,
    row::{StoredRow, column},
    sql::{Sql, query},
};

/// The most topics that one step makes due.
const STEP_TOPICS: usize = 500;

/// A page of those that are due (J21).
pub(crate) async fn page(
    database: &Database,
    rules: u64,
    after: Option<&DueAfter>,
    until: Timestamp,
    limit: NonZeroUsize,
) -> Result<DuePage, Fault> {
    let sql = &database.sql;
    let (at, name) = after.map_or((i64::MIN, ""), |after| (ordered_moment(after.at), &after.name));
    let stands = database.rows(|| query(&sql.rules)).await?;
    let stands = stands.first().map(|row| column::<i64>(row, 0)).transpose()?;
    // Changed meanwhile, they make topics due that the next look finds.
    let until = if stands == Some(int(rules)) { ordered_moment(until) } else { i64::MAX };
    let rows = database
        .rows(|| query(&sql.due).bind(at).bind(name).bind(until).bind(rows::limit(limit.get())))
        .await?;
    let mut page = DuePage::default();
    for (found, looked_at) in rows.iter().zip(1..) {
        rows::push_due(&mut page, &StoredRow(found), column(found, 4)?, looked_at == limit.get())?;
    }
    Ok(page)
}

/// Puts topics off, and says how many are retired.
pub(crate) async fn settle(database: &Database, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
    loop {
        if let Some(retired) = database.transaction(Step { rules, settled }).await? {
            return Ok(retired);
        }
    }
}

/// One step of putting topics off: while any is put off under other rules, it makes some of those due; then it puts all of these
/// off, and is done.
struct Step<'s> {
    rules: u64,
    settled: &'s [Settled],
}

impl Work for Step<'_> {
    type Done = Option<u64>;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<Option<u64>, Fault> {
        let stands = query(&sql.lock_rules).fetch_one(&mut *conn).await?;
        if column::<i64>(&stands, 0)? != int(self.rules) {
            let unsettled = query(&sql.unsettle).bind(rows::limit(STEP_TOPICS)).execute(&mut *conn).await?;
            let more = unsettled.rows_affected() == STEP_TOPICS as u64;
            // Somebody else may have one of them locked.
            let left = more || {
                let left = query(&sql.any_put_off).fetch_one(&mut *conn).await?;
                column::<bool>(&left, 0)?
            };
            // Until the last of them is due, no rules are named: then everything is due for everybody.
            let named = if left { 0 } else { int(self.rules) };
            query(&sql.set_rules).bind(named).execute(&mut *conn).await?;
            if left {
                return Ok(if more { None } else { Some(0) });
            }
        }
        if self.settled.is_empty() {
            return Ok(Some(0));
        }
        let each = |of: fn(&Settled) -> i64| -> Vec<i64> { self.settled.iter().map(of).collect() };
        let rows = query(&sql.settle)
            .bind(self.settled.iter().map(|settled| settled.topic.as_str()).collect::<Vec<_>>())
            .bind(each(|settled| int(settled.head.epoch.bits())))
            .bind(each(|settled| int(settled.head.watermark.as_u64())))
            .bind(each(|settled| ordered_moment(settled.due)))
            .bind(DEDUP_FOR.as_millis() as i64)
            .bind(each(|settled| ordered_moment(settled.seen_at)))
            .bind(
                self.settled
                    .iter()
                    .map(|settled| settled.retire_idle_since.map(ordered_moment))
                    .collect::<Vec<_>>(),
            )
            .bind(self.settled.iter().map(|settled| settled.tombstones.map(age)).collect::<Vec<_>>())
            .bind(age(CLOCKS_APART))
            .fetch_all(conn)
            .await?;
        let mut retired = 0;
        for row in &rows {
            retired += u64::from(column::<bool>(row, 0)?);
        }
        Ok(Some(retired))
    }
}
