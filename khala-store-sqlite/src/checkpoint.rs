//! Checkpoints of projections: moved within a group of appends, read by page, removed in steps.
//!
//! Each function runs in a transaction that is open, or on a connection that needs none. A checkpoint is looked at and
//! moved under the write lock, in the transaction that appends its batch: both are there, or neither (C1).

use std::num::NonZeroUsize;

use khala_core::{
    Append, Error, Timestamp,
    projection::{Advance, Advanced, Checkpoint, Entity, ProjectionName},
    store::rows::{self, Row as _, int},
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{append::Group, fault::Fault, row::StoredRow, sql};

/// The most rows that one step of removing takes.
const STEP_ROWS: usize = 500;

/// Checks an advance and writes it if nothing speaks against it.
///
/// As of an append, the inner error is this advance's alone, and nothing of it was written.
pub(crate) fn advance(
    group: &mut Group<'_>,
    advance: &Advance,
    now: Timestamp,
) -> Result<Result<Advanced, Error>, Fault> {
    let Advance { projection, entity, to, batch, .. } = advance;
    if let Some(objection) = advance.objection(find(group.conn(), projection, entity)?) {
        return Ok(Ok(objection));
    }
    let receipt = match batch {
        None => None,
        Some((topic, batch)) => match group.append(topic, batch, now)? {
            Ok(Append::Written(receipt) | Append::Duplicate(receipt)) => Some(receipt),
            Ok(Append::Conflict(conflict)) => return Ok(Ok(Advanced::Conflict(conflict))),
            Err(error) => return Ok(Err(error)),
        },
    };
    group.conn().prepare_cached(sql::PUT_CHECKPOINT)?.execute(params![
        projection.as_str(),
        entity.as_str(),
        int(to.source.epoch.bits()),
        int(to.source.watermark.as_u64()),
        to.version,
        to.summary_hash.as_str(),
    ])?;
    Ok(Ok(Advanced::Written(receipt)))
}

/// The checkpoint of an entity.
pub(crate) fn find(
    conn: &Connection,
    projection: &ProjectionName,
    entity: &Entity,
) -> Result<Option<Checkpoint>, Fault> {
    let mut find = conn.prepare_cached(sql::CHECKPOINT)?;
    let names = params![projection.as_str(), entity.as_str()];
    find.query_row(names, |row| Ok(rows::checkpoint(&StoredRow(row), 0))).optional()?.transpose()
}

/// Those that follow `after`, but for those that cannot be read. One statement, and so of one moment.
pub(crate) fn page(
    conn: &Connection,
    projection: &ProjectionName,
    after: Option<&Entity>,
    limit: NonZeroUsize,
) -> Result<Vec<(Entity, Checkpoint)>, Fault> {
    let mut list = conn.prepare_cached(sql::CHECKPOINTS)?;
    // No entity is empty, so the empty text stands before the first.
    let mut rows = list.query([projection.as_str(), after.map_or("", Entity::as_str)])?;
    let mut page = Vec::new();
    while page.len() < limit.get()
        && let Some(found) = rows.next()?
    {
        match rows::entity(&StoredRow(found), 0)
            .and_then(|entity| Ok((entity, rows::checkpoint(&StoredRow(found), 1)?)))
        {
            Ok(one) => page.push(one),
            Err(fault) => {
                let entity = StoredRow(found).told(0).unwrap_or_default();
                rows::passed_over(&format!("entity '{entity}' of '{projection}' in khala_checkpoint"), fault);
            }
        }
    }
    Ok(page)
}

/// Removes one; says whether there was one.
pub(crate) fn remove(conn: &Connection, projection: &ProjectionName, entity: &Entity) -> Result<bool, Fault> {
    let mut remove = conn.prepare_cached(sql::REMOVE_CHECKPOINT)?;
    Ok(remove.execute([projection.as_str(), entity.as_str()])? > 0)
}

/// One step of removing all that follow `after`: how many that were, and the last one of them if there may be more.
///
/// Steps go on in order, so that one which is stored anew behind them is left and the removal ends. Entities are bytes here:
/// what is none is removed too.
pub(crate) fn remove_step(
    conn: &Connection,
    projection: &ProjectionName,
    after: &[u8],
) -> Result<(u64, Option<Vec<u8>>), Fault> {
    let projection = projection.as_str();
    let mut last = conn.prepare_cached(sql::LAST_TO_REMOVE)?;
    let last = last.query_row(params![projection, after, STEP_ROWS as i64], |row| row.get(0)).optional()?;
    let removed = conn.prepare_cached(sql::REMOVE_CHECKPOINTS)?.execute(params![projection, after, last])?;
    Ok((removed as u64, last))
}

#[cfg(test)]
mod tests {
    use khala_core::{Cursor, Epoch, ErrorKind, Payload, Watermark, update::PayloadHash};

    use super::*;
    use crate::schema;

    fn prepared() -> (Connection, ProjectionName) {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::prepare(&mut conn).unwrap();
        (conn, ProjectionName::parse("runs").unwrap())
    }

    fn entity(n: usize) -> Entity {
        Entity::parse(&format!("{n:05}")).unwrap()
    }

    fn store(conn: &Connection, projection: &ProjectionName, entity: Entity) {
        let to = Checkpoint {
            source: Cursor::new(Epoch::from_bits(u64::MAX), Watermark::ORIGIN),
            version: u32::MAX,
            summary_hash: PayloadHash::of(&Payload::null()).unwrap(),
        };
        let made = Advance::new(projection.clone(), entity, None, to);
        let mut group = Group::new(conn, &[7; 16]);
        let answer = advance(&mut group, &made, Timestamp::default()).unwrap().unwrap();
        assert_eq!(answer, Advanced::Written(None));
        group.finish().unwrap();
    }

    #[test]
    fn a_step_of_removing_is_bounded_and_goes_on_from_the_last() {
        let (conn, name) = prepared();
        for n in 1..=1_100 {
            store(&conn, &name, entity(n));
        }
        let (removed, last) = remove_step(&conn, &name, b"").unwrap();
        assert_eq!((removed, &last), (500, &Some(entity(500).as_str().into())));
        // Folded anew, it is left.
        store(&conn, &name, entity(7));
        let (removed, last) = remove_step(&conn, &name, last.as_deref().unwrap()).unwrap();
        assert_eq!((removed, &last), (500, &Some(entity(1_000).as_str().into())));
        assert_eq!(remove_step(&conn, &name, last.as_deref().unwrap()).unwrap(), (100, None));
        let left = page(&conn, &name, None, NonZeroUsize::MAX).unwrap();
        assert_eq!(left.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), [entity(7)]);
    }

    #[test]
    fn a_row_that_the_store_never_writes_is_an_error_of_its_entity_alone() {
        let (conn, name) = prepared();
        for n in 0..3 {
            store(&conn, &name, entity(n));
        }
        for change in [
            "source_watermark = -1",
            "source_epoch = 'e'",
            "version = 4294967296",
            "summary_hash = 'sha256:'",
            "summary_hash = x'00'",
        ] {
            conn.execute_batch(&format!(
                "BEGIN; UPDATE khala_checkpoint SET {change} WHERE entity = '00001'"
            ))
            .unwrap();
            let fault = find(&conn, &name, &entity(1)).unwrap_err();
            assert_eq!(Error::from(fault).kind(), ErrorKind::Corrupt, "{change}");
            for limit in [2.try_into().unwrap(), NonZeroUsize::MAX] {
                let page = page(&conn, &name, None, limit).unwrap();
                let names: Vec<_> = page.into_iter().map(|(name, _)| name).collect();
                assert_eq!(names, [entity(0), entity(2)], "a limit counts what can be read: {change}");
            }
            conn.execute_batch("ROLLBACK").unwrap();
        }
        for no_entity in ["''", "CAST(x'303030ff' AS TEXT)"] {
            conn.execute_batch(&format!(
                "UPDATE khala_checkpoint SET entity = {no_entity} WHERE entity = '00001'"
            ))
            .unwrap();
            let page = page(&conn, &name, None, NonZeroUsize::MAX).unwrap();
            assert_eq!(page.len(), 2, "{no_entity}");
            conn.execute_batch(&format!(
                "UPDATE khala_checkpoint SET entity = '00001' WHERE entity = {no_entity}"
            ))
            .unwrap();
        }
        // What is no entity holds up no removal.
        conn.execute_batch(
            "UPDATE khala_checkpoint SET entity = CAST(x'303030ff' AS TEXT) WHERE entity = '00001';
             INSERT INTO khala_checkpoint SELECT projection, entity || n, 0, 0, 0, ''
             FROM khala_checkpoint, (WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 600) SELECT n FROM c)
             WHERE entity = CAST(x'303030ff' AS TEXT)",
        )
        .unwrap();
        let (mut removed, mut after) = (0, Some(Vec::new()));
        while let Some(last) = after {
            let (some, last) = remove_step(&conn, &name, &last).unwrap();
            (removed, after) = (removed + some, last);
        }
        assert_eq!(removed, 603);
    }
}
