//! `POST /v1/topics/{topic}/updates`: from a request body to a batch, and from the journal's answer to a response.
//!
//! The body is parsed once. A payload is kept as the bytes that it came in as; its batch looks for what readers differ about.

use std::fmt;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use khala_core::{
    Append, Batch, DocKey, Kind, NewUpdate, Payload, Receipt, Topic, Watermark,
    journal::BatchError,
    update::{DedupKey, PayloadHash, TraceContext, TraceField},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;

use crate::{
    openapi,
    problem::Problem,
    request::{self, Authenticated, Context, Empty, REQUEST_ID, Room, TopicPath, given, invalid, whole},
    routes::{json, stream},
    server::Shared,
};

/// The header that names a publish.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

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
        (String = "application/x-ndjson", example = "{\"kind\":\"added\",\"payload\":{\"n\":1},\"dedup\":\"job-7/1\"}\n"),
    ), description = "As `application/x-ndjson`, a `NewLine` a line."),
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
    let permit = shared.0.khala.publish_permit(&grant, &topic).await?;
    let (head, body) = request.into_parts();
    if stream::is_asked_for(&head.headers) {
        return stream::begin(&shared, grant, Some(permit), &head.headers, body, context).await;
    }
    let dedup = dedup_key(&head.headers)?;
    let trace = trace(&head.headers);
    let most = shared.0.limits.body_bytes;
    let body = request::read(&shared, &head.headers, body, most, Empty::Refused, Room::Needed).await?;
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

/// The updates of a batch, from the first to the last.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Stored {
    #[schema(value_type = openapi::Epoch)]
    epoch: khala_core::Epoch,
    #[schema(value_type = openapi::Seq)]
    first: khala_core::Seq,
    #[schema(value_type = openapi::Seq)]
    last: khala_core::Seq,
}

impl<'a> Answer<'a> {
    fn new(topic: &'a Topic, receipt: Receipt, duplicate: bool) -> Self {
        Self { topic, receipt: receipt.into(), duplicate }
    }
}

impl From<Receipt> for Stored {
    fn from(Receipt { epoch, first, last }: Receipt) -> Self {
        Self { epoch, first, last }
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

/// What is carried along to subscribers' traces. A header that cannot be is left out: tracing must not fail a
/// publish (W3C Trace Context, section 4.3).
pub(crate) fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let field = |name| headers.get(name)?.to_str().ok().and_then(|text| TraceField::parse(text).ok());
    let mut trace = TraceContext::default();
    trace.traceparent = field("traceparent");
    trace.tracestate = field("tracestate");
    trace.request_id = field(REQUEST_ID);
    (trace != TraceContext::default()).then_some(trace)
}

/// An update to append. `doc_version` and `deleted` need a `doc_key`.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewUpdate)]
struct One<'a> {
    #[schema(value_type = openapi::Kind)]
    kind: Kind,
    /// I-JSON (RFC 7493) of at most 100 levels, kept byte for byte; 64 KiB unless the topic's class says otherwise.
    #[serde(borrow)]
    #[schema(value_type = serde_json::Value)]
    payload: &'a RawValue,
    #[serde(default)]
    #[schema(value_type = Option<openapi::DocKey>)]
    doc_key: Option<DocKey>,
    /// The document's version, which must exceed the stored one; where there is none, the seq is it.
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<openapi::DocVersion>)]
    doc_version: Option<u64>,
    /// Whether the document is gone.
    #[serde(default)]
    #[schema(default = false)]
    deleted: bool,
    #[serde(default)]
    #[schema(value_type = Option<openapi::PayloadHash>)]
    payload_hash: Option<PayloadHash>,
}

/// One update, or many that are stored as a whole.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only described: a body is parsed as what is posted")]
enum Publish {
    One(One<'static>),
    Many(Many),
}

/// Updates that are appended as a whole or not at all.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Batch)]
#[expect(dead_code, reason = "it is only described: a body is parsed as what is posted")]
struct Many {
    #[schema(min_items = 1, max_items = 1000)]
    updates: Vec<One<'static>>,
    /// The head that the topic must have; without it any head will do.
    #[schema(value_type = Option<openapi::Watermark>)]
    expect: Option<Watermark>,
}

/// The body: one update, or many under `updates`. The fields of both, so that it is parsed only once.
///
/// An `Option` alone would take the payload `null` for none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Posted<'a> {
    #[serde(borrow, default)]
    updates: Option<Updates<'a>>,
    #[serde(default, deserialize_with = "whole")]
    expect: Option<u64>,
    #[serde(default)]
    kind: Option<Kind>,
    #[serde(borrow, default, deserialize_with = "given")]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    doc_key: Option<DocKey>,
    #[serde(default, deserialize_with = "whole")]
    doc_version: Option<u64>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    payload_hash: Option<PayloadHash>,
}

