//! Checkpoints of projections: moved in the transaction that appends their batch, read by page, removed in steps.
//!
//! The transaction that moves a checkpoint holds an advisory lock on its name until the commit, since where there is none yet, there is no
//! row to lock (C2, C3). The lock is on a hash: two names that share one wait for each other, and no more.

use std::num::NonZeroUsize;

use khala_core::{
    Append, ErrorKind, Timestamp,
    projection::{Advance, Advanced, Checkpoint, Entity, ProjectionName},
    store::rows::{self, Row as _, int},
};
use sqlx::PgConnection;

use crate::{
    append::{self, Locking, Outcome, Request},
    database::{Database, Work},
    fault::{Fault, error},
    row::{StoredRow, column},
    sql::{self, Sql, query, rare},
};

/// The most rows that one step of removing takes.
const STEP_ROWS: usize = 500;

/// Moves a checkpoint and appends its batch, or does neither.
pub(crate) struct Move<'m> {
    pub(crate) schema: &'m str,
    pub(crate) advance: &'m Advance,
    /// The batch, as it is appended.
    pub(crate) request: Option<Request>,
}

impl<'m> Move<'m> {
    pub(crate) fn new(database: &'m Database, advance: &'m Advance, now: Timestamp) -> Self {
        let request = advance.batch.clone().map(|(topic, batch)| Request { topic, batch, now });
        Self { schema: database.options.schema.as_str(), advance, request }
    }
}

impl Work for Move<'_> {
    /// And how many updates were written.
    type Done = (Advanced, usize);

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<(Advanced, usize), Fault> {
        let Advance { projection, entity, to, .. } = self.advance;
        let (projection, entity) = (projection.as_str(), entity.as_str());
        // Neither name holds a control character.
        let name = format!("{} checkpoint\n{projection}\n{entity}", self.schema);
        rare(sql::ONE_MOVE).bind(name).execute(&mut *conn).await?;
        let stored =
            query(&sql.hold_checkpoint).bind(projection).bind(entity).fetch_optional(&mut *conn).await?;
        let stored = stored.map(|stored| rows::checkpoint(&StoredRow(&stored), 0)).transpose()?;
        if let Some(objection) = self.advance.objection(stored) {
            return Ok((objection, 0));
        }
        let (receipt, written) = match &self.request {
            None => (None, 0),
            Some(request) => match append::append(conn, sql, &[request], Locking::Wait).await?.pop() {
                Some(Outcome::Answered(Ok(Append::Written(receipt)))) => {
                    (Some(receipt), request.batch.updates().len())
                }
                Some(Outcome::Answered(Ok(Append::Duplicate(receipt)))) => (Some(receipt), 0),
                Some(Outcome::Answered(Ok(Append::Conflict(conflict)))) => {
                    return Ok((Advanced::Conflict(conflict), 0));
                }
                Some(Outcome::Answered(Err(error))) => return Err(error.into()),
                _ => return Err(error(ErrorKind::Corrupt, "a topic was added and is not there").into()),
            },
        };
        query(&sql.put_checkpoint)
            .bind(projection)
            .bind(entity)
            .bind(int(to.source.epoch.bits()))
            .bind(int(to.source.watermark.as_u64()))
            .bind(i64::from(to.version))
            .bind(to.summary_hash.as_str())
            .execute(conn)
            .await?;
        Ok((Advanced::Written(receipt), written))
    }
}

/// The checkpoint of an entity.
pub(crate) async fn find(
    database: &Database,
    projection: &ProjectionName,
    entity: &Entity,
) -> Result<Option<Checkpoint>, Fault> {
    let sql = &database.sql;
    let rows =
        database.rows(|| query(&sql.checkpoint).bind(projection.as_str()).bind(entity.as_str())).await?;
    rows.first().map(|found| rows::checkpoint(&StoredRow(found), 0)).transpose()
}

/// The checkpoints of the entities after `after`. Rows that cannot be read are left out. One statement reads a page, or several
/// where rows were left out.
pub(crate) async fn page(
    database: &Database,
    projection: &ProjectionName,
    after: Option<&Entity>,
    limit: NonZeroUsize,
) -> Result<Vec<(Entity, Checkpoint)>, Fault> {
    let sql = &database.sql;
    // No entity is empty, so the empty text stands before the first.
    let mut after = after.map_or("", Entity::as_str).to_owned();
    let mut page = Vec::new();
    loop {
        let asked = limit.get() - page.len();
        let ask = || {
            query(&sql.checkpoints).bind(projection.as_str()).bind(after.as_str()).bind(rows::limit(asked))
        };
        let rows = database.rows(ask).await?;
        for found in &rows {
            let found = StoredRow(found);
            match rows::entity(&found, 0).and_then(|entity| Ok((entity, rows::checkpoint(&found, 1)?))) {
                Ok(one) => page.push(one),
                Err(fault) => rows::passed_over(
                    &format!("entity '{}' of '{projection}' in khala.checkpoint", found.text(0)?),
                    fault,
                ),
            }
        }
        match rows.last() {
            // The limit counts rows that can be read.
            Some(last) if rows.len() == asked && page.len() < limit.get() => after = column(last, 0)?,
            _ => return Ok(page),
        }
    }
}

/// Removes a checkpoint; gives whether there was one.
pub(crate) struct Remove<'r>(pub(crate) &'r ProjectionName, pub(crate) &'r Entity);

impl Work for Remove<'_> {
    type Done = bool;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<bool, Fault> {
        let remove = query(&sql.remove_checkpoint).bind(self.0.as_str()).bind(self.1.as_str());
        Ok(remove.execute(conn).await?.rows_affected() > 0)
    }
}

/// Removes some of the checkpoints after an entity, in order; gives the entities that it removed.
struct RemoveStep<'r> {
    projection: &'r ProjectionName,
    after: &'r str,
}

impl Work for RemoveStep<'_> {
    type Done = Vec<String>;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<Vec<String>, Fault> {
        let remove = query(&sql.remove_checkpoints).bind(self.projection.as_str()).bind(self.after);
        let removed = remove.bind(rows::limit(STEP_ROWS)).fetch_all(conn).await?;
        removed.iter().map(|found| column(found, 0)).collect()
    }
}

/// Removes the checkpoints of a projection. The steps go through the entities in order, so that the loop ends although
/// checkpoints may be stored behind it meanwhile.
pub(crate) async fn remove_all(database: &Database, projection: &ProjectionName) -> Result<u64, Fault> {
    let (mut removed, mut after) = (0, String::new());
    loop {
        let step = database.transaction(RemoveStep { projection, after: &after }).await?;
        removed += step.len() as u64;
        match step.into_iter().max() {
            Some(last) => after = last,
            None => return Ok(removed),
        }
    }
}
