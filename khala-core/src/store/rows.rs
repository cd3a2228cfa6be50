//! What the rows of a database say, as the words of the core. For implementers of stores.
//!
//! A store implements [`Row`] for a row of its driver and keeps its SQL; what the columns mean, and which of their values no store
//! has written, is said here once.
//!
//! # Invariants
//! - A value that a store cannot have written is an error, never skipped silently. A page of history fails with it, because a
//!   history has no holes; a list of topics or revocations names it and goes on.
//! - A payload is taken as it stands, because it was checked when it was appended.

#![expect(
    clippy::missing_errors_doc,
    reason = "each fails where its columns say what no store has written, as the head of the file says"
)]

use std::{fmt::Display, time::Duration};

use crate::{
    auth::{CorruptRevocation, Revocation, RevocationId, RevocationPage, RevocationTarget},
    error::Error,
    journal::{CorruptTopic, DueAfter, DuePage, Receipt, TopicPage},
    node::NodeId,
    position::{Bounds, Cursor, Epoch, Seq, Watermark},
    projection::{Checkpoint, Entity},
    retention::SweepRecord,
    topic::Topic,
    update::{DocKey, Kind, Payload, PayloadHash, Timestamp, Update},
};

/// What is stored and cannot be true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
#[non_exhaustive]
pub struct CorruptRow(String);

impl CorruptRow {
    /// With what is wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// One row of a driver's answer, read column by column. The first column is 0.
///
/// The methods fail where the column holds another kind of value.
pub trait Row {
    /// What a store fails with inside.
    type Fault: From<CorruptRow> + Into<Error>;

    /// A number.
    fn int(&self, at: usize) -> Result<i64, Self::Fault>;

    /// A number, if there is one.
    fn optional_int(&self, at: usize) -> Result<Option<i64>, Self::Fault>;

    /// A truth value.
    fn bool(&self, at: usize) -> Result<bool, Self::Fault>;

    /// A text.
    fn text(&self, at: usize) -> Result<&str, Self::Fault>;

    /// A text, if there is one.
    fn optional_text(&self, at: usize) -> Result<Option<&str>, Self::Fault>;

    /// A text that is still to be checked for being UTF-8, where the driver can give one.
    fn text_bytes(&self, at: usize) -> Result<&[u8], Self::Fault>;

    /// What a column of text holds, whatever that is, to name a row that cannot be read.
    fn told(&self, at: usize) -> Result<String, Self::Fault>;
}

/// A number as a database holds it: the signed number with the same bits.
pub fn int(number: u64) -> i64 {
    number.cast_signed()
}

/// A limit as a database takes it.
pub fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A moment that a database orders: a moment past the largest signed number is that number.
pub fn ordered_moment(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

/// An age that a database adds to a moment, in milliseconds.
pub fn age(age: Duration) -> i64 {
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX / 2)
}

/// The names that a list of topics begins at and ends before.
pub fn name_range<'n>(prefix: &'n str, after: Option<&'n str>) -> (&'n str, String) {
    let from = after.filter(|after| *after > prefix).unwrap_or(prefix);
    // No topic holds a byte as high as DEL, so this is past every topic with the prefix. Without a prefix, what is stored and is no
    // topic is listed too, so that it is named.
    let past = if prefix.is_empty() { "\u{10ffff}".to_owned() } else { format!("{prefix}\u{7f}") };
    (from, past)
}

/// An epoch.
pub fn epoch<R: Row>(row: &R, at: usize) -> Result<Epoch, R::Fault> {
    Ok(Epoch::from_bits(row.int(at)?.cast_unsigned()))
}

/// A watermark.
pub fn watermark<R: Row>(row: &R, at: usize) -> Result<Watermark, R::Fault> {
    let number = row.int(at)?;
    let watermark = Watermark::new(number.cast_unsigned());
    watermark.ok_or_else(|| CorruptRow(format!("{number} is not a watermark")).into())
}

/// A seq.
pub fn seq<R: Row>(row: &R, at: usize) -> Result<Seq, R::Fault> {
    let number = row.int(at)?;
    Seq::new(number.cast_unsigned()).ok_or_else(|| CorruptRow(format!("{number} is not a seq")).into())
}

/// A moment, whose milliseconds are unsigned.
pub fn moment<R: Row>(row: &R, at: usize) -> Result<Timestamp, R::Fault> {
    Ok(Timestamp::from_millis(row.int(at)?.cast_unsigned()))
}

