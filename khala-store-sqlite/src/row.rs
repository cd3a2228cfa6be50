//! Rows, as the words of the core and back.
//!
//! What a row says is checked as it is read: a row that the store cannot have written is an error and never skipped
//! silently. A page of history fails with it, for history has no holes; a list of what is apart names it and goes on. Only the payload is taken as it stands, because it was checked when it came in.

use std::fmt::Display;

use khala_core::{
    Bounds, Cursor, DocKey, Epoch, Error, Kind, Payload, Seq, Timestamp, Topic, Update, Watermark,
    auth::{Revocation, RevocationId, RevocationTarget},
    node::NodeId,
    projection::{Checkpoint, Entity},
    retention::{Lease, SweepRecord},
    update::{PayloadHash, TraceContext},
};
use rusqlite::{OptionalExtension, Row, Statement, types::ValueRef};

use crate::fault::Fault;

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
        let row = statement.query_row([topic.as_str()], |row| Ok(Self::from_row(row, topic))).optional()?;
        row.transpose()
    }

    fn from_row(row: &Row<'_>, topic: &Topic) -> Result<Self, Fault> {
        let (bounds, bytes): (_, i64) = (bounds(row, 1)?, row.get(4)?);
        let bytes = u64::try_from(bytes)
            .map_err(|_| Fault::corrupt(format!("the topic {topic} is said to hold {bytes} bytes")))?;
        Ok(Self { id: row.get(0)?, bounds, bytes, put_off: row.get::<_, Option<i64>>(5)? != Some(0) })
    }
}

/// Epoch, floor and head from three columns, the first of which is `at`.
pub(crate) fn bounds(row: &Row<'_>, at: usize) -> Result<Bounds, Fault> {
    let bounds =
        Bounds { epoch: epoch(row, at)?, floor: watermark(row, at + 1)?, head: watermark(row, at + 2)? };
    if bounds.floor > bounds.head {
        return Err(Fault::corrupt(format!(
            "a topic's floor {} is past its head {}",
            bounds.floor, bounds.head
        )));
    }
    Ok(bounds)
}

pub(crate) fn epoch(row: &Row<'_>, at: usize) -> Result<Epoch, Fault> {
    Ok(Epoch::from_bits(row.get::<_, i64>(at)?.cast_unsigned()))
}

pub(crate) fn watermark(row: &Row<'_>, at: usize) -> Result<Watermark, Fault> {
    let number: i64 = row.get(at)?;
    Watermark::new(number.cast_unsigned())
        .ok_or_else(|| Fault::corrupt(format!("{number} is not a watermark")))
}

pub(crate) fn seq(row: &Row<'_>, at: usize) -> Result<Seq, Fault> {
    let number: i64 = row.get(at)?;
    Seq::new(number.cast_unsigned()).ok_or_else(|| Fault::corrupt(format!("{number} is not a seq")))
}

pub(crate) fn moment(row: &Row<'_>, at: usize) -> Result<Timestamp, Fault> {
    Ok(Timestamp::from_millis(row.get::<_, i64>(at)?.cast_unsigned()))
}

pub(crate) fn topic(row: &Row<'_>, at: usize) -> Result<Topic, Fault> {
    parsed(Topic::parse, text(row, at)?)
}

/// A document. The columns are those of [`sql::PAGE`](crate::sql::PAGE).
pub(crate) fn update(row: &Row<'_>) -> Result<Update, Fault> {
    let doc_key = optional(row, 3)?.map(|text| parsed(DocKey::parse, text)).transpose()?;
    Ok(Update {
        seq: seq(row, 0)?,
        published_at: moment(row, 1)?,
        kind: parsed(Kind::parse, text(row, 2)?)?,
        doc_key,
        doc_version: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
        deleted: row.get(5)?,
        payload_hash: optional(row, 6)?.map(|text| parsed(PayloadHash::parse, text)).transpose()?,
        trace: optional(row, 7)?.map(trace_from).transpose()?,
        payload: Payload::from_stored(text(row, 8)?),
    })
}

