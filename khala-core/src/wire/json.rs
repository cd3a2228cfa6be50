//! The JSON of updates, written by hand: payloads go out as the bytes they came in as, unparsed.

use serde::Serialize;

use crate::{documents::SnapshotPage, journal::Page, update::Update};

/// Writes a value by serde. A `Vec` takes every write, so this cannot fail.
pub(super) fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("a wire type has a JSON form, and a Vec takes every write");
}

/// Numbers by serde_json, which has them faster than the formatting of the standard library.
fn write_number(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    write_json(out, &value);
}

/// Writes one update as a JSON object.
pub fn write_update(out: &mut Vec<u8>, update: &Update) {
    write_within(out, update, None);
}

/// Writes one update as a JSON object. A payload of more than `inline` bytes stays behind: the object says
/// `hydration_required` and its payload is null.
fn write_within(out: &mut Vec<u8>, update: &Update, inline: Option<usize>) {
    write_number(out, "{\"seq\":", update.seq.as_u64());
    out.extend_from_slice(b",\"kind\":");
    write_json(out, update.kind.as_str());
    let left_out = left_out(update, inline);
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(if left_out { b"null" } else { update.payload.as_str().as_bytes() });
    if let Some(key) = &update.doc_key {
        out.extend_from_slice(b",\"doc_key\":");
        write_json(out, key.as_str());
    }
    if let Some(version) = update.doc_version {
        write_number(out, ",\"doc_version\":", version);
    }
    if let Some(hash) = &update.payload_hash {
        out.extend_from_slice(b",\"payload_hash\":");
        write_json(out, hash.as_str());
    }
    write_number(out, ",\"published_at\":", update.published_at.as_millis());
    if update.deleted {
        out.extend_from_slice(b",\"deleted\":true");
    }
    if left_out {
        out.extend_from_slice(b",\"hydration_required\":true");
    }
    out.push(b'}');
}

/// Bytes that a page takes beside its updates and its topic, with its frame, at most.
const PAGE_ROOM: usize = 256;

/// The bytes that one update takes, and the comma after it: exactly, if no text has to be escaped.
fn room(update: &Update, inline: Option<usize>) -> usize {
    const ALWAYS: usize = r#"{"seq":,"kind":"","payload":,"published_at":},"#.len();
    let digits = |number: u64| number.checked_ilog10().unwrap_or(0) as usize + 1;
    let text = |name: &str, text: Option<&str>| text.map_or(0, |text| name.len() + text.len());
    let payload = match left_out(update, inline) {
        true => r#"null,"hydration_required":true"#.len(),
        false => update.payload.as_str().len(),
    };
    ALWAYS
        + digits(update.seq.as_u64())
        + digits(update.published_at.as_millis())
        + update.kind.as_str().len()
        + payload
        + text(r#","doc_key":"""#, update.doc_key.as_ref().map(|key| key.as_str()))
        + update.doc_version.map_or(0, |version| r#","doc_version":"#.len() + digits(version))
        + text(r#","payload_hash":"""#, update.payload_hash.as_ref().map(|hash| hash.as_str()))
        + if update.deleted { r#","deleted":true"#.len() } else { 0 }
}

/// Whether the payload is fetched instead of sent.
fn left_out(update: &Update, inline: Option<usize>) -> bool {
    inline.is_some_and(|inline| update.payload.as_str().len() > inline)
}

fn write_updates(out: &mut Vec<u8>, updates: &[Update], inline: Option<usize>) {
    out.push(b'[');
    for (index, update) in updates.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_within(out, update, inline);
    }
    out.push(b']');
}

/// Writes a page of the log as it is read on its own, without payloads of more than `inline` bytes: its
/// `replay_complete` says whether it reaches the head of its moment.
pub fn write_page(out: &mut Vec<u8>, page: &Page, inline: Option<usize>) {
    write_batch(out, page, inline, page.is_complete());
}

/// Writes a page of the log as the payload of `sync:update_batch`, without payloads of more than `inline` bytes.
pub(crate) fn write_batch(out: &mut Vec<u8>, page: &Page, inline: Option<usize>, replay_complete: bool) {
    out.reserve(PAGE_ROOM + page.updates.iter().map(|update| room(update, inline)).sum::<usize>());
    write_number(out, "{\"after\":", page.after.as_u64());
    write_number(out, ",\"head\":", page.bounds.head.as_u64());
    out.extend_from_slice(b",\"replay_complete\":");
    write_json(out, &replay_complete);
    out.extend_from_slice(b",\"updates\":");
    write_updates(out, &page.updates, inline);
    out.push(b'}');
}

/// Writes a page of documents as the payload of `sync:snapshot`: always whole, for it is what a reader fetches.
pub fn write_document_page(out: &mut Vec<u8>, page: &SnapshotPage) {
    let (epoch, watermark) = (page.at.epoch, page.at.watermark.as_u64());
    out.reserve(PAGE_ROOM + page.documents.iter().map(|document| room(document, None)).sum::<usize>());
    out.extend_from_slice(b"{\"epoch\":");
    write_json(out, &epoch);
    write_number(out, ",\"watermark\":", watermark);
    out.extend_from_slice(b",\"documents\":");
    write_updates(out, &page.documents, None);
    out.extend_from_slice(b",\"complete\":");
    write_json(out, &page.complete);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        position::{Bounds, Epoch, Watermark},
        update::{DocKey, Kind, NewUpdate, Payload, PayloadHash, Timestamp},
    };

    #[test]
    fn the_room_of_an_update_is_what_it_takes() {
        let new = || NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse("[1,2]").unwrap());
        let keyed = || new().doc_key(DocKey::parse("key").unwrap());
        let hash = PayloadHash::of(&Payload::null()).unwrap();
        let all = [
            new(),
            keyed().doc_version(70),
            keyed().payload_hash(hash),
            NewUpdate::tombstone(Kind::parse("gone").unwrap(), DocKey::parse("key").unwrap()),
        ];
        for (seq, new) in [1, 9, 10, 12_345].into_iter().zip(all) {
            let before = Watermark::new(seq - 1).unwrap();
            let update = new.stored(before.next().unwrap(), Timestamp::from_millis(1_790_000_000_000));
            for inline in [None, Some(4)] {
                let mut out = Vec::new();
                write_within(&mut out, &update, inline);
                assert_eq!(room(&update, inline), out.len() + 1, "{}", String::from_utf8_lossy(&out));
            }
        }
    }

    #[test]
    fn a_page_is_written_without_growing() {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse("[1,2]").unwrap());
        let updates: Vec<_> = (0..200)
            .map(|n| update.clone().stored(Watermark::new(n).unwrap().next().unwrap(), Timestamp::default()))
            .collect();
        let head = Watermark::new(200).unwrap();
        let bounds = Bounds { epoch: Epoch::from_bits(1), floor: Watermark::ORIGIN, head };
        let page = Page { after: Watermark::ORIGIN, updates, bounds };
        let mut out = Vec::new();
        write_page(&mut out, &page, None);
        assert!(out.capacity() <= out.len() + PAGE_ROOM);
        let start = r#"{"after":0,"head":200,"replay_complete":true,"updates":[{"seq":1,"kind":"k","payload":[1,2],"published_at":0},"#;
        assert!(out.starts_with(start.as_bytes()) && out.ends_with(b"}]}"));
    }
}
