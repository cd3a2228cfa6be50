//! The mark in each payload: when it was due, and which update of its topic it is. Found in whatever a socket gives.
//!
//! A mark has no quote and no backslash, so it stands as it is in every framing and in JSON within JSON: one search in the bytes
//! serves every protocol, and costs the same for each.
//!
//! # Invariants
//! Each mark is found exactly once, wherever the stream is cut into reads.

use std::io::{self, Read};

use memchr::memmem::Finder;

/// `@@`, sixteen digits of microseconds, `-`, eight digits of the number within its topic.
const LEN: usize = 27;
const BEGIN: &[u8] = b"@@";
const DUE: usize = 2;
const DASH: usize = 18;
const NUMBER: usize = 19;

/// Read at once.
const BUFFER: usize = 256 << 10;

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Microseconds on the generator's own clock.
    pub(super) due: u64,
    /// Counted from 0 within the topic.
    pub(super) number: u32,
}

impl Mark {
    fn read(text: &[u8]) -> Option<Self> {
        if text[DASH] != b'-' {
            return None;
        }
        let digits = |text: &[u8]| {
            text.iter().try_fold(0_u64, |value, byte| {
                byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0'))
            })
        };
        let number = digits(&text[NUMBER..LEN])?;
        Some(Self { due: digits(&text[DUE..DASH])?, number: u32::try_from(number).ok()? })
    }
}

/// JSON of a fixed length with a place for a mark.
#[derive(Debug)]
pub(super) struct Payload {
    text: Vec<u8>,
}

/// Where the mark begins in a payload.
const PLACE: usize = br#"{"mark":""#.len();

impl Payload {
    /// One of `bytes` bytes, or of the fewest that it takes.
    pub(super) fn new(bytes: usize) -> Self {
        let mut text = br#"{"mark":"@@0000000000000000-00000000","rest":""#.to_vec();
        text.resize(bytes.saturating_sub(2).max(text.len()), b'.');
        text.extend_from_slice(br#""}"#);
        Self { text }
    }

    /// The payload with that mark.
    pub(super) fn marked(&mut self, mark: Mark) -> &[u8] {
        write_digits(&mut self.text[PLACE + DUE..PLACE + DASH], mark.due);
        write_digits(&mut self.text[PLACE + NUMBER..PLACE + LEN], u64::from(mark.number));
        &self.text
    }
}

fn write_digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// The beginning of a mark at the end of what a connection gave last: kept for its next read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carry {
    bytes: [u8; LEN - 1],
    len: u8,
}

/// Reads sockets into one buffer that all share, and finds the marks in it.
#[derive(Debug)]
pub(super) struct Scanner {
    finder: Finder<'static>,
    /// What was carried, and then what is read.
    buffer: Box<[u8]>,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self { finder: Finder::new(BEGIN), buffer: vec![0; LEN - 1 + BUFFER].into() }
    }

    /// Reads once from `source`; gives what was read, which is empty at its end.
    ///
    /// A read that is shorter than [`Scanner::room`] has emptied the socket.
    pub(super) fn read(
        &mut self,
        mut source: impl Read,
        carry: &mut Carry,
        mut found: impl FnMut(Mark),
    ) -> io::Result<&[u8]> {
        let carried = usize::from(carry.len);
        let read = source.read(&mut self.buffer[LEN - 1..])?;
        let begin = LEN - 1 - carried;
        self.buffer[begin..LEN - 1].copy_from_slice(&carry.bytes[..carried]);
        let text = &self.buffer[begin..LEN - 1 + read];
        let mut at = 0;
        let rest = loop {
            let Some(next) = self.finder.find(&text[at..]) else {
                // One `@` at the end may be the first of two.
                let single = text.len() > at && text.ends_with(b"@");
                break if single { text.len() - 1 } else { text.len() };
            };
            at += next;
            let Some(mark) = text.get(at..at + LEN) else { break at };
            match Mark::read(mark) {
                Some(mark) => {
                    found(mark);
                    at += LEN;
                }
                // Two such bytes that are none, as in the length of a frame.
                None => at += 1,
            }
        };
        let rest = &text[rest..];
        carry.bytes[..rest.len()].copy_from_slice(rest);
        carry.len = rest.len() as u8;
        Ok(&self.buffer[LEN - 1..LEN - 1 + read])
    }

    /// The most that one read gives.
    pub(super) const fn room() -> usize {
        BUFFER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Vec<Mark> {
        [(0, 0), (1_764_547_200_000_123, 1), (9_999_999_999_999_999, 99_999_999)]
            .map(|(due, number)| Mark { due, number })
            .to_vec()
    }

    /// Marks in different surroundings: escaped JSON, none between two, and bytes that look like the beginning of one.
    fn stream() -> Vec<u8> {
        let mut text = b"\x81\x7e@@[null,\"@".to_vec();
        let mut payload = Payload::new(200);
        let [first, second, third] = marks().try_into().unwrap();
        text.extend_from_slice(payload.marked(first));
        text.extend_from_slice(b"@@@12\\\"");
        text.extend_from_slice(&payload.marked(second)[PLACE..PLACE + LEN]);
        text.extend_from_slice(&payload.marked(third)[PLACE..PLACE + LEN]);
        text.extend_from_slice(b"@@0000000000000000_00000000@");
        text
    }

    fn found(pieces: &[&[u8]]) -> Vec<Mark> {
        let (mut scanner, mut carry, mut found) = (Scanner::new(), Carry::default(), Vec::new());
        for piece in pieces {
            let read = scanner.read(*piece, &mut carry, |mark| found.push(mark)).unwrap();
            assert_eq!(read, *piece);
        }
        found
    }

    #[test]
    fn every_mark_is_found_once_wherever_the_stream_is_cut() {
        let text = stream();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                // What is empty would be the end of a socket.
                let pieces: Vec<&[u8]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
                assert_eq!(found(&pieces), marks(), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn every_mark_is_found_once_byte_by_byte() {
        let text = stream();
        assert_eq!(found(&text.chunks(1).collect::<Vec<_>>()), marks());
    }

    #[test]
    fn a_payload_is_json_of_its_length() {
        for bytes in [64, 200, 1_024] {
            let mut payload = Payload::new(bytes);
            let text = payload.marked(Mark { due: 12, number: 34 });
            assert_eq!(text.len(), bytes);
            serde_json::from_slice::<serde_json::Value>(text).unwrap();
        }
    }
}
