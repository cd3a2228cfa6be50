//! Standard input, line by line, made into updates: each good line is one, each bad one says what is wrong with it.

use std::{borrow::Cow, collections::HashMap, io};

use khala_core::{
    Batch, DocKey, Kind, NewUpdate, Payload, TextError, journal::BatchError, text::without_byte_order_mark,
};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// The longest line: far more than any server takes as one payload, and bounded.
const MAX_LINE: usize = 16 << 20;

/// How many characters around a fault are shown.
const PIECE: usize = 20;

/// How lines become updates.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The kind of those that do not say it themselves.
    pub(crate) kind: Kind,
    /// The field of a line that says its kind.
    pub(crate) kind_field: Option<String>,
    /// The field of a line that says its document.
    pub(crate) doc_key_field: Option<String>,
}

/// A line that is not blank.
#[derive(Debug)]
pub(crate) struct Line {
    /// From one.
    pub(crate) number: u64,
    /// With its end.
    pub(crate) bytes: u64,
    /// The update that it is, or what is wrong with it.
    pub(crate) update: Result<NewUpdate, String>,
}

/// Reads lines.
#[derive(Debug)]
pub(crate) struct Input<R> {
    reader: R,
    shape: Shape,
    number: u64,
    /// The part of a line that has come.
    partial: Vec<u8>,
    /// How long the line is, whatever of it was kept.
    length: u64,
}

impl<R: AsyncBufRead + Unpin> Input<R> {
    pub(crate) fn new(reader: R, shape: Shape) -> Self {
        Self { reader, shape, number: 0, partial: Vec::new(), length: 0 }
    }

    /// The next line that is not blank; none at the end. Cancel safe: what has come of a line stays.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            let (taken, whole) = match chunk.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (chunk.len(), chunk.is_empty()),
            };
            if taken == 0 && self.length == 0 {
                return Ok(None);
            }
            self.length += taken as u64;
            // Of a line that is too long, no more is kept than it takes to see that it is.
            let room = (MAX_LINE + 1).saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&chunk[..taken.min(room)]);
            self.reader.consume(taken);
            if whole && let Some(line) = self.finish() {
                return Ok(Some(line));
            }
        }
    }

    fn finish(&mut self) -> Option<Line> {
        self.number += 1;
        let bytes = std::mem::take(&mut self.length);
        let text = std::mem::take(&mut self.partial);
        let update = if text.len() > MAX_LINE {
            Err(format!("is {bytes} bytes long, and the most is {MAX_LINE} ({} MiB)", MAX_LINE >> 20))
        } else {
            // A byte order mark stands before the first line only.
            let text = if self.number == 1 { without_byte_order_mark(&text) } else { &text };
            self.shape.update(text).and_then(checked).transpose()?
        };
        Some(Line { number: self.number, bytes, update })
    }
}

/// Holds an update to the rules of a batch now, while its line is known: later it would take its whole batch along.
fn checked(update: Option<NewUpdate>) -> Result<Option<NewUpdate>, String> {
    if let Some(update) = &update {
        Batch::new(vec![update.clone()]).map_err(|fault| match fault {
            BatchError::Payload { fault, .. } => fault.to_string(),
            fault => format!("makes no update: {fault}"),
        })?;
    }
    Ok(update)
}

impl Shape {
    /// The update that a line is; none if it is blank.
    pub(crate) fn update(&self, line: &[u8]) -> Result<Option<NewUpdate>, String> {
        let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let payload = Payload::parse(text).map_err(|fault| explain(text, &fault))?;
        if self.kind_field.is_none() && self.doc_key_field.is_none() {
            return Ok(Some(NewUpdate::new(self.kind.clone(), payload)));
        }
        let fields: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text)
            .map_err(|_| "is not a JSON object, and so has no fields".to_owned())?;
        let kind = match &self.kind_field {
            None => self.kind.clone(),
            Some(name) => {
                let kind: String = text_of(&fields, name, false)?;
                Kind::parse(&kind)
                    .map_err(|fault| format!("has a field {name:?} that is no kind: {fault}"))?
            }
        };
        let mut update = NewUpdate::new(kind, payload);
        if let Some(name) = &self.doc_key_field {
            let key = text_of(&fields, name, true)?;
            let key = DocKey::parse(&key)
                .map_err(|fault| format!("has a field {name:?} that is no document key: {fault}"))?;
            update = update.doc_key(key);
        }
        Ok(Some(update))
    }
}

