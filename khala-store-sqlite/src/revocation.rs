//! Revocations: stored one by one in watermark order, read by page, forgotten in steps.
//!
//! Each function runs in a transaction that is open, or on a connection that needs none. Watermarks are given under
//! the write lock, so they become visible in their order (R3).

use std::num::NonZeroUsize;

use khala_core::{Revocation, Timestamp, Watermark};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    fault::Fault,
    read::most,
    row::{self, int},
    sql,
    trim::Next,
};

/// The most rows that one step of pruning removes.
const STEP_ROWS: usize = 500;

/// Stores a revocation, merged with what is kept about the same already (R4).
pub(crate) fn store(conn: &Connection, made: Revocation) -> Result<Watermark, Fault> {
    let (by, id) = (made.named.by(), made.named.id().clone());
    let mut older = conn.prepare_cached(sql::REVOKED)?;
    let older = older.query_row(params![by, id.as_str()], |row| Ok(row::revocation(row))).optional()?;
    let kept = match older.transpose()? {
        Some((_, older)) => made.merged_with(&older),
        None => made,
    };
    let (at, until) = (int(kept.at.as_millis()), kept.until.map(|until| int(until.as_millis())));
    let mut revoke = conn.prepare_cached(sql::REVOKE)?;
    revoke.query_row(params![by, id.as_str(), at, until], |row| Ok(row::watermark(row, 0)))?
}

/// Those stored after `after`, oldest first. One statement, and so of one moment.
pub(crate) fn page(
    conn: &Connection,
    after: Watermark,
    limit: NonZeroUsize,
) -> Result<Vec<(Watermark, Revocation)>, Fault> {
    let mut list = conn.prepare_cached(sql::REVOCATIONS)?;
    let mut rows = list.query(params![int(after.as_u64()), most(limit)])?;
    let mut page = Vec::new();
    while let Some(found) = rows.next()? {
        page.push(row::revocation(found)?);
    }
    Ok(page)
}

/// One step of forgetting what has ended: how many that were, and whether there may be more.
pub(crate) fn prune(conn: &Connection, now: Timestamp) -> Result<(u64, Next), Fault> {
    let mut prune = conn.prepare_cached(sql::PRUNE)?;
    let forgotten = prune.execute(params![int(now.as_millis()), STEP_ROWS as i64])?;
    Ok((forgotten as u64, if forgotten == STEP_ROWS { Next::Step } else { Next::Done }))
}

#[cfg(test)]
mod tests {
    use khala_core::{Error, ErrorKind, MAX_POSITION, Named, RevocationId};

    use super::*;
    use crate::{schema, writer::transaction};

    fn prepared() -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::prepare(&mut conn).unwrap();
        conn
    }

    fn ending(id: &str, until: u64) -> Revocation {
        let named = Named::Sub(RevocationId::parse(id).unwrap());
        Revocation::new(named, Timestamp::default()).with_until(Timestamp::from_millis(until))
    }

    fn all(conn: &Connection) -> Vec<(Watermark, Revocation)> {
        page(conn, Watermark::ORIGIN, NonZeroUsize::MAX).unwrap()
    }

    #[test]
    fn a_step_of_pruning_is_bounded() {
        let conn = prepared();
        for n in 0..1_100 {
            store(&conn, ending(&n.to_string(), n)).unwrap();
        }
        let steps = [(); 3].map(|()| prune(&conn, Timestamp::from_millis(1_049)).unwrap());
        assert_eq!(steps, [(500, Next::Step), (500, Next::Step), (50, Next::Done)]);
        assert_eq!(all(&conn).len(), 50);
    }

    #[test]
    fn moments_are_unsigned() {
        let conn = prepared();
        let large = i64::MAX.cast_unsigned();
        let ends = [0, 1, large, large + 1, u64::MAX];
        for now in ends {
            for until in ends {
                store(&conn, ending(&until.to_string(), until)).unwrap();
            }
            prune(&conn, Timestamp::from_millis(now)).unwrap();
            let left: Vec<u64> = all(&conn).iter().map(|(_, kept)| kept.until.unwrap().as_millis()).collect();
            assert_eq!(left, ends.into_iter().filter(|until| *until > now).collect::<Vec<_>>(), "{now}");
        }
    }

    /// The error is of that kind, and what was there before is there still.
    #[track_caller]
    fn leaves_nothing_half_done(conn: &Connection, before: &[(Watermark, Revocation)], kind: ErrorKind) {
        for id in ["old", "new"] {
            let fault = transaction(conn, |conn| store(conn, ending(id, 9))).unwrap_err();
            assert_eq!(Error::from(fault).kind(), kind);
            assert_eq!(all(conn), before);
        }
    }

    #[test]
    fn a_revocation_that_is_refused_leaves_the_older_one() {
        let conn = prepared();
        store(&conn, ending("old", 5)).unwrap();
        let before = all(&conn);

        conn.execute_batch("PRAGMA query_only = ON").unwrap();
        leaves_nothing_half_done(&conn, &before, ErrorKind::ReadOnly);
        let fault = transaction(&conn, |conn| prune(conn, Timestamp::from_millis(9))).unwrap_err();
        assert_eq!(Error::from(fault).kind(), ErrorKind::ReadOnly);
        conn.execute_batch("PRAGMA query_only = OFF").unwrap();

        // Amid the statement, after the older one was removed.
        conn.execute_batch(
            "CREATE TRIGGER own AFTER INSERT ON khala_revocation BEGIN SELECT raise(ABORT, 'no'); END",
        )
        .unwrap();
        leaves_nothing_half_done(&conn, &before, ErrorKind::Corrupt);
        conn.execute_batch("DROP TRIGGER own").unwrap();

        let last = format!("UPDATE sqlite_sequence SET seq = {MAX_POSITION} WHERE name = 'khala_revocation'");
        conn.execute_batch(&last).unwrap();
        leaves_nothing_half_done(&conn, &before, ErrorKind::Corrupt);
    }

    #[test]
    fn a_row_that_the_store_never_writes_is_an_error_and_not_skipped() {
        let conn = prepared();
        store(&conn, ending("good", 5)).unwrap();
        for change in ["named_by = 'mac'", "named_id = ''", "revoked_at = 'soon'", "until = 'later'"] {
            conn.execute_batch(&format!("BEGIN; UPDATE khala_revocation SET {change}")).unwrap();
            let fault = page(&conn, Watermark::ORIGIN, NonZeroUsize::MIN).unwrap_err();
            assert_eq!(Error::from(fault).kind(), ErrorKind::Corrupt, "{change}");
            conn.execute_batch("ROLLBACK").unwrap();
        }
    }
}
