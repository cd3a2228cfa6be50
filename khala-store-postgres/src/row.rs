//! PostgreSQL's rows, read by the core's rules ([`rows`]), and the row of a topic.

use khala_core::{
    Bounds,
    store::rows::{self, Row as _},
};
use sqlx::{Decode, Postgres, Row as _, Type, postgres::PgRow};

use crate::fault::Fault;

/// A row of PostgreSQL's.
pub(crate) struct StoredRow<'r>(pub(crate) &'r PgRow);

impl rows::Row for StoredRow<'_> {
    type Fault = Fault;

    fn int(&self, at: usize) -> Result<i64, Fault> {
        column(self.0, at)
    }

    fn optional_int(&self, at: usize) -> Result<Option<i64>, Fault> {
        column(self.0, at)
    }

    fn bool(&self, at: usize) -> Result<bool, Fault> {
        column(self.0, at)
    }

    fn text(&self, at: usize) -> Result<&str, Fault> {
        column(self.0, at)
    }

    fn optional_text(&self, at: usize) -> Result<Option<&str>, Fault> {
        column(self.0, at)
    }

    fn text_bytes(&self, at: usize) -> Result<&[u8], Fault> {
        Ok(self.text(at)?.as_bytes())
    }

    fn told(&self, at: usize) -> Result<String, Fault> {
        column(self.0, at)
    }
}

/// A topic's row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicRow {
    pub(crate) id: i64,
    pub(crate) bounds: Bounds,
    /// What the updates that are kept count, together.
    pub(crate) bytes: u64,
}

/// A topic's row from five columns, the first of which is `at`: id, epoch, floor, head, bytes.
pub(crate) fn topic_row(row: &PgRow, at: usize, topic: &str) -> Result<TopicRow, Fault> {
    let row = StoredRow(row);
    Ok(TopicRow {
        id: row.int(at)?,
        bounds: rows::bounds(&row, at + 1)?,
        bytes: rows::bytes(&row, at + 4, &format_args!("the topic {topic}"))?,
    })
}

/// A value of a type that the core does not read.
pub(crate) fn column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    at: usize,
) -> Result<T, Fault> {
    Ok(row.try_get(at)?)
}
