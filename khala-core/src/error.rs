//! The one error of every trait: what went wrong, for the operator who must act on it.
//!
//! It is not for outcomes that a caller has to handle (a conflict, a stale cursor): those are enums that
//! must be matched. It is cheap to clone, because one failed commit answers everybody who waited for it.

use std::{any::Any, error::Error as StdError, fmt, sync::Arc};

/// What kind of fault an [`Error`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What is stored contradicts itself or cannot be read. Restore from a backup.
    Corrupt,
    /// There is no space left to store anything. Nothing was written.
    Full,
    /// A fault of the backend's own code, which panicked. Nothing of the request was stored; report it.
    Internal,
    /// The caller asked for something that can never succeed.
    Invalid,
    /// The store may be read and not written.
    ReadOnly,
    /// The stored schema is not the one that this version works with.
    Schema,
    /// The backend cannot answer now: locked, unreachable, shutting down.
    Unavailable,
}

impl ErrorKind {
    /// The kind as it appears in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Full => "full",
            Self::Internal => "internal",
            Self::Invalid => "invalid",
            Self::ReadOnly => "read_only",
            Self::Schema => "schema",
            Self::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure of a backend, opaque but for its kind.
///
/// Its `Display` names the backend, what happened, and where it helps what to do; the cause, if there is
/// one, is its [`source`](StdError::source).
#[derive(Clone, Debug)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    backend: &'static str,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A fault of `backend` without a cause of its own.
    pub fn new(kind: ErrorKind, backend: &'static str, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, backend, message: message.into(), source: None }))
    }

    /// A fault of `backend`, caused by `source`.
    pub fn caused_by(
        kind: ErrorKind,
        backend: &'static str,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, backend, message: message.into(), source: Some(source.into()) }))
    }

    /// For implementers of stores: code of `backend` panicked at one request, of which it has stored nothing. Logged.
    pub fn panicked(backend: &'static str, panic: &(dyn Any + Send)) -> Self {
        let said = panic_message(panic);
        tracing::error!(backend, said, "a request made the store panic");
        let message = format!("the store panicked at this request, and stored nothing of it: {said}");
        Self::new(ErrorKind::Internal, backend, message)
    }

    /// For implementers of stores: the part of `backend` that was asked has gone without an answer.
    pub fn unanswered(backend: &'static str) -> Self {
        let message = "the store gave no answer: it is shutting down, or a part of it has just failed and is started again; \
                       nothing is known of this request";
        Self::new(ErrorKind::Unavailable, backend, message)
    }

    /// What kind of fault this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The backend that reports it: `sqlite`, `postgres`, `memory`.
    pub fn backend(&self) -> &'static str {
        self.0.backend
    }

    /// Whether the same call may succeed later with nothing changed by the caller.
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Full | ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.backend, self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// What a panic said, for a log line.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
