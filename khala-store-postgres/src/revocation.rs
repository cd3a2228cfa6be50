//! Revocations: stored one by one in watermark order, read by page, forgotten in steps.

use std::num::NonZeroUsize;

use khala_core::{
    Error, Timestamp, Watermark,
    auth::{Revocation, RevocationPage},
    store::rows::{self, int},
};
use sqlx::PgConnection;

use crate::{
    database::{Database, Work},
    fault::Fault,
    row::StoredRow,
    sql::{Sql, query},
};

/// The most rows that one step of pruning removes.
const STEP_ROWS: u64 = 500;

/// Stores a revocation, merged with what is kept about the same already (R4). The watermark's row is locked until the
/// commit, so watermarks become visible in their order (R3).
pub(crate) struct Store(pub(crate) Revocation);

impl Work for Store {
    type Done = Watermark;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<Watermark, Fault> {
        let made = self.0.clone();
        let (by, id) = (made.target.by(), made.target.id().clone());
        let watermark =
            rows::watermark(&StoredRow(&query(&sql.next_revocation).fetch_one(&mut *conn).await?), 0)?;
        let older = query(&sql.revoked).bind(by).bind(id.as_str()).fetch_optional(&mut *conn).await?;
        let kept = rows::merged_revocation(made, older.map(|older| rows::revocation(&StoredRow(&older))));
        query(&sql.revoke)
            .bind(int(watermark.as_u64()))
            .bind(by)
            .bind(id.as_str())
            .bind(int(kept.at.as_millis()))
            .bind(kept.until.map(|until| int(until.as_millis())))
            .execute(conn)
            .await?;
        Ok(watermark)
    }
}

/// The revocations after `after`, oldest first, and the rows that cannot be read. One statement reads them, so they are of one
/// moment.
pub(crate) async fn page(
    database: &Database,
    after: Watermark,
    limit: NonZeroUsize,
) -> Result<RevocationPage, Fault> {
    let sql = &database.sql;
    let rows = database
        .rows(|| query(&sql.revocations).bind(int(after.as_u64())).bind(rows::limit(limit.get())))
        .await?;
    let mut page = RevocationPage::default();
    for found in &rows {
        rows::push_revocation(&mut page, &StoredRow(found))?;
    }
    Ok(page)
}

/// Deletes some of the revocations that have ended; gives how many.
struct Prune(Timestamp);

impl Work for Prune {
    type Done = u64;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<u64, Fault> {
        let prune = query(&sql.prune).bind(int(self.0.as_millis())).bind(int(STEP_ROWS));
        Ok(prune.execute(conn).await?.rows_affected())
    }
}

/// Deletes the revocations that have ended, in steps.
pub(crate) async fn prune(database: &Database, now: Timestamp) -> Result<u64, Error> {
    let mut forgotten = 0;
    loop {
        match database.transaction(Prune(now)).await {
            Ok(some) if some < STEP_ROWS => return Ok(forgotten + some),
            Ok(some) => forgotten += some,
            // An error would say that nothing was deleted: what earlier steps deleted is reported instead.
            Err(fault) if forgotten == 0 => return Err(fault.into()),
            Err(_) => return Ok(forgotten),
        }
    }
}