/// A topic's name.
pub fn topic<R: Row>(row: &R, at: usize) -> Result<Topic, R::Fault> {
    parsed(Topic::parse, row.text(at)?)
}

/// The entity of a checkpoint.
pub fn entity<R: Row>(row: &R, at: usize) -> Result<Entity, R::Fault> {
    parsed(Entity::parse, row.text(at)?)
}

/// A node.
pub fn node<R: Row>(row: &R, at: usize) -> Result<NodeId, R::Fault> {
    parsed(NodeId::parse, row.text(at)?)
}

/// What the updates of `whose` count: of a topic together, or of one update.
pub fn bytes<R: Row>(row: &R, at: usize, whose: &impl Display) -> Result<u64, R::Fault> {
    let bytes = row.int(at)?;
    u64::try_from(bytes).map_err(|_| CorruptRow(format!("{whose} is said to hold {bytes} bytes")).into())
}

/// Epoch, floor and head, from three columns.
pub fn bounds<R: Row>(row: &R, at: usize) -> Result<Bounds, R::Fault> {
    let (floor, head) = (watermark(row, at + 1)?, watermark(row, at + 2)?);
    if floor > head {
        return Err(CorruptRow(format!("a topic's floor {floor} is past its head {head}")).into());
    }
    Ok(Bounds { epoch: epoch(row, at)?, floor, head })
}

/// Epoch, first and last seq, from three columns.
pub fn receipt<R: Row>(row: &R, at: usize) -> Result<Receipt, R::Fault> {
    Ok(Receipt { epoch: epoch(row, at)?, first: seq(row, at + 1)?, last: seq(row, at + 2)? })
}

/// An update or a document, from nine columns: seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace,
/// payload.
pub fn update<R: Row>(row: &R, at: usize) -> Result<Update, R::Fault> {
    let trace = row.optional_text(at + 7)?;
    Ok(Update {
        seq: seq(row, at)?,
        published_at: moment(row, at + 1)?,
        kind: parsed(Kind::parse, row.text(at + 2)?)?,
        doc_key: doc_key(row, at + 3)?,
        doc_version: row.optional_int(at + 4)?.map(i64::cast_unsigned),
        deleted: row.bool(at + 5)?,
        payload_hash: payload_hash(row, at + 6)?,
        trace: trace.map(|text| parsed(|text| serde_json::from_str(text), text)).transpose()?,
        payload: Payload::from_stored(row.text(at + 8)?),
    })
}

pub(crate) fn doc_key<R: Row>(row: &R, at: usize) -> Result<Option<DocKey>, R::Fault> {
    row.optional_text(at)?.map(|text| parsed(DocKey::parse, text)).transpose()
}

pub(crate) fn payload_hash<R: Row>(row: &R, at: usize) -> Result<Option<PayloadHash>, R::Fault> {
    row.optional_text(at)?.map(|text| parsed(PayloadHash::parse, text)).transpose()
}

/// A checkpoint, from four columns: epoch and watermark of its source, version, summary hash.
pub fn checkpoint<R: Row>(row: &R, at: usize) -> Result<Checkpoint, R::Fault> {
    let version = row.int(at + 2)?;
    Ok(Checkpoint {
        source: Cursor::new(epoch(row, at)?, watermark(row, at + 1)?),
        version: u32::try_from(version)
            .map_err(|_| CorruptRow(format!("{version} is not the version of a projection")))?,
        summary_hash: parsed(PayloadHash::parse, row.text(at + 3)?)?,
    })
}

/// The record of a sweep, from its text.
pub fn sweep_record<R: Row>(row: &R, at: usize) -> Result<SweepRecord, R::Fault> {
    parsed(|text| serde_json::from_str(text), row.text(at)?)
}

/// A revocation, from five columns: watermark, what it names, its id, at, until.
pub fn revocation<R: Row>(row: &R) -> Result<(Watermark, Revocation), R::Fault> {
    let mut revocation = Revocation::new(target(row)?, moment(row, 3)?);
    revocation.until = row.optional_int(4)?.map(|until| Timestamp::from_millis(until.cast_unsigned()));
    Ok((watermark(row, 0)?, revocation))
}

