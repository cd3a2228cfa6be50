//! The options of a server, written by field or read from a settings file.

use std::{num::NonZeroU32, time::Duration};

use khala_core::config::{or_none, seconds};
use serde::{Deserialize, Serialize};

/// What clients may send, and how long they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct Limits {
    /// The most bytes of a request's body; in a stream of updates, of one line. Default: 8 MiB.
    pub body_bytes: usize,
    /// How long a request's body may take to arrive. In a stream of updates, how long the next line may take,
    /// and how long a line may wait for a rate. Default: 30 s.
    #[serde(rename = "body_timeout_seconds", with = "seconds")]
    pub body_timeout: Duration,
    /// The most bytes of a WebSocket message from a client, and of each of its frames. Default: 64 KiB.
    pub frame_bytes: usize,
    /// The most HTTP connections of all clients that are open at once. WebSockets do not count; a long poll that
    /// waits does. Set this and `admission.connections` so that together they are less than the number of files
    /// that the process may open. Example: `2000`. Default: no limit.
    #[serde(with = "or_none")]
    pub http_connections: Option<NonZeroU32>,
    /// The most HTTP connections of one address (IPv6: one /64) that are open at once. Connections of trusted
    /// proxies do not count. Example: `100`. Default: no limit.
    #[serde(with = "or_none")]
    pub http_connections_per_address: Option<NonZeroU32>,
    /// The most requests of one token's `sub` that run at once. A request ends when its client has taken the
    /// answer or has disconnected, and its updates are stored. A stream of updates is one request. A WebSocket
    /// and a long poll are none: they count as connections. Example: `20`. Default: no limit.
    #[serde(with = "or_none")]
    pub requests_per_subject: Option<NonZeroU32>,
    /// The most requests of one address that run at once. Behind trusted proxies, the client's address counts.
    /// Example: `100`. Default: no limit.
    #[serde(with = "or_none")]
    pub requests_per_address: Option<NonZeroU32>,
    /// How long the head of a request may take to arrive, from its first byte. On a new connection, the time
    /// counts from the connection's start. Default: 10 s.
    #[serde(rename = "header_timeout_seconds", with = "seconds")]
    pub header_timeout: Duration,
    /// How long a connection stays open between two requests: at least this long, and at most a quarter longer.
    /// Set it longer than a load balancer in front keeps its own connections (often 60 s), because a request
    /// that meets the close is lost. Default: 75 s.
    #[serde(rename = "keep_alive_timeout_seconds", with = "seconds")]
    pub keep_alive_timeout: Duration,
    /// How many bytes the operating system may buffer for one client. The system takes bytes from the server in
    /// steps of about a third of its buffer: with a large buffer, a client that reads slowly looks like a
    /// client that takes nothing. None: the system decides. Default: 256 KiB.
    #[serde(with = "or_none")]
    pub send_buffer_bytes: Option<usize>,
    /// How long a long poll waits for something to send. `khala-server` waits for half of `session.heartbeat_timeout_seconds` at most.
    /// The wait must be shorter than the time that `phoenix` gives a request (`longpollerTimeout`, 20 s), and than the time that a proxy
    /// gives an answer. Default: 10 s.
    #[serde(rename = "long_poll_wait_seconds", with = "seconds")]
    pub long_poll_wait: Duration,
    /// How long a session of long polling lives without a request. A client that comes back later opens a new one and
    /// resumes from its cursors. Default: 30 s.
    #[serde(rename = "long_poll_session_timeout_seconds", with = "seconds")]
    pub long_poll_session_timeout: Duration,
    /// How long a client may take nothing of an answer over HTTP. Default: 30 s.
    #[serde(rename = "stall_timeout_seconds", with = "seconds")]
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            body_timeout: Duration::from_secs(30),
            frame_bytes: 64 << 10,
            http_connections: None,
            http_connections_per_address: None,
            requests_per_subject: None,
            requests_per_address: None,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            long_poll_wait: Duration::from_secs(10),
            long_poll_session_timeout: Duration::from_secs(30),
            send_buffer_bytes: Some(256 << 10),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// What tokens may say of their own time, and so how long a revocation has to be kept.
///
/// They are those of the verifier: with shorter ones, what was revoked could be valid again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct RevocationTerms {
    /// The longest age of a token. None: there is none, so what is revoked is kept for good unless its order says
    /// until when. Default: a day.
    pub max_age: Option<Duration>,
    /// How far the clocks of issuers may be off. Default: five seconds, as in [`JwtOptions`](khala_auth::JwtOptions).
    ///
    /// A token may say that it is issued that much later than it was. So a revocation by `sub` takes back what says
    /// to be issued until this much after it, a new login's tokens too.
    pub leeway: Duration,
}

impl Default for RevocationTerms {
    fn default() -> Self {
        Self { max_age: Some(Duration::from_secs(24 * 60 * 60)), leeway: Duration::from_secs(5) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        let of = |text: &str| {
            serde_json::from_str::<Limits>(text).map(|options| serde_json::to_value(options).unwrap())
        };
        let defaults = serde_json::to_value(Limits::default()).unwrap();
        assert_eq!(of("{}").unwrap(), defaults);
        assert_eq!(of(&defaults.to_string()).unwrap(), defaults);
        assert!(of(r#"{"body_seconds": 1}"#).unwrap_err().to_string().contains("unknown field"));
    }
}
