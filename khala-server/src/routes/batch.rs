//! What a publish says, from the text of a body or of a line of a stream to a batch; and where it was stored, as both answer it.
//!
//! A body is parsed once. A payload is kept as the bytes that it came in as; its batch looks for what readers differ about.

use std::fmt;

use http::HeaderMap;
use khala_core::{
    Batch, DocKey, Kind, NewUpdate, Payload, Receipt, Topic, Watermark,
    journal::BatchError,
    update::{DedupKey, PayloadHash, TraceContext, TraceField},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;

use crate::{
    openapi,
    problem::Problem,
    request::{self, REQUEST_ID, given, invalid, whole},
};

/// The header that names a publish.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

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

impl From<Receipt> for Stored {
    fn from(Receipt { epoch, first, last }: Receipt) -> Self {
        Self { epoch, first, last }
    }
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
pub(super) struct One<'a> {
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
    /// Whether the document is gone; false where it is not said.
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    #[schema(value_type = Option<openapi::PayloadHash>)]
    payload_hash: Option<PayloadHash>,
}

/// One update, or many that are stored as a whole.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only described: a body is parsed as what is posted")]
pub(super) enum Publish {
    One(One<'static>),
    Many(Many),
}

/// Updates that are appended as a whole or not at all.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Batch)]
#[expect(dead_code, reason = "it is only described: a body is parsed as what is posted")]
pub(super) struct Many {
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

pub(super) fn batch(body: &[u8], trace: Option<&TraceContext>) -> Result<Batch, Problem> {
    let (updates, expect) = parts(request::parse(body)?)?;
    let batch = batch_of(updates, trace, "updates")?;
    let Some(head) = expect else { return Ok(batch) };
    let head = Watermark::new(head).ok_or_else(|| invalid("expect", "expect is not a watermark"))?;
    Ok(batch.with_expect(head))
}

/// A line of a stream to many topics: an update to append, the key that names its publish, and the topic that it is for.
// Where all lines have the same topic, they do not name it. The fields of an update stand here again, because serde's `flatten` neither
// refuses unknown fields nor keeps a payload's bytes.
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
    /// Whether the document is gone; false where it is not said.
    #[serde(default)]
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
