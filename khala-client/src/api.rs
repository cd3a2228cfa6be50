//! What the HTTP routes say: publish, bounds, the list of topics, pages of history and of documents.

use std::io::Write as _;

use bytes::Bytes;
use http::StatusCode;
use khala_core::{
    Append, Batch, Bounds, Conflict, Cursor, DocKey, Epoch, NewUpdate, Receipt, Seq, Stale, Topic, Update,
    Watermark,
    documents::{Snapshot, SnapshotFrom, SnapshotPage},
    journal::{Page, ReadLimit, Replay},
    update::DedupKey,
    wire::{SnapshotBatch, StaleCursor, UpdateBatch, WireUpdate},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    error::Error,
    http::{Answer, Call, Http},
    reader::Reader,
};

/// How many entries the server gives in a page at most.
const MOST_ENTRIES: usize = 1_000;

impl Http {
    /// A page of history: what follows `cursor`.
    pub(crate) async fn history(
        &self,
        topic: &Topic,
        cursor: Cursor,
        limit: ReadLimit,
    ) -> Result<Replay, Error> {
        let (Cursor { epoch, watermark }, most) = (cursor, entries(limit));
        let rest = format!("/updates?after={watermark}&epoch={epoch}&limit={most}");
        let call = Call::read(topic_path(topic, &rest));
        history(&self.call(&call, &[StatusCode::GONE]).await?, cursor, limit)
    }

    /// The newest update of a document, a tombstone too; none if there never was one.
    pub(crate) async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        let key = utf8_percent_encode(key.as_str(), NON_ALPHANUMERIC);
        let call = Call::read(topic_path(topic, &format!("/documents/{key}")));
        let answer = self.call(&call, &[StatusCode::NOT_FOUND]).await?;
        if answer.status == StatusCode::NOT_FOUND {
            let refused = answer.refused();
            return if refused.code == "unknown_document" { Ok(None) } else { Err(Error::Refused(refused)) };
        }
        read::<WireUpdate>(&answer).map(|document| Some(document.into()))
    }

    /// A page of the documents that are there.
    ///
    /// The page does not say what the topic holds, so that is asked afterwards, and the page is stale where the log no longer
    /// continues from it by then.
    pub(crate) async fn snapshot(
        &self,
        topic: &Topic,
        from: SnapshotFrom,
        limit: ReadLimit,
    ) -> Result<Snapshot, Error> {
        let (page, epoch) = match &from {
            SnapshotFrom::Start => (String::new(), None),
            SnapshotFrom::After { at: Cursor { epoch, watermark }, key } => {
                let key = utf8_percent_encode(key.as_str(), NON_ALPHANUMERIC);
                (format!("&watermark={watermark}&epoch={epoch}&after_key={key}"), Some(*epoch))
            }
        };
        let rest = format!("/snapshot?limit={}{page}", entries(limit));
        let answer = self.call(&Call::read(topic_path(topic, &rest)), &[StatusCode::GONE]).await?;
        if answer.status == StatusCode::GONE {
            let answer: StaleCursor = read(&answer)?;
            return Ok(Snapshot::Stale(stale(&answer, epoch.unwrap_or(answer.epoch))));
        }
        let batch: SnapshotBatch = read(&answer)?;
        let at = Cursor::new(batch.epoch, batch.watermark);
        let bounds = bounds(&self.call(&Call::read(topic_path(topic, "")), &[]).await?)?;
        if let Err(stale) = bounds.admit(at) {
            return Ok(Snapshot::Stale(stale));
        }
        let mut documents: Vec<Update> = batch.documents.into_iter().map(Update::from).collect();
        let cut = cut(&mut documents, limit);
        Ok(Snapshot::Page(SnapshotPage { at, documents, complete: batch.complete && !cut, bounds }))
    }
}

fn entries(limit: ReadLimit) -> usize {
    limit.updates.get().min(MOST_ENTRIES)
}

