//! Revocations: stored one by one in watermark order, read by page, forgotten in steps.
//!
//! Each function runs in a transaction that is open, or on a connection that needs none. Watermarks are given under
//! the write lock, so they become visible in their order (R3).

use std::num::NonZeroUsize;

use khala_core::{
    Timestamp, Watermark,
    auth::{Revocation, RevocationPage},
    store::rows::{self, int},
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{fault::Fault, row::StoredRow, sql, trim::Next};

/// The most rows that one step of pruning removes.
const STEP_ROWS: usize = 500;

/// Stores a revocation, merged with what is kept about the same already (R4).
pub(crate) fn store(conn: &Connection, made: Revocation) -> Result<Watermark, Fault> {
    let (by, id) = (made.target.by(), made.target.id().clone());
    let mut older = conn.prepare_cached(sql::REVOKED)?;
    let older =
        older.query_row(params![by, id.as_str()], |row| Ok(rows::revocation(&StoredRow(row)))).optional()?;
    let kept = rows::merged_revocation(made, older);
    let (at, until) = (int(kept.at.as_millis()), kept.until.map(|until| int(until.as_millis())));
    let mut revoke = conn.prepare_cached(sql::REVOKE)?;
    revoke.query_row(params![by, id.as_str(), at, until], |row| Ok(rows::watermark(&StoredRow(row), 0)))?
}

/// Those stored after `after`, oldest first, and the rows among them that cannot be read. One statement, and so of one
/// moment.
pub(crate) fn page(
    conn: &Connection,
    after: Watermark,
    limit: NonZeroUsize,
) -> Result<RevocationPage, Fault> {
    let mut list = conn.prepare_cached(sql::REVOCATIONS)?;
    let mut rows = list.query(params![int(after.as_u64()), rows::limit(limit.get())])?;
    let mut page = RevocationPage::default();
    while let Some(found) = rows.next()? {
        rows::push_revocation(&mut page, &StoredRow(found))?;
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
    use khala_core::{
        Error, ErrorKind,
        auth::{RevocationId, RevocationTarget},
        position::MAX_POSITION,
    };

    use super::*;
    use crate::site::Site;
    use crate::{schema, writer::transaction};

    fn prepared() -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::prepare(&mut conn).unwrap();
        conn
    }

    fn ending(id: &str, until: u64) -> Revocation {
        let target = RevocationTarget::Sub(RevocationId::parse(id).unwrap());
        Revocation::new(target, Timestamp::default()).with_until(Timestamp::from_millis(until))
    }

    fn all(conn: &Connection) -> Vec<(Watermark, Revocation)> {
        page(conn, Watermark::ORIGIN, NonZeroUsize::MAX).unwrap().revocations
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
            let fault = transaction(conn, &Site::of_none(), |conn| store(conn, ending(id, 9))).unwrap_err();
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
        let fault =
            transaction(&conn, &Site::of_none(), |conn| prune(conn, Timestamp::from_millis(9))).unwrap_err();
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
    fn a_row_that_the_store_never_writes_is_named_and_the_others_are_read() {
        let conn = prepared();
        for id in ["first", "bad", "last"] {
            store(&conn, ending(id, 5)).unwrap();
        }
        let bad = ending("bad", 5).target;
        for (change, row, target) in [
            ("named_by = 'mac'", 2, None),
            ("named_by = x'ff'", 2, None),
            ("named_id = ''", 2, None),
            ("revoked_at = 'soon'", 2, Some(bad.clone())),
            ("until = 'later'", 2, Some(bad.clone())),
            ("watermark = 1 << 60", 1_i64 << 60, Some(bad)),
        ] {
            conn.execute_batch(&format!(
                "BEGIN; UPDATE khala_revocation SET {change} WHERE named_id = 'bad'"
            ))
            .unwrap();
            let (mut good, mut corrupt, mut after, mut pages) =
                (Vec::new(), Vec::new(), Watermark::ORIGIN, 0);
            loop {
                let page = page(&conn, after, NonZeroUsize::MIN).unwrap();
                good.extend(page.revocations.into_iter().map(|(_, one)| one.target.id().as_str().to_owned()));
                corrupt.extend(page.corrupt.into_iter().map(|one| (one.row, one.target, one.error.kind())));
                pages += 1;
                let Some(next) = page.next else { break };
                after = next;
            }
            assert_eq!(good, ["first", "last"], "{change}");
            assert_eq!(corrupt, [(format!("watermark {row}"), target, ErrorKind::Corrupt)], "{change}");
            assert!(pages <= 4, "{change}: {pages}");
            conn.execute_batch("ROLLBACK").unwrap();
        }
    }

    #[test]
    fn what_takes_the_place_of_a_row_that_cannot_be_read_is_kept_for_good() {
        let conn = prepared();
        for change in ["revoked_at = 'soon'", "until = 'later'"] {
            store(&conn, ending("bad", 5)).unwrap();
            conn.execute(&format!("UPDATE khala_revocation SET {change}"), []).unwrap();
            store(&conn, ending("bad", 7)).unwrap();
            let kept: Vec<_> = all(&conn).into_iter().map(|(_, one)| (one.at, one.until)).collect();
            assert_eq!(kept, [(Timestamp::default(), None)], "{change}");
            conn.execute("DELETE FROM khala_revocation", []).unwrap();
        }
    }
}
