//! The JSON of updates, written by hand: payloads go out as the bytes they came in as, unparsed.

use std::io::Write as _;

use serde::Serialize;

use crate::{documents::SnapshotPage, journal::Page, update::Update};

/// Writes what serde can write and no I/O can fail at.
pub(super) fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("a wire type has a JSON form, and a Vec takes every write");
}

/// Writes one update as a JSON object.
pub fn write_update(out: &mut Vec<u8>, update: &Update) {
    write_within(out, update, None);
}

/// Writes one update as a JSON object. A payload of more than `inline` bytes stays behind: the object says
/// `hydration_required` and its payload is null.
fn write_within(out: &mut Vec<u8>, update: &Update, inline: Option<usize>) {
    let number = |out: &mut Vec<u8>, name: &str, value: u64| {
        write!(out, "{name}{value}").expect("a Vec takes every write");
    };
    number(out, "{\"seq\":", update.seq.as_u64());
    out.extend_from_slice(b",\"kind\":");
    write_json(out, update.kind.as_str());
    let left_out = inline.is_some_and(|inline| update.payload.as_str().len() > inline);
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(if left_out { b"null" } else { update.payload.as_str().as_bytes() });
    if let Some(key) = &update.doc_key {
        out.extend_from_slice(b",\"doc_key\":");
        write_json(out, key.as_str());
    }
    if let Some(version) = update.doc_version {
        number(out, ",\"doc_version\":", version);
    }
    if let Some(hash) = &update.payload_hash {
        out.extend_from_slice(b",\"payload_hash\":");
        write_json(out, hash.as_str());
    }
    number(out, ",\"published_at\":", update.published_at.as_millis());
    if update.deleted {
        out.extend_from_slice(b",\"deleted\":true");
    }
    if left_out {
        out.extend_from_slice(b",\"hydration_required\":true");
    }
    out.push(b'}');
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

/// Writes a page of the log as the payload of `sync:update_batch`, without payloads of more than `inline` bytes.
pub fn write_page(out: &mut Vec<u8>, page: &Page, inline: Option<usize>) {
    let (after, head) = (page.after.as_u64(), page.bounds.head.as_u64());
    let complete = page.is_complete();
    out.reserve(page.updates.iter().map(|update| update.size() + 128).sum());
    write!(out, "{{\"after\":{after},\"head\":{head},\"replay_complete\":{complete},\"updates\":")
        .expect("a Vec takes every write");
    write_updates(out, &page.updates, inline);
    out.push(b'}');
}

/// Writes a page of documents as the payload of `sync:snapshot`: always whole, for it is what a reader fetches.
pub fn write_document_page(out: &mut Vec<u8>, page: &SnapshotPage) {
    let (epoch, watermark) = (page.at.epoch, page.at.watermark.as_u64());
    write!(out, "{{\"epoch\":\"{epoch}\",\"watermark\":{watermark},\"documents\":")
        .expect("a Vec takes every write");
    write_updates(out, &page.documents, None);
    write!(out, ",\"complete\":{}}}", page.complete).expect("a Vec takes every write");
}