/// What keeps a text from being a payload, with the piece of it where the fault is.
fn explain(text: &str, fault: &TextError) -> String {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => format!("is refused: its {fault}"),
        Err(fault) => {
            let line = text.lines().nth(fault.line().saturating_sub(1)).unwrap_or_default();
            let at = line.floor_char_boundary(fault.column().saturating_sub(1 + PIECE / 2));
            let piece: String = line[at..].chars().take(PIECE).collect();
            let fault = fault.to_string().replace(" at line 1 column", " at column");
            format!("is not JSON near {piece:?}: {fault}")
        }
    }
}

fn text_of(fields: &HashMap<Cow<'_, str>, &RawValue>, name: &str, numbers: bool) -> Result<String, String> {
    let value = fields.get(name).ok_or_else(|| format!("has no field {name:?}"))?.get();
    if numbers && value.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        return Ok(value.to_owned());
    }
    let wanted = if numbers { "neither text nor a number" } else { "not text" };
    serde_json::from_str(value).map_err(|_| format!("has a field {name:?} that is {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(kind_field: Option<&str>, doc_key_field: Option<&str>) -> Shape {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Shape {
            kind: Kind::parse("update").unwrap(),
            kind_field: own(kind_field),
            doc_key_field: own(doc_key_field),
        }
    }

    async fn read(text: &[u8], shape: Shape) -> Vec<(u64, Result<String, String>)> {
        // One byte at a time, so that every line comes in parts.
        let mut input = Input::new(tokio::io::BufReader::with_capacity(1, text), shape);
        let mut lines = Vec::new();
        while let Some(line) = input.next().await.unwrap() {
            let shown = line.update.map(|update| {
                let key = update.doc_key.map(|key| format!(" {key}")).unwrap_or_default();
                format!("{}{key} {}", update.kind, update.payload.as_str())
            });
            lines.push((line.number, shown));
        }
        lines
    }

    #[tokio::test]
    async fn lines_keep_their_numbers_and_payloads_their_bytes() {
        let lines = read(b"{ \"a\" : 1.0e0 }\r\n\n  \n7", shape(None, None)).await;
        assert_eq!(lines, [(1, Ok("update { \"a\" : 1.0e0 }".to_owned())), (4, Ok("update 7".to_owned()))]);
        assert!(read(b"", shape(None, None)).await.is_empty());
    }

    #[tokio::test]
    async fn bad_lines_say_what_is_wrong() {
        let lines = read(b"{\n\xff\n1 2\n", shape(None, None)).await;
        let faults: Vec<_> = lines.into_iter().map(|(number, line)| (number, line.unwrap_err())).collect();
        assert_eq!(faults[0].0, 1);
        assert_eq!(faults[0].1, "is not JSON near \"{\": EOF while parsing an object at column 1");
        assert_eq!(faults[1], (2, "is not UTF-8".to_owned()));
        assert_eq!(faults[2].0, 3);
        let shown = |text: &str| shape(None, None).update(text.as_bytes()).unwrap_err();
        assert_eq!(shown("nope"), "is not JSON near \"nope\": expected ident at column 2");
        let long = format!("[\"{}\", é, 1]", "é".repeat(300));
        assert!(shown(&long).starts_with("is not JSON near \"éééé\\\", é, 1]\": "), "{}", shown(&long));
    }

    #[tokio::test]
    async fn fields_give_kind_and_document() {
        let text = br#"{"type":"moved","id":7,"x":1}
{"type":"moved","id":"a\"b"}
{"id":1}
{"type":1,"id":1}
{"type":"t","id":null}
[1]"#;
        let lines = read(text, shape(Some("type"), Some("id"))).await;
        assert_eq!(lines[0].1, Ok(r#"moved 7 {"type":"moved","id":7,"x":1}"#.to_owned()));
        assert_eq!(lines[1].1, Ok(r#"moved a"b {"type":"moved","id":"a\"b"}"#.to_owned()));
        let faults: Vec<_> = lines[2..].iter().map(|(_, line)| line.clone().unwrap_err()).collect();
        assert_eq!(
            faults,
            [
                "has no field \"type\"",
                "has a field \"type\" that is not text",
                "has a field \"id\" that is neither text nor a number",
                "is not a JSON object, and so has no fields",
            ]
        );
    }
}
