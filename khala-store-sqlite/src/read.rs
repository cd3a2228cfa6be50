//! What readers ask a connection, each question answered from one moment of the file (J5).

use std::num::NonZeroUsize;

use khala_core::{
    Bounds, Cursor, DocKey, Epoch, Topic, Update,
    documents::{Snapshot, SnapshotFrom, SnapshotPage},
    journal::{CorruptTopic, Page, ReadFrom, ReadLimit, Replay, TopicPage},
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    fault::Fault,
    row::{self, TopicRow, int},
    rows::Rows,
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
            Some(row) if cursor.watermark < bounds.head => updates(conn, &row, cursor, limit)?,
            _ => Vec::new(),
        };
        Ok(Replay::Page(Page { after: cursor.watermark, updates, bounds }))
    })
}

/// The updates right after `cursor`, which is within bounds and not at the head.
fn updates(
    conn: &Connection,
    row: &TopicRow,
    cursor: Cursor,
    limit: ReadLimit,
) -> Result<Vec<Update>, Fault> {
    let (mut taken, mut end) = (Rows::new(limit), cursor.watermark);
    let mut page = conn.prepare_cached(sql::PAGE)?;
    let mut rows = page.query(params![row.id, int(end.as_u64()), most(limit.updates)])?;
    while let Some(found) = rows.next()? {
        let seq = row::seq(found, 0)?;
        // Handing on a log with a hole would be skipping silently.
        if end.next() != Some(seq) {
            return Err(hole(row, end.as_u64() + 1));
        }
        if !taken.push(found, seq)? {
            return taken.finish();
        }
        end = seq.watermark();
    }
    if end < row.bounds.head && taken.len() < limit.updates.get() {
        return Err(hole(row, end.as_u64() + 1));
    }
    taken.finish()
}

fn hole(row: &TopicRow, seq: u64) -> Fault {
    let TopicRow { id, bounds, .. } = row;
    Fault::corrupt(format!(
        "update {seq} of topic_id {id} is missing between {} and {}",
        bounds.floor, bounds.head
    ))
}

pub(crate) fn topics(
    conn: &Connection,
    prefix: &str,
    after: Option<&str>,
    limit: NonZeroUsize,
) -> Result<TopicPage, Fault> {
    let from = after.filter(|after| *after > prefix).unwrap_or(prefix);
    // No topic holds a byte as high as DEL, so this is past every topic with the prefix. Without a prefix, what is
    // stored and no topic is listed too, so that it is named.
    let past = if prefix.is_empty() { "\u{10ffff}".to_owned() } else { format!("{prefix}\u{7f}") };
    let mut list = conn.prepare_cached(sql::TOPICS)?;
    let mut rows = list.query(params![from, past, after, most(limit)])?;
    let (mut page, mut looked_at) = (TopicPage::default(), 0);
    while let Some(found) = rows.next()? {
        looked_at += 1;
        // Told whatever it holds; SQLite has no table that a text of no UTF-8 could not get into.
        let name = || -> Result<String, Fault> {
            Ok(String::from_utf8_lossy(row::text_bytes(found, 0)?).into_owned())
        };
        if looked_at == limit.get() {
            page.next = Some(name()?);
        }
        match row::topic(found, 0).and_then(|topic| Ok((topic, row::bounds(found, 1)?))) {
            Ok(topic) => page.topics.push(topic),
            Err(fault) => page.corrupt.push(CorruptTopic { name: name()?, error: fault.into() }),
        }
    }
    Ok(page)
}

pub(crate) fn document(conn: &Connection, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Fault> {
    at_one_moment(conn, |conn| {
        let Some(row) = TopicRow::read(&mut *conn.prepare_cached(sql::TOPIC)?, topic)? else {
            return Ok(None);
        };
        let mut find = conn.prepare_cached(sql::DOCUMENT)?;
        let found = find.query_row(params![row.id, key.as_str()], |row| Ok(row::update(row))).optional()?;
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
        let (at, after) = match from {
            SnapshotFrom::Start => (bounds.at_head(), ""),
            SnapshotFrom::After { at, key } => (*at, key.as_str()),
        };
        if let Err(stale) = bounds.admit(at) {
            return Ok(Snapshot::Stale(stale));
        }
        let (mut documents, mut bytes, mut complete) = (Vec::new(), 0, true);
        if let Some(row) = row {
            let mut list = conn.prepare_cached(sql::DOCUMENTS)?;
            let mut rows = list.query(params![row.id, after])?;
            while let Some(found) = rows.next()? {
                let document = row::update(found)?;
                if !limit.admits(documents.len(), bytes, document.size()) {
                    complete = false;
                    break;
                }
                bytes += document.size();
                documents.push(document);
            }
        }
        Ok(Snapshot::Page(SnapshotPage { at, documents, complete, bounds }))
    })
}

pub(crate) fn most(limit: NonZeroUsize) -> i64 {
    i64::try_from(limit.get()).unwrap_or(i64::MAX)
}
