//! What is answered when something is refused: RFC 9457 problems, each with a `code` to act on.
//!
//! # Invariants
//! Nothing here holds a token, a file's path or a backend's own message. Those are for the log, where a request id finds them,
//! and for the record of a sweep, which only operators read.

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use khala_core::{
    Conflict, Error, ErrorKind, Stale, TextError, Topic,
    admission::{Limited, Rate},
    auth::Denied,
    class::TopicClass,
    publish::{PublishLimited, Refusal},
    wire::{Code, PathPrefix, StaleCursor},
};
use serde_json::{Map, Value, json};

/// How long a client is asked to wait when nothing tells better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A refusal, before it is written out.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    more: Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), headers: Vec::new(), more: Map::new() }
    }

    /// The request breaks a rule; `detail` names the field and the rule.
    pub(crate) fn invalid(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(crate) fn too_large(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail)
    }

    pub(crate) fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// Nothing is wrong with the request; another try will do.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).with_retry_after(RETRY_AFTER)
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says when to try again: in whole seconds for HTTP's sake, and exactly.
    pub(crate) fn with_retry_after(self, wait: Duration) -> Self {
        let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.with_header(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)))
            .with("retry_after_ms", ms)
    }

    /// Adds a member beside the standard ones.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// The cursor cannot be resumed from: the wire's own answer, as a problem, with every reason by the topic's class.
    pub(crate) fn stale_cursor(
        topic: &Topic,
        stale: Stale,
        class: Option<&TopicClass>,
        prefix: Option<&PathPrefix>,
    ) -> Self {
        let stale = stale.within(class.and_then(|class| class.replay_budget));
        let body = StaleCursor::new(topic, &stale, class, prefix);
        let mut problem = Self::new(StatusCode::GONE, Code::StaleCursor.as_str(), body.message.clone());
        if let Ok(Value::Object(more)) = serde_json::to_value(&body) {
            problem.more = more;
        }
        problem
    }

    /// Something was stored or deleted meanwhile; nothing was written.
    pub(crate) fn conflict(conflict: &Conflict) -> Self {
        let problem = |detail| Self::new(StatusCode::CONFLICT, "conflict", detail);
        match conflict {
            Conflict::Head { expected, found } => {
                problem(format!("the head was expected at {expected} and is at {found}"))
                    .with("conflict", "head")
                    .with("expected", expected.as_u64())
                    .with("found", found.as_u64())
            }
            Conflict::Dedup { first } => {
                let detail =
                    "another batch was stored under this key; a retry repeats its batch byte for byte";
                Self::new(StatusCode::CONFLICT, "dedup_mismatch", detail.to_owned())
                    .with("conflict", "dedup")
                    .with("epoch", first.epoch.to_string())
                    .with("first", first.first.as_u64())
                    .with("last", first.last.as_u64())
            }
            Conflict::DocVersion { doc_key, given, found } => problem(format!(
                "the document {doc_key:?} has version {found}; the version {given} does not exceed it"
            ))
            .with("conflict", "doc_version")
            .with("doc_key", doc_key.as_str())
            .with("given", *given)
            .with("found", *found),
            _ => problem("the topic is not as the batch expects it".to_owned()),
        }
    }

    /// The problem as JSON.
    pub(crate) fn to_value(&self) -> Value {
        let mut body = self.more.clone();
        body.insert("type".to_owned(), json!("about:blank"));
        body.insert("title".to_owned(), json!(self.status.canonical_reason().unwrap_or("Error")));
        body.insert("status".to_owned(), json!(self.status.as_u16()));
        body.insert("code".to_owned(), json!(self.code));
        body.insert("detail".to_owned(), json!(self.detail));
        Value::Object(body)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_value().to_string()));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(ProblemCode(self.code));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}

/// The code of an answer that is a problem, among the answer's extensions: for log and metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProblemCode(pub(crate) &'static str);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(denied) => denied.into(),
            Refusal::Failed(error) => error.into(),
            Refusal::HashMismatch { index, .. } => {
                Self::invalid(refusal.code(), refusal.detail()).with("index", index)
            }
            Refusal::Limited(limited) => limited.into(),
            Refusal::Protocol { code, detail, .. } => Self::invalid(code.as_str(), detail),
            Refusal::PublishLimited(limited) => limited.into(),
        }
    }
}

impl From<TextError> for Problem {
    fn from(fault: TextError) -> Self {
        let code = match fault.field() {
            "topic" => Code::InvalidTopic.as_str(),
            "doc_key" => "invalid_doc_key",
            _ => "invalid",
        };
        Self::invalid(code, fault.to_string()).with("field", fault.field())
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let (code, detail) = (denied.code().as_str(), denied.to_string());
        // RFC 6750, section 3: no error code where the client did not try to authenticate.
        let (status, challenge) = match denied {
            Denied::Unavailable(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "access cannot be checked");
                return Self::unavailable(code, detail);
            }
            Denied::ForbiddenTopic | Denied::OriginNotAllowed | Denied::OwnerMismatch { .. } => {
                return Self::new(StatusCode::FORBIDDEN, code, detail);
            }
            Denied::MissingScope { scopes } => {
                let scopes = scopes.join(" ");
                let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scopes}\"");
                let problem = Self::new(StatusCode::FORBIDDEN, code, detail).with("scope", scopes);
                return match HeaderValue::try_from(challenge) {
                    Ok(challenge) => problem.with_header(header::WWW_AUTHENTICATE, challenge),
                    Err(_) => problem,
                };
            }
            Denied::MissingToken => (StatusCode::UNAUTHORIZED, "Bearer"),
            _ => (StatusCode::UNAUTHORIZED, "Bearer error=\"invalid_token\""),
        };
        Self::new(status, code, detail)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }
}

impl From<Limited> for Problem {
    fn from(limited: Limited) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, limited.code.as_str(), limited.to_string())
            .with_retry_after(limited.retry_after)
    }
}

impl From<PublishLimited> for Problem {
    fn from(limited: PublishLimited) -> Self {
        let (code, detail) = (limited.code().as_str(), limited.to_string());
        let too_fast = |by: &str, rate: Rate, retry_after| {
            Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail.clone())
                .with("limited_by", by)
                .with("limit_per_second", rate.per_second().get())
                .with_retry_after(retry_after)
        };
        match limited {
            PublishLimited::PayloadTooLarge { index, limit, class, .. } => Self::too_large(code, detail)
                .with("index", index)
                .with("class", class)
                .with("limit_bytes", limit),
            PublishLimited::TooFast { class, tier, rate, retry_after } => {
                too_fast("topic", rate, retry_after).with("class", class).with("tier", tier.as_str())
            }
            PublishLimited::SubjectTooFast { rate, retry_after } => too_fast("subject", rate, retry_after),
            PublishLimited::TooManyNewTopics { rate, retry_after } => {
                too_fast("new_topics", rate, retry_after)
            }
        }
    }
}

impl From<Error> for Problem {
    /// By kind. The message may name files and hosts, so it goes to the log alone.
    fn from(error: Error) -> Self {
        let kind = error.kind();
        tracing::error!(kind = kind.as_str(), error = &error as &dyn std::error::Error, "the store failed");
        let status = match kind {
            // Not 507 where it is full, which fewer clients take for a reason to try again.
            ErrorKind::Full | ErrorKind::ReadOnly | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let refusal = Refusal::Failed(error);
        let problem = Self::new(status, refusal.code(), refusal.detail());
        match refusal.retry_after() {
            Some(wait) => problem.with_retry_after(wait),
            None => problem,
        }
    }
}