/// The updates of a batch; past [`Batch::MAX`] they are only counted.
struct Updates<'a> {
    kept: Vec<One<'a>>,
    found: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Updates<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Updates<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of updates")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut updates = Updates { kept: Vec::new(), found: 0 };
                while updates.found < Batch::MAX
                    && let Some(update) = sequence.next_element()?
                {
                    updates.kept.push(update);
                    updates.found += 1;
                }
                while updates.found >= Batch::MAX && sequence.next_element::<de::IgnoredAny>()?.is_some() {
                    updates.found += 1;
                }
                Ok(updates)
            }
        }
        deserializer.deserialize_seq(Visitor)
    }
}

fn batch(body: &[u8], trace: Option<&TraceContext>) -> Result<Batch, Problem> {
    let (updates, expect) = parts(request::parse(body)?)?;
    let batch = batch_of(updates, trace, "updates")?;
    let Some(head) = expect else { return Ok(batch) };
    let head = Watermark::new(head).ok_or_else(|| invalid("expect", "expect is not a watermark"))?;
    Ok(batch.with_expect(head))
}

/// A line of a stream to many topics: an update to append, the key that names its publish, and the topic that it is for.
// Where all lines have the same topic, they do not name it.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewLineOfTopic)]
pub(crate) struct Line<'a> {
    #[serde(default)]
    #[schema(value_type = openapi::Topic, required)]
    topic: Option<Topic>,
    #[schema(value_type = openapi::Kind)]
    kind: Kind,
    /// I-JSON (RFC 7493) of at most 100 levels, kept byte for byte; 64 KiB unless the topic's class says otherwise.
    #[serde(borrow)]
    #[schema(value_type = serde_json::Value)]
    payload: &'a RawValue,
    #[serde(default)]
    #[schema(value_type = Option<openapi::DocKey>)]
    doc_key: Option<DocKey>,
    /// The document's version, which must exceed the stored one; where there is none, the seq is it.
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<openapi::DocVersion>)]
    doc_version: Option<u64>,
    /// Whether the document is gone.
    #[serde(default)]
    #[schema(default = false)]
    deleted: bool,
    #[serde(default)]
    #[schema(value_type = Option<openapi::PayloadHash>)]
    payload_hash: Option<PayloadHash>,
    /// Names the publish of this line, as Idempotency-Key does for a whole request.
    #[serde(default)]
    #[schema(value_type = Option<openapi::DedupKey>)]
    dedup: Option<DedupKey>,
}

/// The batch of one that a line of a stream is, and the topic that it names, which it may only if `names_topic`.
pub(crate) fn line(
    text: &[u8],
    trace: Option<&TraceContext>,
    names_topic: bool,
) -> Result<(Option<Topic>, Batch), Problem> {
    let line: Line<'_> = request::parse_part("line", text)?;
    let Line { topic, kind, payload, doc_key, doc_version, deleted, payload_hash, dedup } = line;
    if topic.is_some() && !names_topic {
        return Err(invalid("topic", "unknown field `topic`: all lines are for the topic in the path"));
    }
    let one = One { kind, payload, doc_key, doc_version, deleted, payload_hash };
    let batch = batch_of(vec![one], trace, "payload")?;
    let batch = match dedup {
        Some(key) => batch.with_dedup(key),
        None => batch,
    };
    Ok((topic, batch))
}

/// The updates as a batch. A fault of none of the known fields is one of `field`.
fn batch_of(updates: Vec<One<'_>>, trace: Option<&TraceContext>, field: &str) -> Result<Batch, Problem> {
    let update = |one: One<'_>| {
        let mut update = NewUpdate::new(one.kind, Payload::from_raw(one.payload));
        update.doc_key = one.doc_key;
        update.doc_version = one.doc_version;
        update.deleted = one.deleted;
        update.payload_hash = one.payload_hash;
        update.trace = trace.cloned();
        update
    };
    Batch::new(updates.into_iter().map(update).collect()).map_err(|fault| match fault {
        BatchError::DocKeyMissing { .. } => invalid("doc_key", fault.to_string()),
        BatchError::DocVersionTooLarge { .. } => invalid("doc_version", fault.to_string()),
        BatchError::Payload { index, fault: why } => {
            Problem::invalid("invalid_payload", BatchError::Payload { index, fault: why.clone() }.to_string())
                .with("field", "payload")
                .with("index", index)
                .with("fault", why.as_str())
                .with("at", why.at())
        }
        fault => invalid(field, fault.to_string()),
    })
}

