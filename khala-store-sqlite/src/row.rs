//! SQLite's rows, read by the core's rules ([`rows`]), and the row of a topic.

use std::fmt::Display;

use khala_core::{
    Bounds, Topic,
    store::rows::{self, CorruptRow, Row as _},
    update::TraceContext,
};
use rusqlite::{OptionalExtension, Row, Statement, types::ValueRef};

use crate::fault::Fault;

/// A row of SQLite's.
pub(crate) struct StoredRow<'r, 'c>(pub(crate) &'r Row<'c>);

impl rows::Row for StoredRow<'_, '_> {
    type Fault = Fault;

    fn int(&self, at: usize) -> Result<i64, Fault> {
        Ok(self.0.get(at)?)
    }

    fn optional_int(&self, at: usize) -> Result<Option<i64>, Fault> {
        Ok(self.0.get(at)?)
    }

    fn bool(&self, at: usize) -> Result<bool, Fault> {
        Ok(self.0.get(at)?)
    }

    fn text(&self, at: usize) -> Result<&str, Fault> {
        Ok(self.0.get_ref(at)?.as_str().map_err(|fault| wrong(at, fault))?)
    }

    fn optional_text(&self, at: usize) -> Result<Option<&str>, Fault> {
        Ok(self.0.get_ref(at)?.as_str_or_null().map_err(|fault| wrong(at, fault))?)
    }

    fn text_bytes(&self, at: usize) -> Result<&[u8], Fault> {
        match self.0.get_ref(at)? {
            ValueRef::Text(text) => Ok(text),
            other => Err(wrong(at, format_args!("it is {} and no text", other.data_type())).into()),
        }
    }

    fn told(&self, at: usize) -> Result<String, Fault> {
        Ok(match self.0.get_ref(at)? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => other.data_type().to_string(),
        })
    }
}

fn wrong(at: usize, fault: impl Display) -> CorruptRow {
    CorruptRow::new(format!("column {at} of a row: {fault}"))
}

/// A topic's row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicRow {
    pub(crate) id: i64,
    pub(crate) bounds: Bounds,
    /// What the updates that are kept count, together.
    pub(crate) bytes: u64,
    /// Whether it was put off, and is not due.
    pub(crate) put_off: bool,
}

impl TopicRow {
    /// The row of `topic`; none while it is untouched. The statement is [`sql::TOPIC`](crate::sql::TOPIC).
    pub(crate) fn read(statement: &mut Statement<'_>, topic: &Topic) -> Result<Option<Self>, Fault> {
        let read = |row: &Row<'_>| {
            let row = StoredRow(row);
            Ok(Self {
                id: row.int(0)?,
                bounds: rows::bounds(&row, 1)?,
                bytes: rows::bytes(&row, 4, &format_args!("the topic {topic}"))?,
                put_off: row.optional_int(5)? != Some(0),
            })
        };
        statement.query_row([topic.as_str()], |row| Ok(read(row))).optional()?.transpose()
    }
}

pub(crate) fn trace_text(trace: &TraceContext) -> Result<String, Fault> {
    serde_json::to_string(trace).map_err(|fault| rusqlite::Error::ToSqlConversionFailure(fault.into()).into())
}
