//! What a payload may hold: JSON that every reader takes, and takes alike (I-JSON, RFC 7493).
//!
//! The grammar is not looked at here: serde_json has done so. This is one pass over the text, without a tree of it.
//!
//! # Invariants
//! - No text makes it panic, and its time grows with the text: by n log n in the names of one object.
//! - Names are compared as they are read, whatever escapes they are written with.

use std::borrow::Cow;

/// The deepest that arrays and objects may stand within each other.
pub(crate) const MAX_DEPTH: usize = 100;

/// Up to this number, the names of an object are compared one by one; more names are sorted when the object ends.
const FEW: usize = 16;

/// Why a payload was refused though it is JSON. `at` is a byte of the payload's text, from zero.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadFault {
    /// An object has two members of one name. Readers differ in which one they keep.
    #[error("has the name {name:?} twice in one object, at byte {at}")]
    DuplicateName {
        /// The name, or its beginning.
        name: String,
        /// Where it stands the second time.
        at: usize,
    },
    /// A string or name holds a code point that Unicode keeps for no character, such as U+FFFE.
    #[error("holds the noncharacter U+{code:04X}, at byte {at}")]
    Noncharacter {
        /// The code point.
        code: u32,
        /// Where it stands.
        at: usize,
    },
    /// A number is further from zero than an IEEE 754 double goes. Some readers take it for infinity, and some for a fault.
    #[error("holds a number that is out of the range of a double, at byte {at}")]
    NumberOutOfRange {
        /// Where it begins.
        at: usize,
    },
    /// More than 100 arrays and objects stand within each other.
    #[error("is nested more than {} levels deep, at byte {at}", MAX_DEPTH)]
    TooDeep {
        /// Where the first one too many begins.
        at: usize,
    },
    /// An escape names one half of a surrogate pair, and the other half does not stand beside it.
    #[error("holds an unpaired surrogate, at byte {at}")]
    UnpairedSurrogate {
        /// Where its escape begins.
        at: usize,
    },
}

impl PayloadFault {
    /// Its name for machines.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::DuplicateName { .. } => "duplicate_name",
            Self::Noncharacter { .. } => "noncharacter",
            Self::NumberOutOfRange { .. } => "number_out_of_range",
            Self::TooDeep { .. } => "too_deep",
            Self::UnpairedSurrogate { .. } => "unpaired_surrogate",
        }
    }

    /// The byte of the payload's text at which it stands, from zero.
    pub fn at(&self) -> usize {
        match self {
            Self::DuplicateName { at, .. }
            | Self::Noncharacter { at, .. }
            | Self::NumberOutOfRange { at }
            | Self::TooDeep { at }
            | Self::UnpairedSurrogate { at } => *at,
        }
    }
}

/// Checks payloads one after the other, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Checker<'a> {
    /// The names of the objects that are open, each with where it stands: those of the innermost at the end. Before those of
    /// each object stands an entry of its own, with where those of the object around it begin.
    names: Vec<(Cow<'a, str>, usize)>,
}

impl<'a> Checker<'a> {
    /// Finds the first fault of well-formed JSON.
    pub(crate) fn check(&mut self, json: &'a str) -> Result<(), PayloadFault> {
        self.names.clear();
        let bytes = json.as_bytes();
        // Where the names of the innermost object begin.
        let mut first = 0_usize;
        // One bit for each that is open, set for an object.
        let mut objects = 0_u128;
        let mut depth = 0_usize;
        // Whether a string that comes next is a name.
        let mut names_next = false;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    let (end, escaped) = string(json, at)?;
                    if names_next {
                        names_next = false;
                        self.name(json, at, end, escaped, first)?;
                    }
                    at = end;
                    continue;
                }
                b'{' | b'[' => {
                    if depth == MAX_DEPTH {
                        return Err(PayloadFault::TooDeep { at });
                    }
                    depth += 1;
                    names_next = *byte == b'{';
                    objects = objects << 1 | u128::from(names_next);
                    if names_next {
                        self.names.push((Cow::Borrowed(""), first));
                        first = self.names.len();
                    }
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if objects & 1 == 1 {
                        first = self.close(first)?;
                    }
                    objects >>= 1;
                    names_next = false;
                }
                b',' => names_next = objects & 1 == 1,
                b'-' | b'0'..=b'9' => {
                    at = number(json, at)?;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        Ok(())
    }

    /// Takes the name between the quotes at `start` and before `end`.
    fn name(
        &mut self,
        json: &'a str,
        start: usize,
        end: usize,
        escaped: bool,
        first: usize,
    ) -> Result<(), PayloadFault> {
        let raw = json.get(start + 1..end - 1).unwrap_or_default();
        let name = match escaped.then(|| json.get(start..end).map(serde_json::from_str::<String>)) {
            Some(Some(Ok(name))) => Cow::Owned(name),
            _ => Cow::Borrowed(raw),
        };
        let open = self.names.get(first..).unwrap_or_default();
        if open.len() < FEW && open.iter().any(|(other, _)| *other == name) {
            return Err(duplicate(&name, start));
        }
        self.names.push((name, start));
        Ok(())
    }

