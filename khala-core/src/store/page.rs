//! A page of the log, made of a database's rows with as little as each needs: what every update of the page would allocate for
//! itself is kept once for all of them. For implementers of stores.
//!
//! It reads the columns that [`rows::update`] reads, and is as strict.
//!
//! # Invariants
//! - Every update is byte for byte what its row says.
//! - A page is dense: a row that does not follow the one before it is an error.

use std::sync::Arc;

use super::rows::{self, CorruptRow, Row, parsed};
use crate::{
    journal::ReadLimit,
    position::{Bounds, Watermark},
    topic::Topic,
    update::{Kind, Payload, TraceContext, Update},
};

/// Kinds of a page among which a row's kind is looked for; further ones are kept row by row.
const KINDS: usize = 8;
/// Payloads share allocations of about this size: not so large that the allocator would take each from the system, nor that a reader
/// that keeps one update keeps much.
const SHARED: usize = 48 << 10;

/// The updates of a page, as far as its rows were read.
#[derive(Debug)]
pub struct PageRows<'t> {
    topic: &'t Topic,
    bounds: Bounds,
    limit: ReadLimit,
    end: Watermark,
    /// What the updates count against the limit.
    bytes: usize,
    updates: Vec<Update>,
    /// The payloads of the last updates, one after the other, and where each ends.
    payloads: Vec<u8>,
    ends: Vec<usize>,
    /// What stands in those updates until then.
    nothing: Payload,
    kinds: Vec<Kind>,
    /// That of the row before: updates that were published together have the same.
    trace: Option<(String, TraceContext)>,
}

impl<'t> PageRows<'t> {
    /// A page of `topic` right after `after`, which is within those bounds.
    pub fn new(topic: &'t Topic, bounds: Bounds, after: Watermark, limit: ReadLimit) -> Self {
        Self {
            topic,
            bounds,
            limit,
            end: after,
            bytes: 0,
            updates: Vec::new(),
            payloads: Vec::new(),
            ends: Vec::new(),
            nothing: Payload::null(),
            kinds: Vec::new(),
            trace: None,
        }
    }

    /// Takes in a row whose nine columns begin at `at`, if there is room for it.
    ///
    /// # Errors
    /// The row says what no store has written, or is not the next one.
    pub fn push<R: Row>(&mut self, row: &R, at: usize) -> Result<bool, R::Fault> {
        let seq = rows::seq(row, at)?;
        // Handing on a log with a hole would be skipping silently.
        if self.end.next() != Some(seq) {
            return Err(self.hole().into());
        }
        let payload = row.text_bytes(at + 8)?;
        let kind = self.kind(row.text_bytes(at + 2)?)?;
        let doc_key = rows::doc_key(row, at + 3)?;
        let key_bytes = doc_key.as_ref().map_or(0, |key| key.as_str().len());
        // As `Update::size` counts.
        let size = payload.len() + kind.as_str().len() + key_bytes;
        if !self.limit.admits(self.updates.len(), self.bytes, size) {
            return Ok(false);
        }
        // Where there is no key there is neither of these.
        let (doc_version, deleted) = match doc_key {
            Some(_) => (row.optional_int(at + 4)?.map(i64::cast_unsigned), row.bool(at + 5)?),
            None => (None, false),
        };
        let trace = row.optional_text(at + 7)?.map(|text| self.trace(text)).transpose()?;
        self.updates.push(Update {
            seq,
            kind,
            payload: self.nothing.clone(),
            doc_key,
            doc_version,
            deleted,
            payload_hash: rows::payload_hash(row, at + 6)?,
            published_at: rows::moment(row, at + 1)?,
            trace,
        });
        self.bytes += size;
        self.end = seq.watermark();
        self.payloads.extend_from_slice(payload);
        self.ends.push(self.payloads.len());
        if self.payloads.len() >= SHARED {
            self.share()?;
        }
        Ok(true)
    }

    /// The updates, where rows were left or may be left in the database.
    ///
    /// # Errors
    /// The page is empty before the head (J4), or a payload is not UTF-8.
    pub fn finish(mut self) -> Result<Vec<Update>, CorruptRow> {
        if self.updates.is_empty() && self.end < self.bounds.head {
            return Err(self.hole());
        }
        self.share()?;
        Ok(self.updates)
    }

    /// The updates, where all rows were read that the limit on updates allows.
    ///
    /// # Errors
    /// The page ends before the head and has room for more, or a payload is not UTF-8.
    pub fn finish_read_out(self) -> Result<Vec<Update>, CorruptRow> {
        if self.end < self.bounds.head && self.updates.len() < self.limit.updates.get() {
            return Err(self.hole());
        }
        self.finish()
    }

    fn hole(&self) -> CorruptRow {
        let Bounds { floor, head, .. } = self.bounds;
        let seq = self.end.as_u64() + 1;
        CorruptRow::new(format!("update {seq} of {} is missing between {floor} and {head}", self.topic))
    }

    /// Gives the last updates their payloads.
    fn share(&mut self) -> Result<(), CorruptRow> {
        let no_text = || CorruptRow::new("a stored payload is not UTF-8");
        let text: Arc<str> = std::str::from_utf8(&self.payloads).map_err(|_| no_text())?.into();
        let (shared, mut start) = (self.updates.len() - self.ends.len(), 0);
        for (update, end) in self.updates[shared..].iter_mut().zip(self.ends.drain(..)) {
            // What is good as a whole may be cut within a character.
            if !text.is_char_boundary(end) {
                return Err(no_text());
            }
            update.payload = Payload::from_stored_within(&text, start..end);
            start = end;
        }
        self.payloads.clear();
        Ok(())
    }