/// The updates of a body, and the head that they expect.
fn parts(posted: Posted<'_>) -> Result<(Vec<One<'_>>, Option<u64>), Problem> {
    let Posted { updates, expect, kind, payload, doc_key, doc_version, deleted, payload_hash } = posted;
    if let Some(Updates { kept, found }) = updates {
        let beside = kind.is_some()
            || payload.is_some()
            || doc_key.is_some()
            || doc_version.is_some()
            || deleted
            || payload_hash.is_some();
        if beside {
            return Err(invalid("updates", "the fields of an update stand within updates, not beside it"));
        }
        if found > Batch::MAX {
            let fault = BatchError::TooMany { found };
            return Err(Problem::too_large("too_many_updates", fault.to_string()));
        }
        return Ok((kept, expect));
    }
    if expect.is_some() {
        return Err(invalid("expect", "expect goes with updates: {\"updates\": [...], \"expect\": n}"));
    }
    let kind = kind.ok_or_else(|| invalid("kind", "missing field `kind`"))?;
    let payload = payload.ok_or_else(|| invalid("payload", "missing field `payload`"))?;
    Ok((vec![One { kind, payload, doc_key, doc_version, deleted, payload_hash }], None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Batch, (&'static str, String)> {
        batch(body.as_bytes(), None).map_err(|problem| (problem.code(), format!("{problem:?}")))
    }

    #[test]
    fn a_payload_is_kept_byte_for_byte() {
        for payload in ["null", r#"{ "a":1.0e0, "A":"\u00e9" }"#, "[ ]", "\"x\"", "12345678901234567890.0"] {
            let one = parse(&format!(r#"{{"kind":"k","payload": {payload} }}"#)).unwrap();
            let many = parse(&format!(r#"{{"updates":[{{"payload":{payload},"kind":"k"}}]}}"#)).unwrap();
            assert_eq!(one.updates()[0].payload.as_str(), payload);
            assert_eq!(many, one);
        }
    }

    #[test]
    fn numbers_are_whole_however_they_are_written() {
        let body = r#"{"updates":[{"kind":"k","payload":1,"doc_key":"d","doc_version":5.0},
            {"kind":"k","payload":1,"doc_key":"d","doc_version":null}],"expect":1e2}"#;
        let batch = parse(body).unwrap();
        let versions: Vec<_> = batch.updates().iter().map(|update| update.doc_version).collect();
        assert_eq!((versions, batch.expect), (vec![Some(5), None], Watermark::new(100)));
    }

    #[test]
    fn a_fault_names_its_field() {
        for (body, code, named) in [
            ("", "invalid_json", "object"),
            ("[]", "invalid_json", "object"),
            ("{", "invalid_json", "EOF"),
            (r#"{"kind":"k","payload":1} x"#, "invalid_json", "trailing"),
            ("{}", "invalid", "`kind`"),
            (r#"{"kind":"k"}"#, "invalid", "`payload`"),
            (r#"{"kind":5,"payload":1}"#, "invalid", "kind: invalid type"),
            (r#"{"kind":"","payload":1}"#, "invalid", "kind is empty"),
            (r#"{"kind":"k","payload":1,"kynd":1}"#, "invalid", "kynd"),
            (r#"{"kind":"k","payload":1,"doc_version":-1}"#, "invalid", "doc_version: "),
            (r#"{"kind":"k","payload":1,"doc_version":3}"#, "invalid", "doc_key"),
            (r#"{"kind":"k","payload":1,"deleted":"yes"}"#, "invalid", "deleted: "),
            (r#"{"kind":"k","payload":1,"payload_hash":"md5"}"#, "invalid", "payload_hash"),
            (r#"{"kind":"k","payload":1,"expect":1}"#, "invalid", "expect goes with updates"),
            (r#"{"kind":"k","payload":1,"updates":[]}"#, "invalid", "within updates"),
            (r#"{"updates":[]}"#, "invalid", "at least one"),
            (r#"{"updates":{}}"#, "invalid", "updates: "),
            (r#"{"updates":[{"kind":"k","payload":1},{"kind":"k"}]}"#, "invalid", "updates[1]"),
            (r#"{"updates":[{"kind":"k","payload":1}],"expect":-1}"#, "invalid", "expect: "),
            (r#"{"updates":[{"kind":"k","payload":1}],"expect":9007199254740992}"#, "invalid", "expect"),
            (r#"{"kind":"k","payload":1,"doc_key":"d","doc_version":1.5}"#, "invalid", "doc_version: "),
            (
                r#"{"kind":"k","payload":1,"doc_key":"d","doc_version":9007199254740992}"#,
                "invalid",
                "doc_version",
            ),
        ] {
            let (found, text) = parse(body).unwrap_err();
            assert_eq!(found, code, "{body}: {text}");
            assert!(text.contains(named), "{body}: {text}");
        }
    }

    #[test]
    fn a_batch_of_too_many_says_how_many_there_are() {
        let many = vec![r#"{"kind":"k","payload":1}"#; 1001].join(",");
        let (code, text) = parse(&format!(r#"{{"updates":[{many}]}}"#)).unwrap_err();
        assert_eq!(code, "too_many_updates");
        assert!(text.contains("1001"), "{text}");
        assert!(parse(&format!(r#"{{"updates":[{}]}}"#, &many[..many.len() - 25])).is_ok());
    }
}
