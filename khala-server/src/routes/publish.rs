//! `POST /v1/topics/{topic}/updates`: publishes a batch, or begins a stream.

use axum::{
    body::Body,
    extract::{FromRequestParts as _, Request, State},
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use http::{HeaderMap, StatusCode};
use khala_core::{Append, Grant, Receipt, Topic, update::DedupKey};
use serde::Serialize;

use super::batch::{IDEMPOTENCY_KEY, Publish, Stored, batch, trace};
use crate::{
    openapi,
    problem::Problem,
    request::{self, Authenticated, Context, Decoded, Empty, Room, TopicPath},
    response::json,
    routes::stream,
    shared::Shared,
};

/// Publishes one update, many, or a stream of them.
///
/// As `application/x-ndjson` an update a line, for producers that stream. Each is published as it arrives and answered as it is
/// committed, in order, while the request goes on; blank lines count and are not answered. The answer is 200 from the start,
/// and its lines say what became of each: where it was stored, or an `error`. After a `conflict` the stream goes on; any other
/// error is the last answer, and nothing from its line on is stored, but for lines that were on their way when the store failed
/// (status 500 or 503, other than `draining`): those may be stored or not. A client that sends a line again under the same
/// `dedup` stores it once. What comes faster than the topic's class or the token's subject may waits. A stream has no length;
/// each line is bounded as a body is, in bytes and in time.
// The grant is checked again when the body is there. The body and what the request holds count for as long as the batch is under
// way, also where the client is gone.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/updates", operation_id = "publish", tag = "updates",
    params(TopicPath, openapi::IdempotencyKey, openapi::TraceHeaders),
    request_body(content(
        (Publish = "application/json", examples(
            ("one" = (value = json!({"kind": "note", "payload": {"text": "hello"}}))),
            ("many" = (value = json!({"updates": [{"kind": "added", "payload": {"n": 1}, "doc_key": "item/1"}], "expect": 0}))),
        )),
        (String = "application/x-ndjson"),
    ), description = "As `application/x-ndjson`, a `NewLine` a line: `{\"kind\":\"added\",\"payload\":{\"n\":1},\"dedup\":\"job-7/1\"}`"),
    responses(
        (status = 200, content(
            (Answer<'_> = "application/json"),
            (String = "application/x-ndjson", example = "{\"line\":1,\"epoch\":\"9f86d081884c7d65\",\"first\":41,\"last\":41,\"duplicate\":false}\n"),
        ), description = "They were stored before under the same Idempotency-Key; here is the first receipt. Or a stream has \
            begun: a `LineStored` or a `LineRefused` a line follows."),
        (status = 201, body = Answer<'_>, description = "They are on stable storage."),
        openapi::ReadRefusals,
        (status = 408, response = openapi::BodyTimeout),
        (status = 409, response = openapi::NotStored),
        (status = 413, response = openapi::PublishTooLarge),
        (status = 415, response = openapi::BodyType),
        (status = 429, response = openapi::TooManyPublishes),
    )
)]
pub(crate) async fn publish(
    State(shared): State<Shared>,
    context: Context,
    Authenticated(grant): Authenticated,
    TopicPath(topic): TopicPath,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    publish_body(&shared, context, grant, topic, &head.headers, body).await
}

// Each future of a publish holds those below it, and is moved as a whole: so this one takes the head and the server by reference.
async fn publish_body(
    shared: &Shared,
    context: Context,
    grant: Grant,
    topic: Topic,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let permit = shared.0.khala.publish_permit(&grant, &topic).await?;
    if stream::is_asked_for(headers) {
        return stream::begin(shared, grant, Some(permit), headers, body, context).boxed().await;
    }
    let dedup = dedup_key(headers)?;
    let trace = trace(headers);
    let most = shared.0.limits.body_bytes;
    let body = request::read(shared, headers, body, most, Empty::Refused, Room::Needed).await?;
    let batch = batch(&body, trace.as_ref())?;
    let batch = match dedup {
        Some(key) => batch.with_dedup(key),
        None => batch,
    };
    match permit.publish(batch, (body, context.holds)).await? {
        Append::Written(receipt) => json(StatusCode::CREATED, &Answer::new(&topic, receipt, false)),
        Append::Duplicate(receipt) => json(StatusCode::OK, &Answer::new(&topic, receipt, true)),
        Append::Conflict(conflict) => Err(Problem::conflict(&conflict)),
    }
}

/// The same for a request whose path was found to name `topic`, without an extractor for each part.
pub(crate) async fn publish_to(shared: Shared, topic: Decoded, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let answer = async {
        let context = Context::from_request_parts(&mut parts, &shared).await?;
        let Authenticated(grant) = Authenticated::from_request_parts(&mut parts, &shared).await?;
        let TopicPath(topic) = topic.topic()?;
        publish_body(&shared, context, grant, topic, &parts.headers, body).await
    };
    answer.await.into_response()
}

/// Where the updates were stored.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Receipt)]
struct Answer<'a> {
    #[schema(value_type = openapi::Topic)]
    topic: &'a Topic,
    #[serde(flatten)]
    receipt: Stored,
    /// Whether this is the receipt of an earlier publish with the same Idempotency-Key.
    duplicate: bool,
}

impl<'a> Answer<'a> {
    fn new(topic: &'a Topic, receipt: Receipt, duplicate: bool) -> Self {
        Self { topic, receipt: receipt.into(), duplicate }
    }
}

fn dedup_key(headers: &HeaderMap) -> Result<Option<DedupKey>, Problem> {
    let fault = |detail: String| Problem::invalid("invalid_idempotency_key", detail);
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(fault("Idempotency-Key is given twice".to_owned()));
    }
    let text = value.to_str().map_err(|_| fault("Idempotency-Key is not ASCII".to_owned()))?;
    DedupKey::parse(text).map(Some).map_err(|wrong| fault(format!("Idempotency-Key: {wrong}")))
}