    fn kind(&mut self, text: &[u8]) -> Result<Kind, CorruptRow> {
        if let Some(kind) = self.kinds.iter().find(|kind| kind.as_str().as_bytes() == text) {
            return Ok(kind.clone());
        }
        let text = std::str::from_utf8(text).map_err(|_| CorruptRow::new("a stored kind is not UTF-8"))?;
        let kind: Kind = parsed::<_, _, CorruptRow>(Kind::parse, text)?;
        if self.kinds.len() < KINDS {
            self.kinds.push(kind.clone());
        }
        Ok(kind)
    }

    fn trace(&mut self, text: &str) -> Result<TraceContext, CorruptRow> {
        if let Some((_, trace)) = self.trace.as_ref().filter(|(same, _)| same == text) {
            return Ok(trace.clone());
        }
        let trace: TraceContext = parsed::<_, _, CorruptRow>(|text| serde_json::from_str(text), text)?;
        self.trace = Some((text.to_owned(), trace.clone()));
        Ok(trace)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::{
        position::Epoch,
        store::rows::tests::{Fault, Value, Values, text},
    };

    fn row(seq: i64, kind: Value, trace: Value, payload: Value) -> Values {
        Values(vec![
            Value::Int(seq),
            Value::Int(7),
            kind,
            Value::Null,
            Value::Null,
            Value::Int(0),
            Value::Null,
            trace,
            payload,
        ])
    }

    fn read(rows: &[Values], head: u64) -> Result<Vec<Update>, Fault> {
        let topic = Topic::parse("t").unwrap();
        let head = Watermark::new(head).unwrap();
        let bounds = Bounds { epoch: Epoch::from_bits(1), floor: Watermark::ORIGIN, head };
        let mut page = PageRows::new(&topic, bounds, Watermark::ORIGIN, ReadLimit::PAGE);
        for row in rows {
            assert!(page.push(row, 0)?);
        }
        Ok(page.finish_read_out()?)
    }

    #[test]
    fn updates_are_what_their_rows_say() {
        let long = format!("\"{}\"", "x".repeat(SHARED));
        let trace = text(r#"{"request_id":"r"}"#);
        let mut with_key = row(2, text("b"), trace.clone(), text("null"));
        with_key.0[3..6].clone_from_slice(&[text("k"), Value::Int(2), Value::Int(1)]);
        let rows = [
            row(1, text("a"), trace, text("1")),
            with_key,
            row(3, text("a"), Value::Null, text(&long)),
            row(4, text("é"), Value::Null, text("\"é\"")),
        ];
        let updates = read(&rows, 4).unwrap();
        let texts: Vec<_> = updates.iter().map(|update| update.payload.as_str().to_owned()).collect();
        assert_eq!(texts, ["1", "null", &long, "\"é\""]);
        let kinds: Vec<_> = updates.iter().map(|update| update.kind.as_str()).collect();
        assert_eq!(kinds, ["a", "b", "a", "é"]);
        assert_eq!((updates[1].doc_version, updates[1].deleted, updates[0].deleted), (Some(2), true, false));
        assert_eq!(updates[0].trace, updates[1].trace);
        assert!(updates[0].trace.is_some() && updates[2].trace.is_none());
        for (row, update) in rows.iter().zip(&updates) {
            assert_eq!(rows::update(row, 0).unwrap(), *update);
        }
    }

    #[test]
    fn what_is_no_text_is_corrupt() {
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
        for rows in [
            vec![row(1, text("k"), Value::Null, bytes(b"1\xff"))],
            vec![row(1, bytes(b"1\xff"), Value::Null, text("1"))],
            // Together they would be one good character.
            vec![
                row(1, text("k"), Value::Null, bytes(b"\xc3")),
                row(2, text("k"), Value::Null, bytes(b"\xa9")),
            ],
        ] {
            let fault = read(&rows, rows.len() as u64).unwrap_err().0;
            assert!(fault.ends_with("is not UTF-8"), "{fault}");
        }
    }

    #[test]
    fn a_page_with_a_hole_is_corrupt() {
        let numbered = |seqs: &[i64]| -> Vec<_> {
            seqs.iter().map(|seq| row(*seq, text("k"), Value::Null, text("1"))).collect()
        };
        for (seqs, head, missing) in [(&[2][..], 2, 1), (&[1, 3], 3, 2), (&[1], 2, 2), (&[], 1, 1)] {
            let fault = read(&numbered(seqs), head).unwrap_err().0;
            assert_eq!(fault, format!("update {missing} of t is missing between 0 and {head}"));
        }
        // Where the database keeps rows back, only an empty page tells.
        let topic = Topic::parse("t").unwrap();
        let bounds =
            Bounds { epoch: Epoch::from_bits(1), floor: Watermark::ORIGIN, head: Watermark::new(9).unwrap() };
        let limit = ReadLimit::new(NonZeroUsize::MIN, 1);
        let mut page = PageRows::new(&topic, bounds, Watermark::ORIGIN, limit);
        let rows = numbered(&[1, 2]);
        assert!(page.push(&rows[0], 0).unwrap() && !page.push(&rows[1], 0).unwrap());
        assert_eq!(page.finish().unwrap().len(), 1);
        assert!(PageRows::new(&topic, bounds, Watermark::ORIGIN, limit).finish().is_err());
    }
}
