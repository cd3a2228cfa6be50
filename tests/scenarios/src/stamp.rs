//! Payloads that say when they were due and which they are, and batches of them read without parsing JSON.
//!
//! The clients read gigabytes, so a reader finds the few numbers of a batch where they must stand and steps over the rest of each
//! payload.
//!
//! # Invariants
//! Every seq of every batch is looked at, and what does not look as expected is a fault, never passed over.

use std::io::Write as _;

/// The `kind` of every update here.
pub(crate) const KIND: &str = "load";
/// The shortest payload that holds a stamp.
pub(crate) const LEAST: usize = BEFORE_PAD + 2;

const BEFORE_PAD: usize = r#"{"due":"0000000000000000","lane":"00","number":"000000000000","pad":""#.len();
/// What stands between one payload and the next seq is shorter than that.
const BETWEEN: usize = 256;

/// What a payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// When it was to be published, by this process' clock, in microseconds.
    pub(crate) due: u64,
    /// The part of a run in which it was.
    pub(crate) lane: u8,
    /// Which it is: no two are the same.
    pub(crate) number: u64,
}

impl Stamp {
    /// Writes the payload: `bytes` long, but at least [`LEAST`].
    pub(crate) fn write(&self, out: &mut Vec<u8>, bytes: usize) {
        let Self { due, lane, number } = self;
        write!(out, r#"{{"due":"{due:016}","lane":"{lane:02}","number":"{number:012}","pad":""#)
            .expect("a Vec takes every write");
        out.resize(out.len() + bytes.saturating_sub(LEAST), b'.');
        out.extend_from_slice(b"\"}");
    }

    /// Reads the payload that `text` starts with.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(br#"{"due":""#)?;
        let (due, rest) = digits(rest, 16)?;
        let (lane, rest) = digits(rest.strip_prefix(br#"","lane":""#)?, 2)?;
        let (number, _) = digits(rest.strip_prefix(br#"","number":""#)?, 12)?;
        Some(Self { due, lane: lane as u8, number })
    }
}

/// The number in the first `count` bytes.
fn digits(text: &[u8], count: usize) -> Option<(u64, &[u8])> {
    let (head, rest) = text.split_at_checked(count)?;
    let mut number = 0;
    for digit in head {
        number = number * 10 + u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
    }
    Some((number, rest))
}

/// The number that `text` starts with.
fn number(text: &[u8]) -> Option<u64> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits(text, count).filter(|_| (1..=16).contains(&count)).map(|(number, _)| number)
}

/// What follows the first `mark` that begins within the first `within` bytes.
fn after<'a>(text: &'a [u8], mark: &[u8], within: usize) -> Option<&'a [u8]> {
    // Marks are near, so a plain search is the quickest.
    (0..text.len().min(within)).find(|at| text[*at..].starts_with(mark)).map(|at| &text[at + mark.len()..])
}

/// Whether the frame is a `sync:update_batch`.
pub(crate) fn is_batch(frame: &[u8]) -> bool {
    // Topics have at most 255 bytes.
    after(frame, b"\"sync:update_batch\",", 300).is_some()
}

/// The ends of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// What it continues from.
    pub(crate) after: u64,
    /// Its last seq.
    pub(crate) last: u64,
}

