//! Reading documents over HTTP: one by its key, or all of a topic in pages, from which the log continues.

use axum::{extract::State, response::Response};
use khala_core::{
    Cursor, DocKey, Epoch, Topic, Watermark,
    documents::{Snapshot, SnapshotFrom, SnapshotPage},
    journal::ReadLimit,
    wire::{snapshot_path, write_document_page, write_update},
};
use serde::{Deserialize, Serialize};

use crate::{
    openapi,
    problem::Problem,
    request::{Context, DocKeyPath, Limit, NoParams, Params, Readable, TopicPath, cursor, parsed, watermark},
    response::json_bytes,
    routes::history::{PAGE_BYTES, READ_BYTES, extended},
    shared::Shared,
};

/// Bytes that a document takes, about: twice what classes let a payload be by default.
const DOCUMENT_BYTES: u64 = 128 << 10;

/// Reads one document: the newest update of its key.
///
/// A tombstone is answered as what it is, with `deleted`: a client that learns that a document is gone must also
/// learn as of which seq and version.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/documents/{doc_key}", operation_id = "readDocument", tag = "documents",
    params(TopicPath, DocKeyPath),
    responses(
        (status = 200, body = openapi::Document,
            description = "Its newest update. If the document is gone, `deleted` is true."),
        (status = 404, response = openapi::UnknownDocument),
        openapi::ReadRefusals,
    )
)]
pub(crate) async fn document(
    State(shared): State<Shared>,
    Context { holds, .. }: Context,
    Readable { topic, .. }: Readable,
    DocKeyPath(doc_key): DocKeyPath,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Beside<'a> {
        topic: &'a Topic,
    }
    holds.take_memory(shared.0.khala.memory(), DOCUMENT_BYTES)?;
    let Some(document) = shared.0.khala.documents().document(&topic, &doc_key).await? else {
        let detail = format!("the topic {topic} has never had a document {doc_key:?}");
        return Err(Problem::not_found("unknown_document", detail));
    };
    let mut body = Vec::new();
    write_update(&mut body, &document);
    Ok(json_bytes(extended(body, &Beside { topic: &topic })))
}

/// Which page of a snapshot is told: the first, or the one that the page before named.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct SnapshotQuery {
    /// Which page: `watermark`, `epoch` and `after_key`, all or none, as `next` of the page before has them. Without them, page
    /// one.
    #[serde(deserialize_with = "watermark")]
    #[param(value_type = Option<openapi::Watermark>)]
    watermark: Option<Watermark>,
    #[serde(deserialize_with = "parsed")]
    #[param(value_type = Option<openapi::Epoch>)]
    epoch: Option<Epoch>,
    #[serde(deserialize_with = "parsed")]
    #[param(value_type = Option<openapi::DocKey>)]
    after_key: Option<String>,
    #[param(inline)]
    limit: Limit,
}

/// Reads a page of a topic's documents.
///
/// Page one fixes the watermark; each page but the last says where the next one is.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/snapshot", operation_id = "readSnapshot", tag = "documents",
    params(TopicPath, SnapshotQuery),
    responses(
        (status = 200, body = openapi::SnapshotPage, description = "Documents, and where the log continues."),
        (status = 410, response = openapi::Stale),
        openapi::ReadRefusals,
    )
)]
pub(crate) async fn snapshot(
    State(shared): State<Shared>,
    Context { holds, .. }: Context,
    Readable { grant, topic }: Readable,
    Params(query): Params<SnapshotQuery>,
) -> Result<Response, Problem> {
    let Limit(limit) = query.limit;
    let after_key = query.after_key.as_deref().map(DocKey::parse).transpose()?;
    let from = match (cursor("watermark", query.watermark, query.epoch)?, after_key) {
        (None, None) => SnapshotFrom::Start,
        (Some(at), Some(key)) => SnapshotFrom::After { at, key },
        _ => {
            let detail = "watermark, epoch and after_key go together, as the page before gave them in `next`";
            return Err(Problem::invalid("invalid_query", detail).with("field", "after_key"));
        }
    };
    let read = ReadLimit::new(limit, READ_BYTES);
    let khala = &shared.0.khala;
    let page = {
        let _permit = shared.read_permit(&grant).await?;
        holds.take_memory(khala.memory(), PAGE_BYTES)?;
        khala.documents().snapshot(&topic, from, read).await?
    };
    match page {
        Snapshot::Page(page) => Ok(written(&shared, &topic, &page, limit.get())),
        Snapshot::Stale(stale) => Err(shared.stale_cursor(&topic, stale)),
    }
}

fn written(shared: &Shared, topic: &Topic, page: &SnapshotPage, limit: usize) -> Response {
    #[derive(Serialize)]
    struct Beside<'a> {
        topic: &'a Topic,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let next = match page.next() {
        Some(SnapshotFrom::After { at, key }) => Some(link(shared, topic, at, &key, limit)),
        Some(SnapshotFrom::Start) | None => None,
    };
    let mut body = Vec::new();
    write_document_page(&mut body, page);
    json_bytes(extended(body, &Beside { topic, next }))
}

fn link(shared: &Shared, topic: &Topic, at: Cursor, after_key: &DocKey, limit: usize) -> String {
    let path = snapshot_path(shared.0.path_prefix.as_ref(), topic);
    let mut query = url::form_urlencoded::Serializer::new(path + "?");
    query
        .append_pair("watermark", &at.watermark.to_string())
        .append_pair("epoch", &at.epoch.to_string())
        .append_pair("after_key", after_key.as_str())
        .append_pair("limit", &limit.to_string());
    query.finish()
}
