//! What is to be looked at for what may go, and what is put off.
//!
//! # Invariants
//! - `khala_meta` names the rules under which topics are put off. Under other rules they are made due first, in steps, so that
//!   appends go on in between.
//! - A topic is put off only where its head is the one that was looked at (J21): under the write lock, as appends are.

use std::num::NonZeroUsize;

use khala_core::{
    Timestamp,
    journal::{CLOCKS_APART, DEDUP_FOR, DueAfter, DuePage, Settled},
    store::rows::{self, age, int, ordered_moment},
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{fault::Fault, read::at_one_moment, row::StoredRow, sql};

/// The most topics that one step makes due.
const STEP_TOPICS: i64 = 500;

/// A page of those that are due (J21).
pub(crate) fn page(
    conn: &Connection,
    rules: u64,
    after: Option<&DueAfter>,
    until: Timestamp,
    limit: NonZeroUsize,
) -> Result<DuePage, Fault> {
    at_one_moment(conn, |conn| {
        let until = if stands(conn)? == Some(int(rules)) { ordered_moment(until) } else { i64::MAX };
        let (at, name) = after.map_or((i64::MIN, ""), |after| (ordered_moment(after.at), &after.name));
        let mut list = conn.prepare_cached(sql::DUE)?;
        let mut rows = list.query(params![at, name, until, rows::limit(limit.get())])?;
        let (mut page, mut looked_at) = (DuePage::default(), 0);
        while let Some(found) = rows.next()? {
            looked_at += 1;
            // What is no moment is due.
            let at = found.get_ref(4)?.as_i64().unwrap_or_default();
            rows::push_due(&mut page, &StoredRow(found), at, looked_at == limit.get())?;
        }
        Ok(page)
    })
}

/// One step of putting topics off, in the transaction that is open on `conn`: while any is put off under other rules, it makes
/// some of those due; then it puts all of these off, and says how many it retired.
pub(crate) fn settle(conn: &Connection, rules: u64, settled: &[Settled]) -> Result<Option<u64>, Fault> {
    if stands(conn)? != Some(int(rules)) {
        let unsettled = conn.prepare_cached(sql::UNSETTLE)?.execute([STEP_TOPICS])?;
        // Until the last of them is due, no rules are named: then everything is due for everybody.
        let named = (unsettled < STEP_TOPICS as usize).then_some(int(rules));
        conn.prepare_cached(sql::SET_RULES)?.execute([named.unwrap_or_default()])?;
        if named.is_none() {
            return Ok(None);
        }
    }
    let (mut settle, mut retired) = (conn.prepare_cached(sql::SETTLE)?, 0);
    for Settled { topic, head, due, seen_at, tombstones, retire_idle_since } in settled {
        let named = params![
            topic.as_str(),
            int(head.epoch.bits()),
            int(head.watermark.as_u64()),
            ordered_moment(*due),
            DEDUP_FOR.as_millis() as i64,
            ordered_moment(*seen_at),
            retire_idle_since.map(ordered_moment),
            tombstones.map(age),
            ordered_moment(seen_at.plus(CLOCKS_APART)),
        ];
        retired += u64::from(settle.query_row(named, |row| row.get(0)).optional()?.unwrap_or(false));
    }
    Ok(Some(retired))
}

/// The rules that are named; none where nothing was ever put off.
fn stands(conn: &Connection) -> Result<Option<i64>, Fault> {
    Ok(conn.prepare_cached(sql::RULES)?.query_row([], |row| row.get(0)).optional()?)
}
