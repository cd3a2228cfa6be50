//! Rows, as the words of the core and back.
//!
//! What a row says is checked as it is read: a row that the store cannot have written is an error and never skipped
//! silently. A page of history fails with it, for history has no holes; a list of what is apart names it and goes on. Only
//! the payload is taken as it stands, because it was checked when it came in.

use std::fmt::Display;

use khala_core::{
    Bounds, Cursor, DocKey, Epoch, Error, Kind, Payload, Receipt, Seq, Timestamp, Topic, Update, Watermark,
    auth::{Revocation, RevocationId, RevocationTarget},
    node::NodeId,
    projection::{Checkpoint, Entity},
    retention::SweepRecord,
    update::{PayloadHash, TraceContext},
};
use sqlx::{Decode, Postgres, Row as _, Type, postgres::PgRow};

use crate::fault::Fault;

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
    let (id, bytes): (i64, i64) = (column(row, at)?, column(row, at + 4)?);
    let bytes = u64::try_from(bytes)
        .map_err(|_| Fault::corrupt(format!("the topic {topic} is said to hold {bytes} bytes")))?;
    Ok(TopicRow { id, bounds: bounds(row, at + 1)?, bytes })
}

/// Epoch, floor and head from three columns, the first of which is `at`.
pub(crate) fn bounds(row: &PgRow, at: usize) -> Result<Bounds, Fault> {
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

pub(crate) fn epoch(row: &PgRow, at: usize) -> Result<Epoch, Fault> {
    Ok(Epoch::from_bits(column::<i64>(row, at)?.cast_unsigned()))
}

pub(crate) fn watermark(row: &PgRow, at: usize) -> Result<Watermark, Fault> {
    let number: i64 = column(row, at)?;
    Watermark::new(number.cast_unsigned())
        .ok_or_else(|| Fault::corrupt(format!("{number} is not a watermark")))
}

pub(crate) fn seq(row: &PgRow, at: usize) -> Result<Seq, Fault> {
    let number: i64 = column(row, at)?;
    Seq::new(number.cast_unsigned()).ok_or_else(|| Fault::corrupt(format!("{number} is not a seq")))
}

pub(crate) fn moment(row: &PgRow, at: usize) -> Result<Timestamp, Fault> {
    Ok(Timestamp::from_millis(column::<i64>(row, at)?.cast_unsigned()))
}

pub(crate) fn topic(row: &PgRow, at: usize) -> Result<Topic, Fault> {
    parsed(Topic::parse, column(row, at)?)
}

/// A receipt from three columns, the first of which is `at`.
pub(crate) fn receipt(row: &PgRow, at: usize) -> Result<Receipt, Fault> {
    Ok(Receipt { epoch: epoch(row, at)?, first: seq(row, at + 1)?, last: seq(row, at + 2)? })
}

/// An update or a document from nine columns, the first of which is `at`; none where that is NULL.
pub(crate) fn update(row: &PgRow, at: usize) -> Result<Option<Update>, Fault> {
    if column::<Option<i64>>(row, at)?.is_none() {
        return Ok(None);
    }
    let doc_key: Option<&str> = column(row, at + 3)?;
    let hash: Option<&str> = column(row, at + 6)?;
    let trace: Option<&str> = column(row, at + 7)?;
    Ok(Some(Update {
        seq: seq(row, at)?,
        published_at: moment(row, at + 1)?,
        kind: parsed(Kind::parse, column(row, at + 2)?)?,
        doc_key: doc_key.map(|text| parsed(DocKey::parse, text)).transpose()?,
        doc_version: column::<Option<i64>>(row, at + 4)?.map(i64::cast_unsigned),
        deleted: column(row, at + 5)?,
        payload_hash: hash.map(|text| parsed(PayloadHash::parse, text)).transpose()?,
        trace: trace
            .map(|text| parsed(|text| serde_json::from_str::<TraceContext>(text), text))
            .transpose()?,
        payload: Payload::from_stored(column::<&str>(row, at + 8)?),
    }))
}

/// What a revocation names: watermark, by, id.
pub(crate) fn target(row: &PgRow) -> Result<RevocationTarget, Fault> {
    let id = parsed(RevocationId::parse, column(row, 2)?)?;
    match column(row, 1)? {
        "jti" => Ok(RevocationTarget::Jti(id)),
        "sid" => Ok(RevocationTarget::Sid(id)),
        "sub" => Ok(RevocationTarget::Sub(id)),
        other => Err(Fault::corrupt(format!("a stored revocation is by '{other}'"))),
    }
}

/// A revocation: watermark, by, id, at, until.
pub(crate) fn revocation(row: &PgRow) -> Result<(Watermark, Revocation), Fault> {
    let revocation = Revocation::new(target(row)?, moment(row, 3)?);
    let revocation = match column::<Option<i64>>(row, 4)? {
        Some(until) => revocation.with_until(Timestamp::from_millis(until.cast_unsigned())),
        None => revocation,
    };
    Ok((watermark(row, 0)?, revocation))
}

/// A checkpoint from four columns, the first of which is `at`.
pub(crate) fn checkpoint(row: &PgRow, at: usize) -> Result<Checkpoint, Fault> {
    let version: i64 = column(row, at + 2)?;
    Ok(Checkpoint {
        source: Cursor::new(epoch(row, at)?, watermark(row, at + 1)?),
        version: u32::try_from(version).map_err(|_| Fault::corrupt("a checkpoint's version is none"))?,
        summary_hash: parsed(PayloadHash::parse, column(row, at + 3)?)?,
    })
}

pub(crate) fn entity(text: &str) -> Result<Entity, Fault> {
    parsed(Entity::parse, text)
}

pub(crate) fn node(text: &str) -> Result<NodeId, Fault> {
    parsed(NodeId::parse, text)
}

/// Says of a row that it cannot be read and was passed over: `what` it is, as an operator finds it.
pub(crate) fn passed_over(what: &str, fault: Fault) {
    let error = Error::from(fault);
    tracing::error!(row = what, %error, "a stored row cannot be read; the others are");
}

/// The record of a sweep.
pub(crate) fn sweep(row: &PgRow) -> Result<SweepRecord, Fault> {
    parsed(|text| serde_json::from_str(text), column(row, 0)?)
}

/// A number as PostgreSQL holds it: the signed one with the same bits.
pub(crate) fn int(number: u64) -> i64 {
    number.cast_signed()
}

pub(crate) fn column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    at: usize,
) -> Result<T, Fault> {
    Ok(row.try_get(at)?)
}

fn parsed<T, E: Display>(parse: impl FnOnce(&str) -> Result<T, E>, text: &str) -> Result<T, Fault> {
    parse(text).map_err(|fault| Fault::corrupt(format!("a stored {fault}")))
}