fn target<R: Row>(row: &R) -> Result<RevocationTarget, R::Fault> {
    let id = parsed(RevocationId::parse, row.text(2)?)?;
    match row.text(1)? {
        "jti" => Ok(RevocationTarget::Jti(id)),
        "sid" => Ok(RevocationTarget::Sid(id)),
        "sub" => Ok(RevocationTarget::Sub(id)),
        other => Err(CorruptRow(format!("a stored revocation is by '{other}'")).into()),
    }
}

/// Adds a row to a page of revocations: the revocation, or the name of a row that cannot be read.
///
/// # Errors
/// That the row's watermark cannot be read.
pub fn push_revocation<R: Row>(page: &mut RevocationPage, row: &R) -> Result<(), R::Fault> {
    let number = row.int(0)?;
    // A number past the largest watermark comes last: nothing is read after it.
    page.next = Watermark::new(number.cast_unsigned()).or(page.next);
    match revocation(row) {
        Ok(one) => page.revocations.push(one),
        Err(fault) => page.corrupt.push(CorruptRevocation {
            row: format!("watermark {number}"),
            target: target(row).ok(),
            error: fault.into(),
        }),
    }
    Ok(())
}

/// What is kept of a new revocation in the place of `older`, a row about the same target (R4).
pub fn merged_revocation<F: Into<Error>>(
    mut made: Revocation,
    older: Option<Result<(Watermark, Revocation), F>>,
) -> Revocation {
    match older {
        Some(Ok((_, older))) => made.merged_with(&older),
        Some(Err(fault)) => {
            passed_over("a revocation that another takes the place of", fault);
            // How long the older revocation had to be kept is not known.
            made.until = None;
            made
        }
        None => made,
    }
}

/// Adds a row of name, epoch, floor and head to a page of topics, as the last row of the page or not.
///
/// # Errors
/// That the row's name cannot be told.
pub fn push_topic<R: Row>(page: &mut TopicPage, row: &R, is_last: bool) -> Result<(), R::Fault> {
    if is_last {
        page.next = Some(row.told(0)?);
    }
    match topic_with_bounds(row) {
        Ok(topic) => page.topics.push(topic),
        Err(fault) => page.corrupt.push(CorruptTopic { name: row.told(0)?, error: fault.into() }),
    }
    Ok(())
}

/// Adds the same row, due at `at`, to a page of topics that are due.
///
/// # Errors
/// That the row's name cannot be told.
pub fn push_due<R: Row>(page: &mut DuePage, row: &R, at: i64, is_last: bool) -> Result<(), R::Fault> {
    let at = Timestamp::from_millis(at.max(0).cast_unsigned());
    if is_last {
        page.next = Some(DueAfter { at, name: row.told(0)? });
    }
    match topic_with_bounds(row) {
        Ok((topic, bounds)) => page.topics.push((at, topic, bounds)),
        Err(fault) => page.corrupt.push(CorruptTopic { name: row.told(0)?, error: fault.into() }),
    }
    Ok(())
}

/// A topic and its bounds, from four columns.
pub fn topic_with_bounds<R: Row>(row: &R) -> Result<(Topic, Bounds), R::Fault> {
    Ok((topic(row, 0)?, bounds(row, 1)?))
}

/// Logs that a row cannot be read and was passed over. `what` names the row as an operator finds it.
pub fn passed_over(what: &str, fault: impl Into<Error>) {
    let error = fault.into();
    tracing::error!(row = what, %error, "a stored row cannot be read; the others are");
}

