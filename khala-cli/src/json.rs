//! JSON as a person reads it: coloured, and indented. The text is taken apart, and not made anew: every number and every string stays
//! as it was published.
//!
//! # Invariants
//! What is written is the same JSON value. It holds no control character, so it cannot command a terminal.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};

/// How names of members, texts, and the rest are painted.
const NAME: Style = AnsiColor::Blue.on_default().bold();
const TEXT: Style = AnsiColor::Green.on_default();
const OTHER: Style = AnsiColor::Yellow.on_default();

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    /// Writes a text in a style.
    pub(crate) fn write(self, out: &mut Vec<u8>, style: Style, text: &str) {
        let written = match self.0 {
            true => write!(out, "{style}{text}{style:#}"),
            false => write!(out, "{text}"),
        };
        written.expect("a Vec takes every write");
    }
}

/// Writes JSON in one line: spaces stay, line breaks between its parts are left out.
pub(crate) fn write_line(out: &mut Vec<u8>, json: &str, paint: Paint) {
    for part in Parts(json) {
        match part {
            Part::Space(space) => out.extend(space.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r'))),
            Part::Mark(mark) => out.push(mark),
            Part::Value { text, style } => write_value(out, text, style, paint),
        }
    }
}

/// Writes JSON over several lines, each after a margin.
pub(crate) fn write_pretty(out: &mut Vec<u8>, json: &str, margin: usize, paint: Paint) {
    let mut depth = 0;
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + margin + 2 * depth, b' ');
    };
    out.resize(out.len() + margin, b' ');
    let mut parts = Parts(json).filter(|part| !matches!(part, Part::Space(_))).peekable();
    while let Some(part) = parts.next() {
        match part {
            Part::Space(_) => {}
            Part::Value { text, style } => write_value(out, text, style, paint),
            Part::Mark(open @ (b'{' | b'[')) => {
                out.push(open);
                if let Some(Part::Mark(close @ (b'}' | b']'))) = parts.peek() {
                    out.push(*close);
                    parts.next();
                } else {
                    depth += 1;
                    line(out, depth);
                }
            }
            Part::Mark(close @ (b'}' | b']')) => {
                depth = depth.saturating_sub(1);
                line(out, depth);
                out.push(close);
            }
            Part::Mark(b',') => {
                out.push(b',');
                line(out, depth);
            }
            Part::Mark(mark) => out.extend([mark, b' ']),
        }
    }
}

fn write_value(out: &mut Vec<u8>, text: &str, style: Style, paint: Paint) {
    if !text.contains(char::is_control) {
        return paint.write(out, style, text);
    }
    // JSON lets some through; within a string they may be escaped as well, and stand nowhere else.
    let escape = |c: char| match c.is_control() {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    paint.write(out, style, &text.chars().map(escape).collect::<String>());
}

/// A part of a JSON text.
enum Part<'a> {
    /// A brace, a bracket, a colon or a comma.
    Mark(u8),
    Space(&'a str),
    /// A string, a number, or a word.
    Value {
        text: &'a str,
        style: Style,
    },
}

/// The parts of a text that is JSON, in order; together they are the text.
struct Parts<'a>(&'a str);

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let is_mark = |byte: &u8| matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b',');
        let bytes = self.0.as_bytes();
        let first = bytes.first()?;
        if is_mark(first) {
            self.0 = &self.0[1..];
            return Some(Part::Mark(*first));
        }
        let until = |is_end: &dyn Fn(&u8) -> bool| bytes.iter().position(is_end).unwrap_or(bytes.len());
        if is_space(first) {
            let (space, rest) = self.0.split_at(until(&|byte| !is_space(byte)));
            self.0 = rest;
            return Some(Part::Space(space));
        }
        let end = match first {
            b'"' => end_of_string(bytes),
            _ => until(&|byte| is_mark(byte) || is_space(byte) || *byte == b'"').max(1),
        };
        let (text, rest) = self.0.split_at(end);
        self.0 = rest;
        let style = match first {
            b'"' if rest.trim_start().starts_with(':') => NAME,
            b'"' => TEXT,
            _ => OTHER,
        };
        Some(Part::Value { text, style })
    }
}

/// Where the string at the start ends.
fn end_of_string(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(json: &str, paint: bool) -> String {
        let mut out = Vec::new();
        write_line(&mut out, json, Paint(paint));
        String::from_utf8(out).unwrap()
    }

    fn pretty(json: &str) -> String {
        let mut out = Vec::new();
        write_pretty(&mut out, json, 2, Paint(false));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_is_indented_and_stays_what_it_was() {
        let json = "{ \"a\" : [1.0e0,\r\n {}, [ ] ],\"b\\\"\":\"x: {\\\\\",\"n\":null}";
        assert_eq!(line(json, false), json.replace("\r\n", ""));
        assert_eq!(
            pretty(json),
            "  {\n    \"a\": [\n      1.0e0,\n      {},\n      []\n    ],\n    \"b\\\"\": \"x: {\\\\\",\n    \"n\": null\n  }"
        );
        assert_eq!(pretty("7"), "  7");
        let painted = line("{\"a\":[\"b\",true]}", true);
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), "{\"a\":[\"b\",true]}");
        assert!(painted.contains("\u{1b}["), "{painted}");
    }

    #[test]
    fn it_commands_no_terminal() {
        let json = "\"a\u{9b}31m\u{7f}\"";
        assert_eq!(line(json, false), "\"a\\u009b31m\\u007f\"");
    }

    proptest! {
        #[test]
        fn it_is_the_same_value(text in "[\\PC\\x7f-\\x9f\"\\\\]{0,12}", number: f64, depth in 0usize..4) {
            let mut value = serde_json::json!({"t": text, "n": number, &*text: [text, null, {}]});
            for _ in 0..depth {
                value = serde_json::json!([value, {"x": value}]);
            }
            let json = value.to_string();
            for shown in [line(&json, false), pretty(&json), pretty(&serde_json::to_string_pretty(&value).unwrap())] {
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&shown).unwrap(), &value);
            }
        }
    }
}
