//! The rows of one page of the log, read with as little as each needs: what every update of the page would allocate for
//! itself is kept once for all of them.
//!
//! It reads the columns that [`row::update`] reads, and is as strict. What must stay true: every update is byte for byte
//! what its row says.

use std::sync::Arc;

use khala_core::{
    DocKey, Kind, Payload, Seq, Update,
    journal::ReadLimit,
    update::{PayloadHash, TraceContext},
};
use rusqlite::Row;

use crate::{
    fault::Fault,
    row::{self, optional, parsed, text_bytes},
};

/// Kinds of a page among which a row's kind is looked for; further ones are kept row by row.
const KINDS: usize = 8;
/// Payloads share allocations of about that size: not so large that the allocator would take each from the system, nor
/// that whoever keeps one update keeps much.
const SHARED: usize = 48 << 10;

#[derive(Debug)]
pub(crate) struct Rows {
    limit: ReadLimit,
    /// What they count against the limit.
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

impl Rows {
    /// None yet, and as many as `limit` admits.
    pub(crate) fn new(limit: ReadLimit) -> Self {
        Self {
            limit,
            bytes: 0,
            updates: Vec::new(),
            payloads: Vec::new(),
            ends: Vec::new(),
            nothing: Payload::null(),
            kinds: Vec::new(),
            trace: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.updates.len()
    }

    /// Takes in the row of `seq` if there is room for it.
    pub(crate) fn push(&mut self, row: &Row<'_>, seq: Seq) -> Result<bool, Fault> {
        let payload = text_bytes(row, 8)?;
        let kind = self.kind(text_bytes(row, 2)?)?;
        let doc_key = optional(row, 3)?.map(|text| parsed(DocKey::parse, text)).transpose()?;
        let key_bytes = doc_key.as_ref().map_or(0, |key| key.as_str().len());
        // As `Update::size` counts.
        let size = payload.len() + kind.as_str().len() + key_bytes;
        if !self.limit.admits(self.updates.len(), self.bytes, size) {
            return Ok(false);
        }
        // Where there is no key there is neither of these.
        let (doc_version, deleted) = match doc_key {
            Some(_) => (row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned), row.get(5)?),
            None => (None, false),
        };
        let trace = optional(row, 7)?.map(|text| self.trace(text)).transpose()?;
        self.updates.push(Update {
            seq,
            kind,
            payload: self.nothing.clone(),
            doc_key,
            doc_version,
            deleted,
            payload_hash: optional(row, 6)?.map(|text| parsed(PayloadHash::parse, text)).transpose()?,
            published_at: row::moment(row, 1)?,
            trace,
        });
        self.bytes += size;
        self.payloads.extend_from_slice(payload);
        self.ends.push(self.payloads.len());
        if self.payloads.len() >= SHARED {
            self.share()?;
        }
        Ok(true)
    }

    /// The updates.
    pub(crate) fn finish(mut self) -> Result<Vec<Update>, Fault> {
        self.share()?;
        Ok(self.updates)
    }

    /// Gives the last updates their payloads.
    fn share(&mut self) -> Result<(), Fault> {
        let no_text = || Fault::corrupt("a stored payload is not UTF-8");
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

    fn kind(&mut self, text: &[u8]) -> Result<Kind, Fault> {
        if let Some(kind) = self.kinds.iter().find(|kind| kind.as_str().as_bytes() == text) {
            return Ok(kind.clone());
        }
        let text = std::str::from_utf8(text).map_err(|_| Fault::corrupt("a stored kind is not UTF-8"))?;
        let kind = parsed(Kind::parse, text)?;
        if self.kinds.len() < KINDS {
            self.kinds.push(kind.clone());
        }
        Ok(kind)
    }

    fn trace(&mut self, text: &str) -> Result<TraceContext, Fault> {
        if let Some((_, trace)) = self.trace.as_ref().filter(|(same, _)| same == text) {
            return Ok(trace.clone());
        }
        let trace = row::trace_from(text)?;
        self.trace = Some((text.to_owned(), trace.clone()));
        Ok(trace)
    }
}

#[cfg(test)]
mod tests {
    use khala_core::{ErrorKind, Watermark};
    use rusqlite::Connection;

    use super::*;

    const COLUMNS: &str =
        "seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace, payload";

    /// What is read of rows of these values.
    fn read(values: &str) -> Result<Vec<Update>, Fault> {
        let conn = Connection::open_in_memory().unwrap();
        let mut select = conn
            .prepare(&format!("WITH row ({COLUMNS}) AS (VALUES {values}) SELECT {COLUMNS} FROM row"))
            .unwrap();
        let mut found = select.query([]).unwrap();
        let mut rows = Rows::new(ReadLimit::PAGE);
        let mut end = Watermark::ORIGIN;
        while let Some(row) = found.next().unwrap() {
            let seq = end.next().unwrap();
            assert!(rows.push(row, seq)?);
            end = seq.watermark();
        }
        rows.finish()
    }

    #[test]
    fn updates_are_what_their_rows_say() {
        let long = "x".repeat(SHARED);
        let trace = r#"'{"request_id":"r"}'"#;
        let updates = read(&format!(
            "(1, 7, 'a', NULL, NULL, 0, NULL, {trace}, '1'), (2, 7, 'b', 'k', 2, 1, NULL, {trace}, 'null'),
             (3, 8, 'a', NULL, NULL, 0, NULL, NULL, '\"{long}\"'), (4, 8, 'é', NULL, NULL, 0, NULL, NULL, '\"é\"')"
        ));
        let updates = updates.unwrap();
        let texts: Vec<_> = updates.iter().map(|update| update.payload.as_str().to_owned()).collect();
        assert_eq!(texts, ["1", "null", &format!("\"{long}\""), "\"é\""]);
        let kinds: Vec<_> = updates.iter().map(|update| update.kind.as_str()).collect();
        assert_eq!(kinds, ["a", "b", "a", "é"]);
        assert_eq!((updates[1].doc_version, updates[1].deleted, updates[0].deleted), (Some(2), true, false));
        assert_eq!(updates[0].trace, updates[1].trace);
        assert!(updates[0].trace.is_some() && updates[2].trace.is_none());
    }

    #[test]
    fn what_is_no_text_is_corrupt() {
        for row in [
            "(1, 7, 'k', NULL, NULL, 0, NULL, NULL, CAST(x'31ff' AS TEXT))",
            "(1, 7, CAST(x'31ff' AS TEXT), NULL, NULL, 0, NULL, NULL, '1')",
            "(1, 7, 'k', NULL, NULL, 0, NULL, NULL, 5)",
            // Together they would be one good character.
            "(1, 7, 'k', NULL, NULL, 0, NULL, NULL, CAST(x'c3' AS TEXT)),
             (2, 7, 'k', NULL, NULL, 0, NULL, NULL, CAST(x'a9' AS TEXT))",
        ] {
            let error = khala_core::Error::from(read(row).unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{row}");
        }
    }
}