/// Cuts a page off where it has as many bytes as were asked for; says whether that took anything away. The server bounds the
/// number of updates only, beside its own bound of bytes.
fn cut(updates: &mut Vec<Update>, limit: ReadLimit) -> bool {
    let (mut bytes, all) = (0, updates.len());
    let admitted = updates.iter().enumerate().take_while(|(count, update)| {
        let admits = limit.admits(*count, bytes, update.size());
        bytes += update.size();
        admits
    });
    let admitted = admitted.count();
    updates.truncate(admitted);
    admitted < all
}

/// What a stale cursor was answered with, as the core has it. The answer does not repeat the epoch of the cursor that was brought.
pub(crate) fn stale(answer: &StaleCursor, epoch: Epoch) -> Stale {
    Stale {
        cursor: Cursor::new(epoch, answer.resume_after),
        bounds: Bounds { epoch: answer.epoch, floor: answer.retention_floor, head: answer.head },
        reasons: answer.reason_codes.clone(),
    }
}

/// The path of a topic. A `/` within the topic is written `%2F`: it does not part the path.
pub(crate) fn topic_path(topic: &Topic, rest: &str) -> String {
    format!("/v1/topics/{}{rest}", topic.as_str().replace('/', "%2F"))
}

/// The body of a publish. Written by hand, because payloads keep their bytes.
pub(crate) fn publish_body(batch: &Batch) -> Bytes {
    let size: usize = batch.updates().iter().map(|update| update.size() + 64).sum();
    let mut out = Vec::with_capacity(size + 64);
    out.push(b'{');
    if let Some(expect) = batch.expect {
        write!(out, "\"expect\":{expect},").expect("a Vec takes every write");
    }
    out.extend_from_slice(b"\"updates\":[");
    for (index, update) in batch.updates().iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_new_update(&mut out, update);
    }
    out.extend_from_slice(b"]}");
    Bytes::from(out)
}

/// A line of a stream of updates: that of a batch of one, with its key.
pub(crate) fn line(batch: &Batch) -> Bytes {
    let mut out = Vec::with_capacity(256);
    for update in batch.updates() {
        write_new_update(&mut out, update);
    }
    if let Some(key) = &batch.dedup {
        out.pop();
        out.extend_from_slice(b",\"dedup\":");
        serde_json::to_writer(&mut out, key).expect("text has a JSON form, and a Vec takes every write");
        out.push(b'}');
    }
    out.push(b'\n');
    Bytes::from(out)
}

/// A line of a stream that was stored.
pub(crate) fn acknowledged(line: &[u8]) -> Result<Append, Error> {
    let Published { epoch, first, last, duplicate } = serde_json::from_slice(line)
        .map_err(|fault| Error::Protocol(format!("an update was answered with {fault}")))?;
    let receipt = Receipt { epoch, first, last };
    Ok(if duplicate { Append::Duplicate(receipt) } else { Append::Written(receipt) })
}

/// The conflict that a problem tells of, if it does.
pub(crate) fn conflict(problem: &[u8]) -> Option<Conflict> {
    #[derive(Deserialize)]
    struct Coded {
        code: String,
    }
    let Coded { code } = serde_json::from_slice(problem).ok()?;
    if !matches!(&*code, "conflict" | "dedup_mismatch") {
        return None;
    }
    Some(match serde_json::from_slice(problem).ok()? {
        Conflicting::Dedup { epoch, first, last } => {
            Conflict::Dedup { first: Receipt { epoch, first, last } }
        }
        Conflicting::DocVersion { doc_key, given, found } => Conflict::DocVersion { doc_key, given, found },
        Conflicting::Head { expected, found } => Conflict::Head { expected, found },
    })
}

/// The status that a problem names.
pub(crate) fn status_of(problem: &[u8]) -> Option<u16> {
    #[derive(Deserialize)]
    struct Status {
        status: u16,
    }
    serde_json::from_slice(problem).ok().map(|Status { status }| status)
}