/// What a revocation names. The columns are those of [`sql::REVOCATIONS`](crate::sql::REVOCATIONS).
pub(crate) fn target(row: &Row<'_>) -> Result<RevocationTarget, Fault> {
    let id = parsed(RevocationId::parse, text(row, 2)?)?;
    match text(row, 1)? {
        "jti" => Ok(RevocationTarget::Jti(id)),
        "sid" => Ok(RevocationTarget::Sid(id)),
        "sub" => Ok(RevocationTarget::Sub(id)),
        other => Err(Fault::corrupt(format!("a stored revocation is by '{other}'"))),
    }
}

/// A revocation. The columns are those of [`sql::REVOCATIONS`](crate::sql::REVOCATIONS).
pub(crate) fn revocation(row: &Row<'_>) -> Result<(Watermark, Revocation), Fault> {
    let revocation = Revocation::new(target(row)?, moment(row, 3)?);
    let revocation = match row.get::<_, Option<i64>>(4)? {
        Some(until) => revocation.with_until(Timestamp::from_millis(until.cast_unsigned())),
        None => revocation,
    };
    Ok((watermark(row, 0)?, revocation))
}

/// Who leads. The columns are those of [`sql::LEADER`](crate::sql::LEADER).
pub(crate) fn leader(row: &Row<'_>) -> Result<Lease, Fault> {
    Ok(Lease::HeldBy { node: parsed(NodeId::parse, text(row, 0)?)?, until: moment(row, 1)? })
}

/// Says of a row that it cannot be read and was passed over: `what` it is, as an operator finds it.
pub(crate) fn passed_over(what: &str, fault: Fault) {
    let error = Error::from(fault);
    tracing::error!(row = what, %error, "a stored row cannot be read; the others are");
}

/// The record of a sweep.
pub(crate) fn sweep(row: &Row<'_>) -> Result<SweepRecord, Fault> {
    parsed(|text| serde_json::from_str(text), text(row, 0)?)
}

pub(crate) fn entity(row: &Row<'_>, at: usize) -> Result<Entity, Fault> {
    parsed(Entity::parse, text(row, at)?)
}

/// A checkpoint from four columns, the first of which is `at`: those of [`sql::CHECKPOINT`](crate::sql::CHECKPOINT).
pub(crate) fn checkpoint(row: &Row<'_>, at: usize) -> Result<Checkpoint, Fault> {
    Ok(Checkpoint {
        source: Cursor::new(epoch(row, at)?, watermark(row, at + 1)?),
        version: row.get(at + 2)?,
        summary_hash: parsed(PayloadHash::parse, text(row, at + 3)?)?,
    })
}

/// A number as SQLite holds it: the signed one with the same bits.
pub(crate) fn int(number: u64) -> i64 {
    number.cast_signed()
}

pub(crate) fn trace_text(trace: &TraceContext) -> Result<String, Fault> {
    serde_json::to_string(trace).map_err(|fault| rusqlite::Error::ToSqlConversionFailure(fault.into()).into())
}

pub(crate) fn trace_from(text: &str) -> Result<TraceContext, Fault> {
    parsed(|text| serde_json::from_str(text), text)
}

fn text<'r>(row: &'r Row<'_>, at: usize) -> Result<&'r str, Fault> {
    row.get_ref(at)?.as_str().map_err(|fault| Fault::corrupt(format!("column {at} of a row: {fault}")))
}

/// A text that is still to be checked for being UTF-8.
pub(crate) fn text_bytes<'r>(row: &'r Row<'_>, at: usize) -> Result<&'r [u8], Fault> {
    match row.get_ref(at)? {
        ValueRef::Text(text) => Ok(text),
        other => Err(Fault::corrupt(format!("column {at} of a row is {} and no text", other.data_type()))),
    }
}

/// What a column of text holds, whatever that is, to be told.
pub(crate) fn told(row: &Row<'_>, at: usize) -> Result<String, Fault> {
    Ok(match row.get_ref(at)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => other.data_type().to_string(),
    })
}

pub(crate) fn optional<'r>(row: &'r Row<'_>, at: usize) -> Result<Option<&'r str>, Fault> {
    row.get_ref(at)?
        .as_str_or_null()
        .map_err(|fault| Fault::corrupt(format!("column {at} of a row: {fault}")))
}

pub(crate) fn parsed<T, E: Display>(
    parse: impl FnOnce(&str) -> Result<T, E>,
    text: &str,
) -> Result<T, Fault> {
    parse(text).map_err(|fault| Fault::corrupt(format!("a stored {fault}")))
}
