//! The codes a client acts on: refusals by name, closes by number. Each number says whether to come back.

use std::fmt;

/// Why something was refused, as a client reads it. PROTOCOL.md lists them with what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// A claim of the token is not what is asked for.
    ClaimMismatch,
    /// The topic is not open to the token's subject.
    ForbiddenTopic,
    /// The connection, its subject or its address sends too many frames.
    FrameRateLimited,
    /// The `Authorization` header is not of the Bearer scheme.
    InvalidAuthorizationScheme,
    /// The join payload is malformed.
    InvalidJoin,
    /// The token is malformed, or its signature is wrong.
    InvalidToken,
    /// The topic's name breaks the rules for names.
    InvalidTopic,
    /// The connection, its subject or its address joins too often.
    JoinRateLimited,
    /// The frame is malformed.
    MalformedFrame,
    /// The token does not say when it was issued.
    MissingIat,
    /// The token has no id (`jti`).
    MissingJti,
    /// The token does not carry the scope that this needs.
    MissingScope,
    /// There is no token.
    MissingToken,
    /// Pages of this origin are not served.
    OriginNotAllowed,
    /// The topic belongs to another subject.
    OwnerMismatch,
    /// The payload is larger than the topic's class allows.
    PayloadTooLarge,
    /// More is published to the topic than its class allows.
    PublishRateLimited,
    /// The server replays as much as it may at once.
    ReplayDeferred,
    /// The cursor cannot be resumed from.
    StaleCursor,
    /// The token has run out.
    TokenExpired,
    /// The token's time has not come.
    TokenNotYetValid,
    /// The token was revoked.
    TokenRevoked,
    /// The token was issued too long ago.
    TokenTooOld,
    /// The subject or the address opens too many connections, or too fast.
    TooManyConnections,
    /// The connection has joined as many topics as it may.
    TooManyTopics,
    /// The request cannot be answered now.
    Unavailable,
    /// The channel has no such event: the sync connection is read-only.
    UnknownEvent,
    /// The key that the token names is not trusted.
    UnknownKid,
    /// The topic is not joined.
    UnmatchedTopic,
}

impl Code {
    /// Every code.
    pub const ALL: &[Self] = &[
        Self::ClaimMismatch,
        Self::ForbiddenTopic,
        Self::FrameRateLimited,
        Self::InvalidAuthorizationScheme,
        Self::InvalidJoin,
        Self::InvalidToken,
        Self::InvalidTopic,
        Self::JoinRateLimited,
        Self::MalformedFrame,
        Self::MissingIat,
        Self::MissingJti,
        Self::MissingScope,
        Self::MissingToken,
        Self::OriginNotAllowed,
        Self::OwnerMismatch,
        Self::PayloadTooLarge,
        Self::PublishRateLimited,
        Self::ReplayDeferred,
        Self::StaleCursor,
        Self::TokenExpired,
        Self::TokenNotYetValid,
        Self::TokenRevoked,
        Self::TokenTooOld,
        Self::TooManyConnections,
        Self::TooManyTopics,
        Self::Unavailable,
        Self::UnknownEvent,
        Self::UnknownKid,
        Self::UnmatchedTopic,
    ];

    /// The code as it is on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClaimMismatch => "claim_mismatch",
            Self::ForbiddenTopic => "forbidden_topic",
            Self::FrameRateLimited => "frame_rate_limited",
            Self::InvalidAuthorizationScheme => "invalid_authorization_scheme",
            Self::InvalidJoin => "invalid_join",
            Self::InvalidToken => "invalid_token",
            Self::InvalidTopic => "invalid_topic",
            Self::JoinRateLimited => "join_rate_limited",
            Self::MalformedFrame => "malformed_frame",
            Self::MissingIat => "missing_iat",
            Self::MissingJti => "missing_jti",
            Self::MissingScope => "missing_scope",
            Self::MissingToken => "missing_token",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::OwnerMismatch => "owner_mismatch",
            Self::PayloadTooLarge => "khala_frame_payload_too_large",
            Self::PublishRateLimited => "khala_publish_rate_limited",
            Self::ReplayDeferred => "replay_deferred",
            Self::StaleCursor => "stale_cursor",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::TokenRevoked => "token_revoked",
            Self::TokenTooOld => "token_too_old",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyTopics => "too_many_topics",
            Self::Unavailable => "unavailable",
            Self::UnknownEvent => "unknown_event",
            Self::UnknownKid => "unknown_kid",
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
    /// The client sent a text frame that is not UTF-8.
    InvalidUtf8,
    /// Nothing was heard from the client for too long.
    HeartbeatTimeout,
    /// The client sent too many malformed frames.
    Hostile,
    /// The key that the token was signed with is no longer trusted.
    KeyWithdrawn,
    /// The client broke the WebSocket's framing.
    ProtocolError,
    /// The server stops; it, or another server, is there in a moment.
    Restart,
    /// The client read nothing for too long.
    SlowConsumer,
    /// The token has run out.
    TokenExpired,
    /// The token was revoked.
    TokenRevoked,
    /// A frame was larger than allowed.
    TooBig,
    /// The client went on sending although it was told that it sends too many frames.
    TooManyFrames,
}

impl Close {
    /// Every close.
    pub const ALL: &[Self] = &[
        Self::InvalidUtf8,
        Self::HeartbeatTimeout,
        Self::Hostile,
        Self::KeyWithdrawn,
        Self::ProtocolError,
        Self::Restart,
        Self::SlowConsumer,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::TooBig,
        Self::TooManyFrames,
    ];

    /// The WebSocket close code.
    pub fn code(self) -> u16 {
        match self {
            Self::ProtocolError => 1002,
            Self::InvalidUtf8 => 1007,
            Self::Hostile => 1008,
            Self::TooBig => 1009,
            Self::Restart => 1012,
            Self::TooManyFrames => 1013,
            Self::HeartbeatTimeout => 4000,
            Self::TokenExpired => 4001,
            Self::SlowConsumer => 4002,
            Self::TokenRevoked => 4003,
            Self::KeyWithdrawn => 4004,
        }
    }

    /// The close reason, and the metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::Hostile => "too_many_malformed_frames",
            Self::KeyWithdrawn => "unknown_kid",
            Self::ProtocolError => "protocol_error",
            Self::Restart => "restart",
            Self::SlowConsumer => "slow_consumer_evicted",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::TooBig => "frame_too_big",
            Self::TooManyFrames => "too_many_frames",
        }
    }

    /// Whether the same client, unchanged, does well to connect again.
    ///
    /// `TokenExpired`, `TokenRevoked` and `KeyWithdrawn` count as no: they take a fresh token.
    pub fn come_back(self) -> bool {
        matches!(self, Self::HeartbeatTimeout | Self::Restart | Self::SlowConsumer | Self::TooManyFrames)
    }
}
