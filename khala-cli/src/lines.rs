//! How updates and documents are printed: JSON lines for programs, readable lines for a person, indented, or payloads alone.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use clap::Args;
use khala_core::{Cursor, Topic, Update, wire::write_update};

use crate::{
    json::{self, Paint},
    moment::local,
    output,
};

const TIME: Style = Style::new().dimmed();
const KIND: Style = AnsiColor::Cyan.on_default().bold();
const KEY: Style = AnsiColor::Magenta.on_default();
const DELETED: Style = AnsiColor::Red.on_default();
/// Those of topics, in turn.
const TOPICS: [Style; 4] = [
    AnsiColor::Blue.on_default(),
    AnsiColor::Green.on_default(),
    AnsiColor::Yellow.on_default(),
    AnsiColor::Magenta.on_default(),
];

/// The options that say how.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Shape {
    /// JSON lines, on a terminal too
    #[arg(long)]
    json: bool,
    /// Readable lines with the payload indented below each
    #[arg(long)]
    pretty: bool,
    /// The payload alone, byte for byte, one a line
    #[arg(long)]
    raw: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Pretty,
    Raw,
    Readable,
}

/// Writes lines.
#[derive(Debug)]
pub(crate) struct Lines {
    format: Format,
    paint: Paint,
    /// The topics whose name goes before their lines: none where there is one topic.
    topics: Vec<Topic>,
}

impl Shape {
    /// How the lines of these topics are written.
    pub(crate) fn lines(self, topics: &[Topic]) -> Lines {
        let format = match self {
            Self { json: true, .. } => Format::Json,
            Self { pretty: true, .. } => Format::Pretty,
            Self { raw: true, .. } => Format::Raw,
            _ if output::wants_json(false) => Format::Json,
            _ => Format::Readable,
        };
        let topics = if topics.len() > 1 { topics.to_vec() } else { Vec::new() };
        Lines { format, paint: output::paint(), topics }
    }
}

impl Lines {
    /// Writes an update, with its line break.
    pub(crate) fn update(&self, out: &mut Vec<u8>, topic: &Topic, update: &Update) {
        match self.format {
            Format::Json => self.json(out, topic, |out| {
                write_in_line(out, |out| {
                    let mut object = Vec::new();
                    write_update(&mut object, update);
                    // The brace is there already.
                    out.extend_from_slice(&object[1..]);
                });
            }),
            _ => self.readable(out, topic, update),
        }
    }

    /// Writes a document of a snapshot, with its line break.
    pub(crate) fn document(&self, out: &mut Vec<u8>, topic: &Topic, at: Cursor, document: &Update) {
        match self.format {
            Format::Json => self.json(out, topic, |out| {
                head_of_snapshot(out, at);
                out.extend_from_slice(b"\"document\":");
                write_in_line(out, |out| write_update(out, document));
                out.extend_from_slice(b"}}");
            }),
            _ => self.readable(out, topic, document),
        }
    }

    /// Writes that a snapshot is complete, where that is data.
    pub(crate) fn snapshot_complete(&self, out: &mut Vec<u8>, topic: &Topic, at: Cursor) {
        if self.format == Format::Json {
            self.json(out, topic, |out| {
                head_of_snapshot(out, at);
                out.extend_from_slice(b"\"complete\":true}}");
            });
        }
    }

    /// An object, whose first member is the topic where there are several. `rest` writes what follows its opening brace.
    fn json(&self, out: &mut Vec<u8>, topic: &Topic, rest: impl FnOnce(&mut Vec<u8>)) {
        out.push(b'{');
        if !self.topics.is_empty() {
            // A topic's alphabet needs no escapes.
            write!(out, "\"topic\":\"{topic}\",").expect("a Vec takes every write");
        }
        rest(out);
        out.push(b'\n');
    }