    /// Lets go of the names from `first` on, whose object ends. Gives where those of the object around it begin.
    fn close(&mut self, first: usize) -> Result<usize, PayloadFault> {
        if let Some(names) = self.names.get_mut(first..)
            && names.len() > FEW
        {
            // By length first, which tells most apart without a look at them.
            names.sort_unstable_by(|(one, at), (other, its)| {
                (one.len(), one, at).cmp(&(other.len(), other, its))
            });
            let twice = names.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| &pair[1]);
            if let Some((name, at)) = twice.min_by_key(|(_, at)| *at) {
                return Err(duplicate(name, *at));
            }
        }
        self.names.truncate(first);
        Ok(self.names.pop().map_or(0, |(_, around)| around))
    }
}

fn duplicate(name: &str, at: usize) -> PayloadFault {
    PayloadFault::DuplicateName { name: name.chars().take(64).collect(), at }
}

/// Where the number that begins at `start` ends.
fn number(json: &str, start: usize) -> Result<usize, PayloadFault> {
    let rest = json.as_bytes().get(start..).unwrap_or_default();
    let (mut length, mut exponent) = (0, false);
    while let Some(byte @ (b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) = rest.get(length) {
        exponent |= matches!(byte, b'e' | b'E');
        length += 1;
    }
    // 10^308 has 309 digits and is in range.
    if exponent || length > 308 {
        let parsed = json.get(start..start + length).map(str::parse::<f64>);
        if !matches!(parsed, Some(Ok(number)) if number.is_finite()) {
            return Err(PayloadFault::NumberOutOfRange { at: start });
        }
    }
    Ok(start + length)
}

/// Where the string that begins with the quote at `start` ends, behind its other quote, and whether it has escapes.
fn string(json: &str, start: usize) -> Result<(usize, bool), PayloadFault> {
    let bytes = json.as_bytes();
    let (mut at, mut escaped) = (start + 1, false);
    loop {
        at += plain(bytes.get(at..).unwrap_or_default());
        match bytes.get(at) {
            // Well-formed text closes each string.
            None => return Ok((at.max(start + 2), escaped)),
            Some(b'"') => return Ok((at + 1, escaped)),
            Some(b'\\') => {
                escaped = true;
                at = if bytes.get(at + 1) == Some(&b'u') { escape(bytes, at)? } else { at + 2 };
            }
            // Of the characters, only those of three bytes that begin with EF and those of four can be none.
            Some(0xef | 0xf0..) => {
                let Some(found) = json.get(at..).and_then(|rest| rest.chars().next()) else {
                    at += 1;
                    continue;
                };
                character(u32::from(found), at)?;
                at += found.len_utf8();
            }
            Some(_) => {
                let rest = bytes.get(at..).unwrap_or_default();
                at += rest.iter().take_while(|byte| matches!(byte, 0x80..=0xee)).count().max(1);
            }
        }
    }
}

/// How many bytes of ASCII follow that neither end a string nor escape anything. It looks at eight at a time.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // The lowest bit that is set is right; a higher one may be so only for what stands below it.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at = 0;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let quote = zeros(word ^ u64::from_ne_bytes([b'"'; 8]));
        let backslash = zeros(word ^ u64::from_ne_bytes([b'\\'; 8]));
        let found = (quote | backslash | word) & HIGH;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0x80..)).count()
}

/// Where the escape `\u` that begins at `at` ends, with the second half of a pair.
fn escape(bytes: &[u8], at: usize) -> Result<usize, PayloadFault> {
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    };
    let Some(first) = unit(at) else { return Ok(at + 2) };
    match (first, unit(at + 6)) {
        (0xd800..=0xdbff, Some(second @ 0xdc00..=0xdfff)) => {
            character(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00), at)?;
            Ok(at + 12)
        }
        (0xd800..=0xdfff, _) => Err(PayloadFault::UnpairedSurrogate { at }),
        _ => {
            character(first, at)?;
            Ok(at + 6)
        }
    }
}

