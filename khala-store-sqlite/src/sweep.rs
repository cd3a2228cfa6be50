//! Who sweeps, and the records of sweeps. Each function runs in a transaction that is open, or on a connection that
//! needs none.
//!
//! The lead is one row, so that under the write lock one node has it (S1). A record is one text: what is in it is the
//! core's to say, and nothing here asks for a part of it.

use std::num::NonZeroUsize;

use khala_core::{
    Timestamp,
    node::NodeId,
    retention::{Lease, SWEEPS_KEPT, SweepRecord},
    store::rows::{self, int},
};
use rusqlite::{Connection, params};

use crate::{fault::Fault, row::StoredRow, sql};

/// Takes, renews or gives up the lead, unless another node has it (S1, S2, S3).
pub(crate) fn try_acquire(
    conn: &Connection,
    node: &NodeId,
    now: Timestamp,
    until: Timestamp,
) -> Result<Lease, Fault> {
    let mut lead = conn.prepare_cached(sql::LEAD)?;
    if lead.execute(params![node.as_str(), int(now.as_millis()), int(until.as_millis())])? > 0 {
        return Ok(Lease::Held);
    }
    let mut leader = conn.prepare_cached(sql::LEADER)?;
    let leader = leader.query_row([], |row| {
        let row = StoredRow(row);
        Ok(rows::node(&row, 0).and_then(|node| Ok(Lease::HeldBy { node, until: rows::moment(&row, 1)? })))
    });
    leader?
}

/// Stores a record and forgets the oldest past those that are kept (S4).
pub(crate) fn record(conn: &Connection, record: &str) -> Result<(), Fault> {
    conn.prepare_cached(sql::ADD_SWEEP)?.execute([record])?;
    let newest = conn.last_insert_rowid();
    conn.prepare_cached(sql::FORGET_SWEEPS)?.execute([newest - SWEEPS_KEPT as i64])?;
    Ok(())
}

/// The text of a record, as it is stored.
pub(crate) fn text(record: &SweepRecord) -> Result<String, Fault> {
    serde_json::to_string(record)
        .map_err(|fault| rusqlite::Error::ToSqlConversionFailure(fault.into()).into())
}

/// The records, newest first (S4), but for those that cannot be read. One statement, and so of one moment.
pub(crate) fn records(conn: &Connection, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Fault> {
    let mut list = conn.prepare_cached(sql::SWEEPS)?;
    let mut rows = list.query([])?;
    let mut records = Vec::new();
    while records.len() < limit.get()
        && let Some(found) = rows.next()?
    {
        match rows::sweep_record(&StoredRow(found), 0) {
            Ok(record) => records.push(record),
            Err(fault) => {
                rows::passed_over(&format!("sweep_id {} of khala_sweep", found.get::<_, i64>(1)?), fault);
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use khala_core::{
        Error, ErrorKind,
        retention::{SweepOutcome, SweepTrigger},
    };

    use super::*;
    use crate::schema;

    #[test]
    fn a_record_that_cannot_be_read_is_passed_over_and_a_lead_is_an_error() {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::prepare(&mut conn).unwrap();
        let (node, ever) = (NodeId::parse("n").unwrap(), Timestamp::from_millis(u64::MAX));
        try_acquire(&conn, &node, Timestamp::default(), ever).unwrap();
        let good = |at| {
            let at = Timestamp::from_millis(at);
            SweepRecord::new(node.clone(), at, SweepTrigger::Schedule, SweepOutcome::Swept)
        };
        for record_text in [text(&good(1)).unwrap(), "{}".to_owned(), text(&good(3)).unwrap(), "{".to_owned()]
        {
            record(&conn, &record_text).unwrap();
        }
        conn.execute("INSERT INTO khala_sweep (record) VALUES (x'ff')", []).unwrap();
        assert_eq!(records(&conn, NonZeroUsize::MAX).unwrap(), [good(3), good(1)]);
        assert_eq!(records(&conn, NonZeroUsize::MIN).unwrap(), [good(3)], "a limit counts what can be read");
        for change in ["node = ''", "until = 'later'"] {
            conn.execute_batch(&format!("BEGIN; UPDATE khala_sweep_lead SET {change}")).unwrap();
            let other = NodeId::parse("o").unwrap();
            let fault = try_acquire(&conn, &other, Timestamp::default(), ever).unwrap_err();
            assert_eq!(Error::from(fault).kind(), ErrorKind::Corrupt, "{change}");
            conn.execute_batch("ROLLBACK").unwrap();
        }
    }
}