    fn readable(&self, out: &mut Vec<u8>, topic: &Topic, update: &Update) {
        let payload = update.payload.as_str();
        if self.format == Format::Raw {
            write_in_line(out, |out| out.extend_from_slice(payload.as_bytes()));
            out.push(b'\n');
            return;
        }
        let paint = self.paint;
        if let Some(at) = self.topics.iter().position(|known| known == topic) {
            let width = self.topics.iter().map(|topic| topic.as_str().len()).max().unwrap_or_default();
            paint.write(out, TOPICS[at % TOPICS.len()], &format!("{:<width$}", topic.as_str()));
            out.extend_from_slice(b"  ");
        }
        paint.write(out, TIME, &local(update.published_at));
        write!(out, "  {}  ", update.seq).expect("a Vec takes every write");
        paint.write(out, KIND, update.kind.as_str());
        if let Some(key) = &update.doc_key {
            out.extend_from_slice(b"  ");
            paint.write(out, KEY, key.as_str());
        }
        if update.deleted {
            out.extend_from_slice(b"  ");
            paint.write(out, DELETED, "deleted");
        } else if self.format == Format::Pretty {
            out.push(b'\n');
            json::write_pretty(out, payload, 2, paint);
        } else {
            out.extend_from_slice(b"  ");
            json::write_line(out, payload, paint);
        }
        out.push(b'\n');
    }
}

fn head_of_snapshot(out: &mut Vec<u8>, at: Cursor) {
    let Cursor { epoch, watermark } = at;
    write!(out, "\"snapshot\":{{\"epoch\":\"{epoch}\",\"watermark\":{watermark},")
        .expect("a Vec takes every write");
}

/// Writes JSON without the line breaks that a payload in it may have. JSON has them between its tokens only: within a
/// text they are escaped.
fn write_in_line(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let Some(first) = out[start..].iter().position(is_break).map(|at| start + at) else { return };
    let mut end = first;
    for at in first..out.len() {
        if !is_break(&out[at]) {
            out[end] = out[at];
            end += 1;
        }
    }
    out.truncate(end);
}

#[cfg(test)]
mod tests {
    use khala_core::{Epoch, Seq, Timestamp, Watermark};

    use super::*;

    fn lines(format: Format, topics: &[Topic]) -> Lines {
        Lines { format, paint: Paint(false), topics: topics.to_vec() }
    }

    fn update() -> Update {
        let new = Update::json("paid", &7).unwrap().doc_key("order/7");
        let text = format!(
            "{{\"seq\":3,\"kind\":\"{}\",\"payload\":{{\"a\":\n[1]}},\"doc_key\":\"{}\",\"doc_version\":3,\"published_at\":0}}",
            new.kind,
            new.doc_key.unwrap()
        );
        serde_json::from_str::<khala_core::wire::WireUpdate>(&text).unwrap().into()
    }

    fn written(lines: &Lines, topic: &Topic) -> String {
        let mut out = Vec::new();
        lines.update(&mut out, topic, &update());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_format_shows_the_same_update() {
        let topics = ["orders:7", "orders:10"].map(|name| Topic::parse(name).unwrap());
        let (one, time) = (&topics[0], local(Timestamp::from_millis(0)));
        assert_eq!(update().seq, Seq::new(3).unwrap());
        let json = "{\"seq\":3,\"kind\":\"paid\",\"payload\":{\"a\":[1]},\"doc_key\":\"order/7\",\"doc_version\":3,\"published_at\":0}\n";
        assert_eq!(written(&lines(Format::Json, &[]), one), json);
        assert_eq!(
            written(&lines(Format::Json, &topics), one),
            format!("{{\"topic\":\"orders:7\",{}", &json[1..])
        );
        assert_eq!(written(&lines(Format::Raw, &topics), one), "{\"a\":[1]}\n");
        assert_eq!(
            written(&lines(Format::Readable, &[]), one),
            format!("{time}  3  paid  order/7  {{\"a\":[1]}}\n")
        );
        assert_eq!(
            written(&lines(Format::Readable, &topics), one),
            format!("orders:7   {time}  3  paid  order/7  {{\"a\":[1]}}\n")
        );
        assert_eq!(
            written(&lines(Format::Pretty, &[]), one),
            format!("{time}  3  paid  order/7\n  {{\n    \"a\": [\n      1\n    ]\n  }}\n")
        );
        let at = Cursor::new(Epoch::from_bits(1), Watermark::new(3).unwrap());
        let mut out = Vec::new();
        lines(Format::Json, &topics).snapshot_complete(&mut out, one, at);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"topic\":\"orders:7\",\"snapshot\":{\"epoch\":\"0000000000000001\",\"watermark\":3,\"complete\":true}}\n"
        );
    }
}
