//! Reading documents over HTTP: one by its key, or all of a topic in pages, from which the log continues.

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use khala_core::{
    Cursor, DocKey, Grant, Topic,
    documents::{Snapshot, SnapshotFrom, SnapshotPage},
    journal::ReadLimit,
    wire::{snapshot_path, write_document_page, write_update},
};
use serde::Serialize;

use crate::{
    Server,
    history::{PAGE_BYTES, extended},
    problem::Problem,
    query::Query,
    response::Holds,
    service::json_bytes,
};

/// Bytes that a document takes, about: twice what classes let a payload be by default.
const DOCUMENT_BYTES: u64 = 128 << 10;

/// `GET /v1/topics/{topic}/documents/{doc_key}`: the newest update of the key.
///
/// A tombstone is answered as what it is, with `deleted`: a client that learns that a document is gone must also
/// learn as of which seq and version.
pub(crate) async fn document(
    server: &Server,
    topic: &Topic,
    doc_key: &DocKey,
    query: Option<&str>,
    holds: &mut Holds,
) -> Result<Response<Full<Bytes>>, Problem> {
    #[derive(Serialize)]
    struct Beside<'a> {
        topic: &'a Topic,
    }
    Query::parse(query, &[])?;
    holds.take_memory(server.0.khala.memory(), DOCUMENT_BYTES)?;
    let Some(document) = server.0.khala.documents().document(topic, doc_key).await? else {
        let detail = format!("the topic {topic} has never had a document {doc_key:?}");
        return Err(Problem::not_found("unknown_document", detail));
    };
    let mut body = Vec::new();
    write_update(&mut body, &document);
    Ok(json_bytes(extended(body, &Beside { topic })))
}

/// `GET /v1/topics/{topic}/snapshot`: one page of the documents. Page one fixes the watermark; each page but the
/// last says where the next one is.
pub(crate) async fn snapshot(
    server: &Server,
    grant: &Grant,
    topic: &Topic,
    query: Option<&str>,
    holds: &mut Holds,
) -> Result<Response<Full<Bytes>>, Problem> {
    let query = Query::parse(query, &["watermark", "epoch", "after_key", "limit"])?;
    let limit = query.limit()?;
    let from = match (query.cursor("watermark")?, query.text("after_key").map(DocKey::parse).transpose()?) {
        (None, None) => SnapshotFrom::Start,
        (Some(at), Some(key)) => SnapshotFrom::After { at, key },
        _ => {
            let detail = "watermark, epoch and after_key go together, as the page before gave them in `next`";
            return Err(Problem::invalid("invalid_query", detail).with("field", "after_key"));
        }
    };
    let read = ReadLimit::new(limit, ReadLimit::PAGE.bytes);
    let khala = &server.0.khala;
    let page = {
        let _turn = server.history_turn(grant).await?;
        holds.take_memory(khala.memory(), PAGE_BYTES)?;
        khala.documents().snapshot(topic, from, read).await?
    };
    match page {
        Snapshot::Page(page) => Ok(written(topic, &page, limit.get())),
        Snapshot::Stale(stale) => Err(server.stale_cursor(topic, stale)),
    }
}

fn written(topic: &Topic, page: &SnapshotPage, limit: usize) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Beside<'a> {
        topic: &'a Topic,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let next = match page.next() {
        Some(SnapshotFrom::After { at, key }) => Some(link(topic, at, &key, limit)),
        Some(SnapshotFrom::Start) | None => None,
    };
    let mut body = Vec::new();
    write_document_page(&mut body, page);
    json_bytes(extended(body, &Beside { topic, next }))
}

fn link(topic: &Topic, at: Cursor, after_key: &DocKey, limit: usize) -> String {
    let mut query = url::form_urlencoded::Serializer::new(snapshot_path(topic) + "?");
    query
        .append_pair("watermark", &at.watermark.to_string())
        .append_pair("epoch", &at.epoch.to_string())
        .append_pair("after_key", after_key.as_str())
        .append_pair("limit", &limit.to_string());
    query.finish()
}
