//! What readers ask, each question one statement and so of one moment (J5).

use std::num::NonZeroUsize;

use khala_core::{
    Bounds, DocKey, Epoch, Topic, Update, Watermark,
    documents::{Snapshot, SnapshotFrom, SnapshotPage},
    journal::{Page, ReadFrom, ReadLimit, Replay, TopicPage},
    store::{
        page::PageRows,
        rows::{self, Row as _, int},
    },
};
use sqlx::postgres::PgRow;

use crate::{database::Database, fault::Fault, row::StoredRow, sql::query};

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
        rows.first().map_or_else(untouched, |row| rows::bounds(&StoredRow(row), 0))
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
                .bind(rows::limit(limit.updates.get()))
                .bind(rows::limit(limit.bytes))
                .bind(epoch)
        });
        let rows = rows.await?;
        let bounds = self.bounds_in(&rows, topic)?;
        let cursor = start.cursor(&bounds);
        if let Err(stale) = bounds.admit(cursor) {
            return Ok(Replay::Stale(stale));
        }
        let mut updates = PageRows::new(topic, bounds, cursor.watermark, limit);
        for found in rows.iter().map(StoredRow) {
            // The bounds stand in a row of their own where nothing follows the cursor.
            if found.optional_int(3)?.is_none() || !updates.push(&found, 3)? {
                break;
            }
        }
        let updates = updates.finish()?;
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
        let (from, past) = rows::name_range(prefix, after);
        let sql = &self.database.sql;
        let rows = self.database.rows(|| {
            query(&sql.topics).bind(from).bind(past.as_str()).bind(after).bind(rows::limit(limit.get()))
        });
        let mut page = TopicPage::default();
        for (found, looked_at) in rows.await?.iter().zip(1..) {
            rows::push_topic(&mut page, &StoredRow(found), looked_at == limit.get())?;
        }
        Ok(page)
    }

    pub(crate) async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Fault> {
        let sql = &self.database.sql;
        let rows =
            self.database.rows(|| query(&sql.document).bind(topic.as_str()).bind(key.as_str())).await?;
        rows.first().map(|found| rows::update(&StoredRow(found), 0)).transpose()
    }

    pub(crate) async fn snapshot(
        &self,
        topic: &Topic,
        from: &SnapshotFrom,
        limit: ReadLimit,
    ) -> Result<Snapshot, Fault> {
        let sql = &self.database.sql;
        let rows = self.database.rows(|| {
            query(&sql.documents)
                .bind(topic.as_str())
                .bind(from.after())
                .bind(rows::limit(limit.updates.get().saturating_add(1)))
                .bind(rows::limit(limit.bytes))
        });
        let rows = rows.await?;
        let bounds = self.bounds_in(&rows, topic)?;
        let at = from.cursor(&bounds);
        if let Err(stale) = bounds.admit(at) {
            return Ok(Snapshot::Stale(stale));
        }
        // The bounds stand in a row of their own where there is no document.
        let documents = rows.iter().map(StoredRow).filter_map(|found| match found.optional_int(3) {
            Ok(seq) => seq.map(|_| rows::update(&found, 3)),
            Err(fault) => Some(Err(fault)),
        });
        Ok(Snapshot::Page(SnapshotPage::of(at, bounds, limit, documents)?))
    }
}