/// What a text says.
pub(crate) fn parsed<T, E: Display, F: From<CorruptRow>>(
    parse: impl FnOnce(&str) -> Result<T, E>,
    text: &str,
) -> Result<T, F> {
    parse(text).map_err(|fault| CorruptRow(format!("a stored {fault}")).into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A value of a column.
    #[derive(Clone, Debug)]
    pub(crate) enum Value {
        Bytes(Vec<u8>),
        Int(i64),
        Null,
        Text(String),
    }

    #[derive(Debug)]
    pub(crate) struct Fault(pub(crate) String);

    impl From<CorruptRow> for Fault {
        fn from(row: CorruptRow) -> Self {
            Self(row.to_string())
        }
    }

    impl From<Fault> for Error {
        fn from(fault: Fault) -> Self {
            Self::new(ErrorKind::Corrupt, "test", fault.0)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Values(pub(crate) Vec<Value>);

    impl Row for Values {
        type Fault = Fault;

        fn int(&self, at: usize) -> Result<i64, Fault> {
            self.optional_int(at)?.ok_or_else(|| Fault("no number".to_owned()))
        }

        fn optional_int(&self, at: usize) -> Result<Option<i64>, Fault> {
            match self.0[at] {
                Value::Int(number) => Ok(Some(number)),
                Value::Null => Ok(None),
                _ => Err(Fault("no number".to_owned())),
            }
        }

        fn bool(&self, at: usize) -> Result<bool, Fault> {
            Ok(self.int(at)? != 0)
        }

        fn text(&self, at: usize) -> Result<&str, Fault> {
            self.optional_text(at)?.ok_or_else(|| Fault("no text".to_owned()))
        }

        fn optional_text(&self, at: usize) -> Result<Option<&str>, Fault> {
            match &self.0[at] {
                Value::Text(text) => Ok(Some(text)),
                Value::Null => Ok(None),
                _ => Err(Fault("no text".to_owned())),
            }
        }

        fn text_bytes(&self, at: usize) -> Result<&[u8], Fault> {
            match &self.0[at] {
                Value::Bytes(bytes) => Ok(bytes),
                Value::Text(text) => Ok(text.as_bytes()),
                _ => Err(Fault("no text".to_owned())),
            }
        }

        fn told(&self, at: usize) -> Result<String, Fault> {
            Ok(String::from_utf8_lossy(self.text_bytes(at)?).into_owned())
        }
    }

    pub(crate) fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn what_no_store_writes_is_named() {
        let row = |values: &[Value]| Values(values.to_vec());
        let topic = [text("t"), Value::Int(1), Value::Int(2), Value::Int(9)];
        let (good, bounds) = topic_with_bounds(&row(&topic)).unwrap();
        assert_eq!((good.as_str(), bounds.floor.as_u64(), bounds.head.as_u64()), ("t", 2, 9));
        for (at, value, fault) in [
            (0, text("bad:"), "a stored topic"),
            (2, Value::Int(10), "a topic's floor 10 is past its head 9"),
            (3, Value::Int(-1), "-1 is not a watermark"),
        ] {
            let mut bad = topic.to_vec();
            bad[at] = value;
            let found = topic_with_bounds(&row(&bad)).unwrap_err().0;
            assert!(found.starts_with(fault), "{found}");
            let (mut topics, mut due) = (TopicPage::default(), DuePage::default());
            push_topic(&mut topics, &row(&bad), true).unwrap();
            push_due(&mut due, &row(&bad), -5, true).unwrap();
            let name = row(&bad).told(0).unwrap();
            assert_eq!((&topics.corrupt[0].name, topics.next), (&name, Some(name.clone())));
            assert_eq!(due.next, Some(DueAfter { at: Timestamp::default(), name }));
        }
        assert_eq!(
            bytes(&row(&[Value::Int(-1)]), 0, &"the topic t").unwrap_err().0,
            "the topic t is said to hold -1 bytes"
        );
        assert_eq!(seq(&row(&[Value::Int(0)]), 0).unwrap_err().0, "0 is not a seq");
    }

    #[test]
    fn a_revocation_that_cannot_be_read_is_named_and_what_takes_its_place_is_kept_for_good() {
        let values =
            |by: &str, until| Values(vec![Value::Int(7), text(by), text("ada"), Value::Int(1), until]);
        let mut page = RevocationPage::default();
        for row in [values("sub", Value::Int(-1)), values("mac", Value::Null), values("sub", text("later"))] {
            push_revocation(&mut page, &row).unwrap();
        }
        let (at, kept) = &page.revocations[0];
        assert_eq!((at.as_u64(), kept.until), (7, Some(Timestamp::from_millis(u64::MAX))));
        let named: Vec<_> = page.corrupt.iter().map(|one| (one.row.as_str(), one.target.clone())).collect();
        assert_eq!(named, [("watermark 7", None), ("watermark 7", Some(kept.target.clone()))]);
        let unread = revocation(&values("sub", text("later")));
        assert_eq!(merged_revocation(kept.clone(), Some(unread)).until, None);
    }

    #[test]
    fn a_list_begins_and_ends_at_the_names_of_its_prefix() {
        assert_eq!(name_range("", None), ("", "\u{10ffff}".to_owned()));
        assert_eq!(name_range("run:", Some("a")), ("run:", "run:\u{7f}".to_owned()));
        assert_eq!(name_range("run:", Some("run:7")).0, "run:7");
    }
}
