//! The client's one error: each variant is something that an application does something else about.
//!
//! None of them ever holds the token.

use std::{error::Error as StdError, time::Duration};

use serde::Deserialize;

/// Why the client gave up, or why it has to try again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server closed the connection and does not want this client back as it is.
    #[error("the server closed the connection for good: {reason} ({code})")]
    Closed {
        /// The WebSocket close code.
        code: u16,
        /// The reason that came with it.
        reason: String,
    },
    /// What came over the wire is not the protocol: another kind of server, or a fault in this one.
    #[error("{0}")]
    Protocol(String),
    /// The server understood and said no.
    #[error("{0}")]
    Refused(Refused),
    /// The client was given something that it cannot work with. Nothing was sent.
    #[error("{0}")]
    Settings(String),
    /// The application's own source of tokens failed.
    #[error("there is no token to be had: {0}")]
    Token(#[source] Box<dyn StdError + Send + Sync>),
    /// No answer came: nobody listens there, the connection broke, or it took too long.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// The server.
        url: String,
        /// What happened.
        reason: String,
    },
}

/// A refusal by the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.explain())]
#[non_exhaustive]
pub struct Refused {
    /// What a machine acts on: a code of PROTOCOL.md, or `http_` and the status where the answer has none.
    pub code: String,
    /// What a person reads.
    pub message: String,
    /// The HTTP status; none where a join was refused.
    pub status: Option<u16>,
    /// When to try again, if the server says.
    pub retry_after: Option<Duration>,
}

/// What refusals look like: an error reply, `sync:error`, `application/problem+json`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RefusalJson {
    code: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    detail: Option<String>,
    title: Option<String>,
    retry_after_ms: Option<u64>,
}

impl Refused {
    /// Reads a refusal of any of the three shapes; what it does not say is put in words.
    pub(crate) fn read(json: &[u8], status: Option<u16>) -> Self {
        let RefusalJson { code, reason, message, detail, title, retry_after_ms } =
            serde_json::from_slice(json).unwrap_or_default();
        let unnamed = || status.map_or_else(|| "unnamed".to_owned(), |status| format!("http_{status}"));
        Self {
            code: code.or(reason).unwrap_or_else(unnamed),
            message: message.or(detail).or(title).unwrap_or_default(),
            status,
            retry_after: retry_after_ms.map(Duration::from_millis),
        }
    }

    /// Whether the token is at fault: missing, expired, revoked, or without the scope that this needs.
    pub fn is_about_token(&self) -> bool {
        matches!(self.status, Some(401 | 403))
            || matches!(self.code.as_str(), "missing_scope" | "forbidden_topic" | "owner_mismatch")
            || self.code.starts_with("token_")
    }

    /// Whether another token may do.
    pub(crate) fn wants_token(&self) -> bool {
        self.status == Some(401) || self.code == "token_expired"
    }

    fn explain(&self) -> String {
        let Self { code, message, status, .. } = self;
        let said = if message.is_empty() { code.clone() } else { format!("{message} ({code})") };
        match status {
            Some(404) if code == "http_404" => {
                "the server knows no such address (http_404); is this the URL of a Khala server?".to_owned()
            }
            _ => format!("the server refused: {said}"),
        }
    }
}

impl Error {
    /// Whether the same thing may succeed later, with nothing changed by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Closed { .. } | Self::Settings(_) => false,
            Self::Protocol(_) => false,
            Self::Refused(refused) => {
                refused.retry_after.is_some()
                    || matches!(refused.status, Some(408 | 425 | 429 | 502 | 503 | 504))
                    || refused.code == "unavailable"
            }
            Self::Token(_) | Self::Unreachable { .. } => true,
        }
    }

    /// The refusal, if it is one.
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }

    /// How long the server asked to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.refused().and_then(|refused| refused.retry_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_every_shape_are_read() {
        let reply = Refused::read(br#"{"code":"unavailable","message":"later","retry_after_ms":5}"#, None);
        assert_eq!((&*reply.code, reply.retry_after), ("unavailable", Some(Duration::from_millis(5))));
        let problem =
            Refused::read(br#"{"code":"missing_scope","detail":"no scope","status":403}"#, Some(403));
        assert!(problem.is_about_token() && !Error::Refused(problem.clone()).is_retryable());
        assert_eq!(problem.to_string(), "the server refused: no scope (missing_scope)");
        let page = Refused::read(b"<html>", Some(502));
        assert_eq!(page.code, "http_502");
        assert!(Error::Refused(page).is_retryable());
        let phoenix = Refused::read(br#"{"reason":"unmatched topic"}"#, None);
        assert_eq!(phoenix.code, "unmatched topic");
    }
}
