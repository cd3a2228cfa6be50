//! What readers ask a connection, each question answered from one moment of the file (J5).

use std::num::NonZeroUsize;

use khala_core::{
    Bounds, Cursor, DocKey, Epoch, Topic, Update,
    documents::{Snapshot, SnapshotFrom, SnapshotPage},
    journal::{Page, ReadFrom, ReadLimit, Replay, TopicPage},
    store::{
        page::PageRows,
        rows::{self, int},
    },
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    fault::Fault,
    row::{StoredRow, TopicRow},
    sql,
};

/// Runs `read` in one read transaction.
pub(crate) fn at_one_moment<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    conn.prepare_cached(sql::BEGIN_READ)?.execute([])?;
    let answer = read(conn);
    // There is nothing to undo; what matters is that no moment is held on to, which would keep the write-ahead
    // log from ever starting over.
    let ended = conn.prepare_cached(sql::ROLLBACK)?.execute([]);
    let answer = answer?;
    ended?;
    Ok(answer)
}

/// A topic's row, if it has one, and its bounds.
fn standing(conn: &Connection, seed: &[u8; 16], topic: &Topic) -> Result<(Option<TopicRow>, Bounds), Fault> {
    let row = TopicRow::read(&mut *conn.prepare_cached(sql::TOPIC)?, topic)?;
    let bounds = row.map_or_else(|| Bounds::untouched(Epoch::derive(seed, topic)), |row| row.bounds);
    Ok((row, bounds))
}

pub(crate) fn bounds(conn: &Connection, seed: &[u8; 16], topic: &Topic) -> Result<Bounds, Fault> {
    Ok(standing(conn, seed, topic)?.1)
}

pub(crate) fn page(
    conn: &Connection,
    seed: &[u8; 16],
    topic: &Topic,
    start: ReadFrom,
    limit: ReadLimit,
) -> Result<Replay, Fault> {
    at_one_moment(conn, |conn| {
        let (row, bounds) = standing(conn, seed, topic)?;
        let cursor = start.cursor(&bounds);
        if let Err(stale) = bounds.admit(cursor) {
            return Ok(Replay::Stale(stale));
        }
        let updates = match row {
            Some(row) if cursor.watermark < bounds.head => {
                updates(conn, &row, PageRows::new(topic, bounds, cursor.watermark, limit), (cursor, limit))?
            }
            _ => Vec::new(),
        };
        Ok(Replay::Page(Page { after: cursor.watermark, updates, bounds }))
    })
}

/// The updates right after `cursor`, which is within bounds and not at the head.
fn updates(
    conn: &Connection,
    row: &TopicRow,
    mut updates: PageRows<'_>,
    (cursor, limit): (Cursor, ReadLimit),
) -> Result<Vec<Update>, Fault> {
    let mut page = conn.prepare_cached(sql::PAGE)?;
    let most = rows::limit(limit.updates.get());
    let mut rows = page.query(params![row.id, int(cursor.watermark.as_u64()), most])?;
    while let Some(found) = rows.next()? {
        if !updates.push(&StoredRow(found), 0)? {
            return Ok(updates.finish()?);
        }
    }
    Ok(updates.finish_read_out()?)
}

pub(crate) fn topics(
    conn: &Connection,
    prefix: &str,
    after: Option<&str>,
    limit: NonZeroUsize,
) -> Result<TopicPage, Fault> {
    let (from, past) = rows::name_range(prefix, after);
    let mut list = conn.prepare_cached(sql::TOPICS)?;
    let mut rows = list.query(params![from, past, after, rows::limit(limit.get())])?;
    let (mut page, mut looked_at) = (TopicPage::default(), 0);
    while let Some(found) = rows.next()? {
        looked_at += 1;
        rows::push_topic(&mut page, &StoredRow(found), looked_at == limit.get())?;
    }
    Ok(page)
}

pub(crate) fn document(conn: &Connection, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Fault> {
    at_one_moment(conn, |conn| {
        let Some(row) = TopicRow::read(&mut *conn.prepare_cached(sql::TOPIC)?, topic)? else {
            return Ok(None);
        };
        let mut find = conn.prepare_cached(sql::DOCUMENT)?;
        let found = find
            .query_row(params![row.id, key.as_str()], |row| Ok(rows::update(&StoredRow(row), 0)))
            .optional()?;
        found.transpose()
    })
}

pub(crate) fn snapshot(
    conn: &Connection,
    seed: &[u8; 16],
    topic: &Topic,
    from: &SnapshotFrom,
    limit: ReadLimit,
) -> Result<Snapshot, Fault> {
    at_one_moment(conn, |conn| {
        let (row, bounds) = standing(conn, seed, topic)?;
        let at = from.cursor(&bounds);
        if let Err(stale) = bounds.admit(at) {
            return Ok(Snapshot::Stale(stale));
        }
        let none = std::iter::empty::<Result<Update, Fault>>();
        let Some(row) = row else { return Ok(Snapshot::Page(SnapshotPage::of(at, bounds, limit, none)?)) };
        let mut list = conn.prepare_cached(sql::DOCUMENTS)?;
        let mut rows = list.query(params![row.id, from.after()])?;
        let documents = std::iter::from_fn(|| match rows.next() {
            Ok(found) => Some(rows::update(&StoredRow(found?), 0)),
            Err(fault) => Some(Err(fault.into())),
        });
        Ok(Snapshot::Page(SnapshotPage::of(at, bounds, limit, documents)?))
    })
}