/// Reads a batch whose payloads are all `bytes` long; hands each seq with its stamp and payload to `see`.
///
/// # Errors
/// Says what is not as it must be. Seqs that do not follow each other are.
pub(crate) fn read_batch(
    frame: &[u8],
    bytes: usize,
    mut see: impl FnMut(u64, Stamp, &[u8]),
) -> Result<Batch, String> {
    let fault = |what: &str, text: &[u8]| {
        let start = String::from_utf8_lossy(&text[..text.len().min(120)]);
        format!("{what} in a batch, at: {start}")
    };
    let rest = after(frame, b"\"sync:update_batch\",{\"after\":", 300)
        .ok_or_else(|| fault("there is no watermark", frame))?;
    let from = number(rest).ok_or_else(|| fault("there is no watermark", rest))?;
    let mut rest = after(rest, b"\"updates\":[", 120).ok_or_else(|| fault("there are no updates", rest))?;
    let mut last = from;
    while let Some(update) = after(rest, b"{\"seq\":", BETWEEN) {
        let seq = number(update).ok_or_else(|| fault("there is no seq", update))?;
        if seq != last + 1 {
            return Err(format!("a hole in a batch: {seq} follows {last} (the batch continues from {from})"));
        }
        let payload = after(update, b"\"payload\":", BETWEEN)
            .filter(|payload| payload.len() > bytes)
            .ok_or_else(|| fault("there is no payload", update))?;
        let stamp = Stamp::read(payload).ok_or_else(|| fault("there is no stamp", payload))?;
        see(seq, stamp, &payload[..bytes]);
        last = seq;
        rest = &payload[bytes..];
    }
    if last == from {
        return Err(fault("there is no update", rest));
    }
    // The end of the last update, of the list, of the payload and of the frame.
    if rest.len() > BETWEEN || !rest.ends_with(b"}]}]") {
        return Err(fault("there is something else", rest));
    }
    Ok(Batch { after: from, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 200;

    fn frame(after: u64, seqs: &[u64]) -> String {
        let update = |seq: &u64| {
            let mut payload = Vec::new();
            Stamp { due: 1_000 + seq, lane: 3, number: 70 + seq }.write(&mut payload, BYTES);
            let payload = String::from_utf8(payload).unwrap();
            format!(r#"{{"seq":{seq},"kind":"load","payload":{payload},"published_at":1764547200000}}"#)
        };
        let updates = seqs.iter().map(update).collect::<Vec<_>>().join(",");
        format!(
            r#"[null,null,"scenario:7","sync:update_batch",{{"after":{after},"head":99,"replay_complete":true,"updates":[{updates}]}}]"#
        )
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written_and_its_payload_is_json_of_the_length_asked_for() {
        let stamp = Stamp { due: 1_234_567, lane: 12, number: 99 };
        for bytes in [LEAST, 200, 1024] {
            let mut payload = Vec::new();
            stamp.write(&mut payload, bytes);
            assert_eq!(payload.len(), bytes);
            assert_eq!(Stamp::read(&payload), Some(stamp));
            serde_json::from_slice::<serde_json::Value>(&payload).unwrap();
        }
    }

    #[test]
    fn every_seq_of_a_batch_is_seen() {
        let frame = frame(9, &[10, 11, 12]);
        assert!(is_batch(frame.as_bytes()));
        let mut seen = Vec::new();
        let batch = read_batch(frame.as_bytes(), BYTES, |seq, stamp, _| seen.push((seq, stamp.number)));
        assert_eq!(batch, Ok(Batch { after: 9, last: 12 }));
        assert_eq!(seen, [(10, 80), (11, 81), (12, 82)]);
    }

    #[test]
    fn a_batch_of_the_server_is_read() {
        use khala_core::{
            Bounds, Epoch, Kind, Payload, Seq, Timestamp, Update, Watermark, journal::Page, wire,
        };
        let mut payload = Vec::new();
        Stamp { due: 5, lane: 1, number: 2 }.write(&mut payload, BYTES);
        let payload = Payload::parse(std::str::from_utf8(&payload).unwrap()).unwrap();
        let at = |seq| Watermark::new(seq).unwrap();
        let update = |seq| Update {
            seq: Seq::new(seq).unwrap(),
            kind: Kind::parse(KIND).unwrap(),
            payload: payload.clone(),
            doc_key: None,
            doc_version: None,
            deleted: false,
            payload_hash: None,
            published_at: Timestamp::from_millis(1_764_547_200_000),
            trace: None,
        };
        let bounds = Bounds { epoch: Epoch::from_bits(1), floor: at(0), head: at(6) };
        let page = Page { after: at(4), updates: vec![update(5), update(6)], bounds };
        let frame = wire::Serializer::V2.encode(None, None, "scenario:7", wire::event::UPDATE_BATCH, |out| {
            wire::write_page(out, &page, None)
        });
        assert_eq!(read_batch(&frame, BYTES, |_, _, _| {}), Ok(Batch { after: 4, last: 6 }));
    }

    #[test]
    fn what_is_not_as_expected_is_a_fault() {
        for (text, named) in [
            (frame(9, &[10, 12]), "hole"),
            (frame(9, &[11]), "hole"),
            (frame(9, &[10, 10]), "hole"),
            (frame(9, &[]), "no update"),
            (frame(9, &[10]).replace("due", "duo"), "no stamp"),
            (frame(9, &[10]).replace("]}]", "]}],"), "something else"),
            (frame(9, &[10]).replace("after", "before"), "no watermark"),
        ] {
            let fault = read_batch(text.as_bytes(), BYTES, |_, _, _| {}).unwrap_err();
            assert!(fault.contains(named), "{fault}");
        }
    }
}