/// Whether the code point is of a character.
fn character(code: u32, at: usize) -> Result<(), PayloadFault> {
    if code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code) {
        return Err(PayloadFault::Noncharacter { code, at });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Payload, PayloadHash};

    fn check(json: &str) -> Result<(), PayloadFault> {
        Checker::default().check(json)
    }

    fn fault(json: &str) -> (&'static str, usize) {
        let fault = check(json).expect_err(json);
        (fault.as_str(), fault.at())
    }

    #[test]
    fn what_readers_differ_about_is_refused() {
        for (json, expected) in [
            (r#""\ud800""#, ("unpaired_surrogate", 1)),
            (r#""x\udc00""#, ("unpaired_surrogate", 2)),
            (r#""\ud800\ud800\udc00""#, ("unpaired_surrogate", 1)),
            (r#""\\\uDBFF\\udc00""#, ("unpaired_surrogate", 3)),
            (r#"{"\ud800":1}"#, ("unpaired_surrogate", 2)),
            (r#""\ufffe""#, ("noncharacter", 1)),
            (r#""\uFDD0""#, ("noncharacter", 1)),
            ("\"é\u{fdef}\"", ("noncharacter", 3)),
            ("\"\u{ffff}\"", ("noncharacter", 1)),
            ("[\"12345678\u{1fffe}\"]", ("noncharacter", 10)),
            (r#"{"a":"\ud83f\udfff"}"#, ("noncharacter", 6)),
            ("1e400", ("number_out_of_range", 0)),
            ("[-1E+309]", ("number_out_of_range", 1)),
            ("1.7976931348623159e308", ("number_out_of_range", 0)),
            (r#"{"a":1,"a":2}"#, ("duplicate_name", 7)),
            (r#"{"a":1,"\u0061":2}"#, ("duplicate_name", 7)),
            (r#"{"/":1,"b":{},"\/":2}"#, ("duplicate_name", 14)),
            (r#"{"":1,"":2}"#, ("duplicate_name", 6)),
            (r#"[{"a":{"b":1,"c":[{"b":1}],"b":1}}]"#, ("duplicate_name", 27)),
            ("{\"a\" : [1,2] ,\n \"a\" : 1}", ("duplicate_name", 16)),
        ] {
            assert_eq!(fault(json), expected, "{json}");
            assert!(serde_json::from_str::<&serde_json::value::RawValue>(json).is_ok(), "{json} is JSON");
        }
        assert_eq!(fault(&format!("1{}", "0".repeat(309))), ("number_out_of_range", 0));
    }

    #[test]
    fn what_all_readers_take_is_taken_and_has_a_hash() {
        let digits = format!("-1{}", "0".repeat(308));
        for json in [
            "null",
            r#""""#,
            "-0",
            "1.7976931348623157e308",
            "1e-400",
            "12345678901234567890",
            &digits,
            r#"{"a":"a","b":["a","a"],"c":{"a":{"a":1},"b":1}}"#,
            r#"[{"a":1},{"a":1}]"#,
            r#"{"a":",\"a\":","A":1}"#,
            r#""\ud83d\ude00\u0000\\ud800\/\"""#,
            "\"é😀\u{fffd}\u{fdcf}\u{fdf0}\u{2028}\u{feff}\"",
            r#"{"\u00e9":1,"e":"[[[[{{{{"}"#,
        ] {
            assert_eq!(check(json), Ok(()), "{json}");
            assert!(PayloadHash::of(&Payload::parse(json).unwrap()).is_some(), "{json}");
        }
    }

    #[test]
    fn depth_counts_what_stands_within_each_other() {
        let nested =
            |open: &str, close: &str, times: usize| format!("{}1{}", open.repeat(times), close.repeat(times));
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":1,"b":"#, "}]")] {
            let levels = open.matches(['[', '{']).count();
            let json = nested(open, close, MAX_DEPTH / levels);
            assert_eq!(check(&json), Ok(()), "{open}");
            assert!(PayloadHash::of(&Payload::parse(&json).unwrap()).is_some());
            let json = nested(open, close, MAX_DEPTH / levels + 1);
            assert_eq!(fault(&json), ("too_deep", open.len() * (MAX_DEPTH / levels)), "{open}");
        }
        assert_eq!(check(&format!("\"{}\"", "[".repeat(1000))), Ok(()));
    }

    #[test]
    fn many_names_are_compared_too() {
        for count in [FEW - 1, FEW, FEW + 1, 1000] {
            let names: Vec<_> = (0..count).map(|n| format!("\"n{n}\":{{\"x\":{n}}}")).collect();
            assert_eq!(check(&format!("{{{}}}", names.join(","))), Ok(()), "{count}");
            for twice in [0, count / 2, count - 1] {
                let json = format!("{{{},\"\\u006e{twice}\":0,\"z\":1}}", names.join(","));
                let at = json.rfind("\"\\u").unwrap();
                assert_eq!(fault(&json), ("duplicate_name", at), "{count}: {twice}");
            }
        }
    }

    #[test]
    fn strings_end_where_serde_json_ends_them() {
        // Each length and place, so that each way through the eight bytes is gone.
        for length in 0..24 {
            for at in 0..=length {
                for odd in ["", "\\\"", "é", "\\\\", "\u{7f}", "!#[]"] {
                    let text = format!("{}{odd}{}", "x".repeat(at), "y".repeat(length - at));
                    assert_eq!(check(&format!("{{\"{text}\":\"{text}\"}}")), Ok(()), "{text}");
                    assert!(check(&format!("[\"{text}\",{{\"{text}\":1,\"{text}\":2}}]")).is_err(), "{text}");
                }
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        for json in [
            "}",
            "]]]",
            "\"",
            "{\"",
            "\"\\",
            "\"\\u",
            "\"\\u12",
            "\"\\ud800\\u",
            "{\"a",
            "-",
            "1e",
            ",\"",
            "é",
        ] {
            let _ = check(json);
        }
    }
}