fn write_new_update(out: &mut Vec<u8>, update: &NewUpdate) {
    let text = |out: &mut Vec<u8>, name: &str, value: &str| {
        out.extend_from_slice(name.as_bytes());
        serde_json::to_writer(out, value).expect("text has a JSON form, and a Vec takes every write");
    };
    text(out, "{\"kind\":", update.kind.as_str());
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(update.payload.as_str().as_bytes());
    if let Some(key) = &update.doc_key {
        text(out, ",\"doc_key\":", key.as_str());
    }
    if let Some(version) = update.doc_version {
        write!(out, ",\"doc_version\":{version}").expect("a Vec takes every write");
    }
    if update.deleted {
        out.extend_from_slice(b",\"deleted\":true");
    }
    if let Some(hash) = &update.payload_hash {
        text(out, ",\"payload_hash\":", hash.as_str());
    }
    out.push(b'}');
}

#[derive(Deserialize)]
struct Published {
    epoch: Epoch,
    first: Seq,
    last: Seq,
    duplicate: bool,
}

/// What a 409 says beside its code; which fields there are says what conflicts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Conflicting {
    Dedup { epoch: Epoch, first: Seq, last: Seq },
    DocVersion { doc_key: DocKey, given: u64, found: u64 },
    Head { expected: Watermark, found: Watermark },
}

pub(crate) fn published(answer: &Answer) -> Result<Append, Error> {
    if answer.status.as_u16() == 409 {
        return match conflict(&answer.body) {
            Some(conflict) => Ok(Append::Conflict(conflict)),
            None => Err(Error::Refused(answer.refused())),
        };
    }
    let Published { epoch, first, last, duplicate } = read(answer)?;
    let receipt = Receipt { epoch, first, last };
    Ok(if duplicate { Append::Duplicate(receipt) } else { Append::Written(receipt) })
}

pub(crate) fn bounds(answer: &Answer) -> Result<Bounds, Error> {
    read(answer)
}

#[derive(Deserialize)]
struct TopicJson {
    topic: Topic,
    #[serde(flatten)]
    bounds: Bounds,
}

#[derive(Deserialize)]
struct TopicsJson {
    topics: Vec<TopicJson>,
    next: Option<String>,
}

/// A page of a list of topics, and where the next one begins.
type Listed = (Vec<(Topic, Bounds)>, Option<String>);

/// The topics of a page, and where the next page begins, if there may be more topics.
pub(crate) fn topics(answer: &Answer) -> Result<Listed, Error> {
    let TopicsJson { topics, next } = read(answer)?;
    Ok((topics.into_iter().map(|TopicJson { topic, bounds }| (topic, bounds)).collect(), next))
}

fn history(answer: &Answer, cursor: Cursor, limit: ReadLimit) -> Result<Replay, Error> {
    /// What a page says beside its updates.
    #[derive(Deserialize)]
    struct Beside {
        epoch: Epoch,
        floor: Watermark,
    }
    if answer.status == StatusCode::GONE {
        return Ok(Replay::Stale(stale(&read(answer)?, cursor.epoch)));
    }
    let (batch, Beside { epoch, floor }) = (read::<UpdateBatch>(answer)?, read(answer)?);
    let bounds = Bounds { epoch, floor, head: batch.head };
    let fresh = Reader::new(cursor).take(batch).map_err(|gap| Error::Protocol(gap.to_string()))?;
    let mut updates = fresh.updates;
    cut(&mut updates, limit);
    Ok(Replay::Page(Page { after: cursor.watermark, updates, bounds }))
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|fault| {
        Error::Protocol(format!(
            "the answer ({}) is not what a Khala server says: {fault}; is this the URL of one?",
            answer.status.as_u16()
        ))
    })
}

/// A key that nobody has used: a publish without one is given it, so that a retry stores nothing twice.
pub(crate) fn draw_key() -> Result<DedupKey, Error> {
    let fault = |cause: &dyn std::fmt::Display| Error::Settings(format!("no key can be drawn: {cause}"));
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|cause| fault(&cause))?;
    DedupKey::parse(&format!("{:032x}", u128::from_be_bytes(bits))).map_err(|cause| fault(&cause))
}
