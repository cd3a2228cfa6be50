//! The client's one error: each variant is something that an application does something else about.
//!
//! None of them ever holds the token.

use std::{error::Error as StdError, time::Duration};

use khala_core::wire::Code;
use serde::Deserialize;

use crate::backoff::Backoff;

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
    /// A WebSocket that was open broke, or the server closed it and wants the client back.
    #[error("the connection to {url} was lost: {reason}")]
    Disconnected {
        /// The server.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The client's own task panicked, or code of the application's that it calls, such as its source of tokens: the message.
    #[error("the client panicked: {0}")]
    Panicked(String),
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

    /// A refusal that the server put into a number alone.
    pub(crate) fn of(code: Code, message: &str) -> Self {
        let (code, message) = (code.as_str().to_owned(), message.to_owned());
        Self { code, message, status: None, retry_after: None }
    }

    /// Whether the token is at fault: missing, not trusted, expired, revoked, or not one that opens this.
    pub fn is_about_token(&self) -> bool {
        self.wants_token()
            || self.status == Some(403)
            || matches!(self.known(), Some(Code::ForbiddenTopic | Code::MissingScope | Code::OwnerMismatch))
    }

    /// Whether somebody has to see to the server before it can answer: it says that it cannot, and not when to try
    /// again. A subscription comes back all the same, but slowly.
    pub fn needs_operator(&self) -> bool {
        self.known() == Some(Code::Unavailable) && self.retry_after.is_none()
    }

    /// Whether a fresh token of the same holder may do.
    pub(crate) fn wants_token(&self) -> bool {
        use Code::*;
        self.status == Some(401)
            || matches!(
                self.known(),
                Some(
                    ClaimMismatch
                        | InvalidAuthorizationScheme
                        | InvalidToken
                        | MissingIat
                        | MissingJti
                        | MissingToken
                        | TokenExpired
                        | TokenNotYetValid
                        | TokenRevoked
                        | TokenTooOld
                        | UnknownKid
                )
            )
    }

    /// The code, if it is one that this version of the protocol has.
    fn known(&self) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.as_str() == self.code)
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
            Self::Panicked(_) | Self::Protocol(_) => false,
            Self::Refused(refused) => {
                refused.retry_after.is_some()
                    || matches!(refused.status, Some(408 | 425 | 429 | 502 | 503 | 504))
                    || matches!(
                        refused.known(),
                        Some(
                            Code::FrameRateLimited
                                | Code::JoinRateLimited
                                | Code::PublishRateLimited
                                | Code::ReplayDeferred
                                | Code::TooManyConnections
                                | Code::Unavailable
                        )
                    )
            }
            Self::Disconnected { .. } | Self::Token(_) | Self::Unreachable { .. } => true,
        }
    }

    /// The refusal, if it is one.
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }

    /// How long to leave the server alone at least: what it asks for, or long where it cannot help itself.
    pub(crate) fn at_least(&self, backoff: &Backoff) -> Option<Duration> {
        let refused = self.refused()?;
        refused.retry_after.or_else(|| refused.needs_operator().then_some(backoff.most))
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
        let down = Refused::read(br#"{"code":"unavailable"}"#, None);
        assert!(down.needs_operator() && !reply.needs_operator());
        let backoff = Backoff::default();
        assert_eq!(Error::Refused(down).at_least(&backoff), Some(backoff.most));
        assert_eq!(Error::Refused(reply).at_least(&backoff), Some(Duration::from_millis(5)));
        let phoenix = Refused::read(br#"{"reason":"unmatched topic"}"#, None);
        assert_eq!(phoenix.code, "unmatched topic");
    }

    #[test]
    fn each_code_says_what_helps() {
        for code in Code::ALL {
            let refused = Refused::of(*code, "");
            let helps = match code {
                Code::ClaimMismatch
                | Code::InvalidAuthorizationScheme
                | Code::InvalidToken
                | Code::MissingIat
                | Code::MissingJti
                | Code::MissingToken
                | Code::TokenExpired
                | Code::TokenNotYetValid
                | Code::TokenRevoked
                | Code::TokenTooOld
                | Code::UnknownKid => "a token",
                Code::ForbiddenTopic | Code::MissingScope | Code::OwnerMismatch => "another token",
                Code::FrameRateLimited
                | Code::JoinRateLimited
                | Code::PublishRateLimited
                | Code::ReplayDeferred
                | Code::TooManyConnections
                | Code::Unavailable => "time",
                _ => "nothing",
            };
            let said =
                (refused.wants_token(), refused.is_about_token(), Error::Refused(refused).is_retryable());
            let expected = (helps == "a token", helps.ends_with("token"), helps == "time");
            assert_eq!(said, expected, "{code}");
        }
    }
}
