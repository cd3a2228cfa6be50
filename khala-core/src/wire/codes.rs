//! The codes a client acts on: refusals by name, closes by number. Each number says whether to come back.

use std::fmt;

/// Why something was refused, as a client reads it. PROTOCOL.md lists them with what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The join payload is not one.
    InvalidJoin,
    /// The topic's name breaks the rules for names.
    InvalidTopic,
    /// The frame is not one.
    MalformedFrame,
    /// The token does not carry the scope that this needs.
    MissingScope,
    /// The cursor cannot be resumed from.
    StaleCursor,
    /// The connection has joined as many topics as it may.
    TooManyTopics,
    /// The journal cannot answer now.
    Unavailable,
    /// The channel has no such event: the sync connection is read-only.
    UnknownEvent,
    /// The topic is not joined.
    UnmatchedTopic,
}

impl Code {
    /// Every code.
    pub const ALL: &[Self] = &[
        Self::InvalidJoin,
        Self::InvalidTopic,
        Self::MalformedFrame,
        Self::MissingScope,
        Self::StaleCursor,
        Self::TooManyTopics,
        Self::Unavailable,
        Self::UnknownEvent,
        Self::UnmatchedTopic,
    ];

    /// The code as it is on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJoin => "invalid_join",
            Self::InvalidTopic => "invalid_topic",
            Self::MalformedFrame => "malformed_frame",
            Self::MissingScope => "missing_scope",
            Self::StaleCursor => "stale_cursor",
            Self::TooManyTopics => "too_many_topics",
            Self::Unavailable => "unavailable",
            Self::UnknownEvent => "unknown_event",
            Self::UnmatchedTopic => "unmatched_topic",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Close {
    /// The client sent a binary frame.
    BinaryFrame,
    /// The client sent a text frame that is not UTF-8.
    InvalidUtf8,
    /// Nothing was heard from the client for too long.
    HeartbeatTimeout,
    /// The client sent too many frames that are none.
    Hostile,
    /// The client broke the WebSocket's framing.
    ProtocolError,
    /// The server stops; another or the same one is there in a moment.
    Restart,
    /// The client read nothing for too long.
    SlowConsumer,
    /// The token has run out.
    TokenExpired,
    /// A frame was larger than allowed.
    TooBig,
}

impl Close {
    /// Every close.
    pub const ALL: &[Self] = &[
        Self::BinaryFrame,
        Self::InvalidUtf8,
        Self::HeartbeatTimeout,
        Self::Hostile,
        Self::ProtocolError,
        Self::Restart,
        Self::SlowConsumer,
        Self::TokenExpired,
        Self::TooBig,
    ];

    /// The WebSocket close code.
    pub fn code(self) -> u16 {
        match self {
            Self::ProtocolError => 1002,
            Self::BinaryFrame => 1003,
            Self::InvalidUtf8 => 1007,
            Self::Hostile => 1008,
            Self::TooBig => 1009,
            Self::Restart => 1012,
            Self::HeartbeatTimeout => 4000,
            Self::TokenExpired => 4001,
            Self::SlowConsumer => 4002,
        }
    }

    /// The close reason, and the metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BinaryFrame => "binary_frame",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::Hostile => "too_many_malformed_frames",
            Self::ProtocolError => "protocol_error",
            Self::Restart => "restart",
            Self::SlowConsumer => "slow_consumer_evicted",
            Self::TokenExpired => "token_expired",
            Self::TooBig => "frame_too_big",
        }
    }

    /// Whether the same client, unchanged, does well to connect again.
    ///
    /// `TokenExpired` counts as no: it takes a fresh token.
    pub fn come_back(self) -> bool {
        matches!(self, Self::HeartbeatTimeout | Self::Restart | Self::SlowConsumer)
    }
}
