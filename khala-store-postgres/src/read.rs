//! What readers ask, each question one statement and so of one moment (J5).

use std::num::NonZeroUsize;

use khala_core::{
    Bounds, Cursor, DocKey, Epoch, Topic, Update, Watermark,
    documents::{Snapshot, SnapshotFrom, SnapshotPage},
    journal::{CorruptTopic, Page, ReadFrom, ReadLimit, Replay, TopicPage},
};
use sqlx::postgres::PgRow;

use crate::{
    database::Database,
    fault::Fault,
    row::{self, int},
    sql::query,
};

/// The questions that readers ask, and what they are answered from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'d> {
    pub(crate) database: &'d Database,
    pub(crate) seed: &'d [u8; 16],
}

impl Reader<'_> {
    /// The bounds that the first of these rows begins with; of an untouched topic if there is none.
    fn bounds_in(&self, rows: &[PgRow], topic: &Topic) -> Result<Bounds, Fault> {
        let untouched = || Ok(Bounds::untouched(Epoch::derive(self.seed, topic)));
        rows.first().map_or_else(untouched, |row| row::bounds(row, 0))
    }

    pub(crate) async fn bounds(&self, topic: &Topic) -> Result<Bounds, Fault> {
        let sql = &self.database.sql;
        let rows = self.database.rows(|| query(&sql.bounds).bind(topic.as_str())).await?;
        self.bounds_in(&rows, topic)
    }

    pub(crate) async fn page(
        &self,
        topic: &Topic,
        start: ReadFrom,
        limit: ReadLimit,
    ) -> Result<Replay, Fault> {
        let (after, epoch) = match start {
            ReadFrom::Origin => (Watermark::ORIGIN, None),
            ReadFrom::After(cursor) => (cursor.watermark, Some(int(cursor.epoch.bits()))),
        };
        let sql = &self.database.sql;
        let rows = self.database.rows(|| {
            query(&sql.page)
                .bind(topic.as_str())
                .bind(int(after.as_u64()))
                .bind(most(limit.updates.get()))
                .bind(most(limit.bytes))
                .bind(epoch)
        });
        let rows = rows.await?;
        let bounds = self.bounds_in(&rows, topic)?;
        let cursor = start.cursor(&bounds);
        if let Err(stale) = bounds.admit(cursor) {
            return Ok(Replay::Stale(stale));
        }
        let updates = updates(&rows, 3)?;
        without_hole(topic, &bounds, cursor, &updates)?;
        Ok(Replay::Page(Page { after: cursor.watermark, updates, bounds }))
    }

    pub(crate) async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Fault> {
        // No topic has such a prefix, and PostgreSQL has no text with a zero byte.
        if !prefix.bytes().all(|byte| byte.is_ascii_graphic())
            || after.is_some_and(|after| after.contains('\0'))
        {
            return Ok(TopicPage::default());
        }
        let from = after.filter(|after| *after > prefix).unwrap_or(prefix);
        // No topic holds a byte as high as DEL, so this is past every topic with the prefix. Without a prefix, what is
        // stored and no topic is listed too, so that it is named.
        let past = if prefix.is_empty() { "\u{10ffff}".to_owned() } else { format!("{prefix}\u{7f}") };
        let sql = &self.database.sql;
        let rows = self
            .database
            .rows(|| query(&sql.topics).bind(from).bind(past.as_str()).bind(after).bind(most(limit.get())));
        let mut page = TopicPage::default();
        for (found, looked_at) in rows.await?.iter().zip(1..) {
            let name: &str = row::column(found, 0)?;
            if looked_at == limit.get() {
                page.next = Some(name.to_owned());
            }
            match row::topic(found, 0).and_then(|topic| Ok((topic, row::bounds(found, 1)?))) {
                Ok(topic) => page.topics.push(topic),
                Err(fault) => page.corrupt.push(CorruptTopic { name: name.to_owned(), error: fault.into() }),
            }
        }
        Ok(page)
    }

    pub(crate) async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Fault> {
        let sql = &self.database.sql;
        let rows =
            self.database.rows(|| query(&sql.document).bind(topic.as_str()).bind(key.as_str())).await?;
        Ok(updates(&rows, 0)?.pop())
    }

    pub(crate) async fn snapshot(
        &self,
        topic: &Topic,
        from: &SnapshotFrom,
        limit: ReadLimit,
    ) -> Result<Snapshot, Fault> {
        let after = match from {
            SnapshotFrom::Start => "",
            SnapshotFrom::After { key, .. } => key.as_str(),
        };
        let sql = &self.database.sql;
        let rows = self.database.rows(|| {
            query(&sql.documents)
                .bind(topic.as_str())
                .bind(after)
                .bind(most(limit.updates.get().saturating_add(1)))
                .bind(most(limit.bytes))
        });
        let rows = rows.await?;
        let bounds = self.bounds_in(&rows, topic)?;
        let at = match from {
            SnapshotFrom::Start => bounds.at_head(),
            SnapshotFrom::After { at, .. } => *at,
        };
        if let Err(stale) = bounds.admit(at) {
            return Ok(Snapshot::Stale(stale));
        }
        let (mut documents, mut bytes, mut complete) = (Vec::new(), 0, true);
        for document in updates(&rows, 3)? {
            if !limit.admits(documents.len(), bytes, document.size()) {
                complete = false;
                break;
            }
            bytes += document.size();
            documents.push(document);
        }
        Ok(Snapshot::Page(SnapshotPage { at, documents, complete, bounds }))
    }
}

/// The updates of these rows, whose first column of them is `at`.
fn updates(rows: &[PgRow], at: usize) -> Result<Vec<Update>, Fault> {
    rows.iter().filter_map(|found| row::update(found, at).transpose()).collect()
}

/// Handing on a log with a hole would be skipping silently.
fn without_hole(topic: &Topic, bounds: &Bounds, cursor: Cursor, updates: &[Update]) -> Result<(), Fault> {
    let mut end = cursor.watermark;
    for update in updates {
        if end.next() != Some(update.seq) {
            return Err(hole(topic, bounds, end));
        }
        end = update.seq.watermark();
    }
    // A page before the head is never empty.
    if updates.is_empty() && end < bounds.head { Err(hole(topic, bounds, end)) } else { Ok(()) }
}

fn hole(topic: &Topic, bounds: &Bounds, end: Watermark) -> Fault {
    Fault::corrupt(format!(
        "update {} of {topic} is missing between {} and {}",
        end.as_u64() + 1,
        bounds.floor,
        bounds.head
    ))
}

pub(crate) fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
