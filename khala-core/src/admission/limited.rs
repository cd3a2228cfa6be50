//! What a limit says that does not let something through.

use std::{fmt, time::Duration};

use crate::wire::Code;

/// Whose limit it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitedBy {
    /// The address's: everybody's behind it.
    Address,
    /// The connection's own.
    Connection,
    /// The server's: of all who come to it.
    Node,
    /// The subject's: of all its connections.
    Subject,
}

impl LimitedBy {
    /// As it is in logs and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Connection => "connection",
            Self::Node => "node",
            Self::Subject => "subject",
        }
    }
}

/// Why something was not let through, and when to come back. Its `Display` names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limited {
    /// The reason: [`Code::TooManyConnections`], [`Code::JoinRateLimited`], [`Code::FrameRateLimited`] or
    /// [`Code::ReplayDeferred`].
    pub code: Code,
    /// After that long, in whole milliseconds, it is let through if nobody else of the same subject or address took
    /// the place. Where connections open at once are limited it is a second, as nobody knows when one ends.
    pub retry_after: Duration,
    /// Whose limit it was; of several, the one with the longest wait.
    pub by: LimitedBy,
}

impl Limited {
    /// A replay that the host of a session puts off.
    pub fn replay_deferred(retry_after: Duration) -> Self {
        Self { code: Code::ReplayDeferred, retry_after, by: LimitedBy::Node }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.by {
            LimitedBy::Address => "this address",
            LimitedBy::Connection => "this connection",
            LimitedBy::Node => "this server",
            LimitedBy::Subject => "the token's subject",
        };
        let what = match self.code {
            Code::FrameRateLimited => "sends frames too fast",
            Code::JoinRateLimited => "joins too often",
            Code::ReplayDeferred => "replays as much history as it may",
            _ if self.by == LimitedBy::Node => "has as many connections as it may",
            _ => "opens too many connections",
        };
        write!(f, "{whose} {what}: try again in {} ms", self.retry_after.as_millis())
    }
}

impl std::error::Error for Limited {}
