//! Request bodies: read within bounds, and parsed once as JSON whose faults are named.

use std::{fmt, ops::Deref, pin::pin, time::Duration};

use axum::body::{Body, HttpBody as _};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use khala_core::{
    budget::{MemoryPart, MemoryShare},
    position::WholeNumber,
    text::without_byte_order_mark,
};
use serde::{Deserialize, Deserializer};
use tokio::time::{Instant, sleep};

use crate::{problem::Problem, shared::Shared, timeouts::timeout};

/// How often a body stands in memory, at most: as it came, as the updates that it holds, and as the store writes them.
pub(crate) const COPIES: usize = 3;
/// How long a body or a line waits for memory, and how often it asks.
pub(crate) const MEMORY_WAIT: Duration = Duration::from_secs(1);
pub(crate) const MEMORY_AGAIN: Duration = Duration::from_millis(50);

/// Whether a request without any body is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Empty {
    /// It is, and needs no Content-Type.
    Allowed,
    /// It is not JSON.
    Refused,
}

/// Whether a body has to find room in the memory budget. All of them count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Needed,
    /// Operators have to be able to act where clients have spent it.
    NotNeeded,
}

/// The whole body, if it is JSON by its own account, of at most `most` bytes, and soon enough here.
pub(crate) async fn read(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
    most: usize,
    empty: Empty,
    room: Room,
) -> Result<Whole, Problem> {
    let untyped = empty == Empty::Allowed && !headers.contains_key(header::CONTENT_TYPE);
    if !untyped && !is_of(headers, "application/json") {
        return Err(unsupported());
    }
    let body = read_bytes(shared, body, most, room).await?;
    if untyped && !body.is_empty() {
        return Err(unsupported());
    }
    Ok(body)
}

/// The whole body of at most `most` bytes, of whatever type, and soon enough here.
pub(crate) async fn read_bytes(
    shared: &Shared,
    body: Body,
    most: usize,
    room: Room,
) -> Result<Whole, Problem> {
    let limits = &shared.0.limits;
    let most = most.min(limits.body_bytes);
    let too_large =
        || Problem::too_large("body_too_large", format!("the body may have {most} bytes at most"));
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut share = shared.0.khala.memory().share(MemoryPart::Bodies);
    let whole = async {
        let mut body = pin!(body);
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let broken = |_| Problem::invalid("incomplete_body", "the body ended before it was whole");
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            if whole.len() + data.remaining() > most {
                return Err(too_large());
            }
            let more = (COPIES * data.remaining()) as u64;
            match room {
                Room::Needed => grow(&mut share, more).await?,
                Room::NotNeeded => share.hold(share.bytes() + more),
            }
            whole.put(data);
        }
        Ok(whole.freeze())
    };
    let body = match timeout(limits.body_timeout, whole).await {
        Ok(body) => body?,
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", limits.body_timeout.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail));
        }
    };
    Ok(Whole { bytes: body, _share: share })
}

/// A body, and its share of the memory budget.
#[derive(Debug)]
pub(crate) struct Whole {
    bytes: Bytes,
    _share: MemoryShare,
}

impl Deref for Whole {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes more of the memory budget, and waits a moment for it where there is none: most of what takes memory is brief.
async fn grow(share: &mut MemoryShare, bytes: u64) -> Result<(), Problem> {
    let deadline = Instant::now() + MEMORY_WAIT;
    while share.grow(bytes).is_err() {
        if Instant::now() >= deadline {
            return Err(no_memory(MemoryPart::Bodies));
        }
        sleep(MEMORY_AGAIN).await;
    }
    Ok(())
}

/// What is answered where the memory budget is spent.
pub(crate) fn no_memory(part: MemoryPart) -> Problem {
    part.count_refusal();
    Problem::unavailable("memory_limit", "the server has no memory left for this now (memory_bytes)")
}

/// Refuses a body that is encoded: bodies are taken as they are, and a compressed one would be taken for broken JSON.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let is_identity = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"identity");
    if codings.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).all(is_identity) {
        return Ok(());
    }
    let detail = "a body is taken without a Content-Encoding: send it uncompressed";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding", detail)
        .with_header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

/// Whether the Content-Type is `media_type`, with whatever parameters.
pub(crate) fn is_of(headers: &HeaderMap, media_type: &str) -> bool {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(media_type)
}

fn unsupported() -> Problem {
    let detail =
        "the Content-Type here is application/json (or application/x-ndjson, where updates are published)";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

/// The body as a `T`, which is a JSON object. A fault names its field.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    parse_part("body", without_byte_order_mark(body))
}

/// The same for a part of a body; `part` is what faults call it.
pub(crate) fn parse_part<'a, T: Deserialize<'a>>(part: &str, bytes: &'a [u8]) -> Result<T, Problem> {
    let no_json =
        |fault: fmt::Arguments<'_>| Problem::invalid("invalid_json", format!("the {part} is not {fault}"));
    let text = std::str::from_utf8(bytes).map_err(|_| no_json(format_args!("UTF-8")))?;
    if !text.trim_start().starts_with('{') {
        return Err(no_json(format_args!("a JSON object")));
    }
    // Nearly all are as they should be. Only to say what is not, and where, it is read once more.
    if let Ok(parsed) = serde_json::from_str(text) {
        return Ok(parsed);
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|fault| {
        let field = fault.path().to_string();
        let fault = fault.into_inner();
        if fault.is_data() {
            let place = if field == "." { String::new() } else { format!("{field}: ") };
            invalid(&field, format!("{place}{fault}"))
        } else {
            no_json(format_args!("JSON: {fault}"))
        }
    })?;
    json.end().map_err(|fault| no_json(format_args!("JSON: {fault}")))?;
    Ok(parsed)
}

/// A field that breaks a rule.
pub(crate) fn invalid(field: &str, detail: impl Into<String>) -> Problem {
    Problem::invalid("invalid", detail).with("field", field)
}

/// A whole number, or null for none.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Option::<WholeNumber>::deserialize(deserializer)?.map(WholeNumber::as_u64))
}

/// A field that may be left out, and that is not `null` where it is there.
pub(crate) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The same, and not null.
pub(crate) fn given_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(given::<WholeNumber, D>(deserializer)?.map(WholeNumber::as_u64))
}
