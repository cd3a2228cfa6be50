//! The session's limits and intervals, with their defaults.

use std::{num::NonZeroUsize, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::{or_none, seconds};

/// What a session allows and how often it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct SessionOptions {
    /// Topics that one connection may join.
    pub topics: usize,
    /// Silence of a client after which it counts as gone, by a second look a second later: what came while the
    /// server itself stood still is read first.
    #[serde(rename = "heartbeat_timeout_seconds", with = "seconds")]
    pub heartbeat_timeout: Duration,
    /// How often the journal is asked although nothing was announced.
    #[serde(rename = "poll_interval_seconds", with = "seconds")]
    pub poll_interval: Duration,
    /// Silence on a topic after which its head is sent.
    #[serde(rename = "head_interval_seconds", with = "seconds")]
    pub head_interval: Duration,
    /// Wait before a failed read is tried again; clients are told the same. After each failure in a row a
    /// joined topic waits twice as long, up to `poll_interval`.
    #[serde(rename = "retry_after_seconds", with = "seconds")]
    pub retry_after: Duration,
    /// How long a WebSocket connection may take nothing of what it is sent before it is evicted. A topic's
    /// class may be stricter.
    #[serde(rename = "stall_timeout_seconds", with = "seconds")]
    pub stall_timeout: Duration,
    /// Bytes that all connections together may hold unsent; past it, connections that take nothing for five
    /// seconds are evicted. None: no limit.
    #[serde(with = "or_none")]
    pub outbox_bytes: Option<u64>,
    /// Malformed frames that are ignored before the connection is closed.
    pub malformed_frames: u32,
    /// Reads of the journal for one connection at once.
    pub concurrent_reads: NonZeroUsize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            topics: 1_024,
            heartbeat_timeout: Duration::from_secs(60),
            poll_interval: Duration::from_secs(10),
            head_interval: Duration::from_secs(30),
            retry_after: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(30),
            outbox_bytes: Some(256 << 20),
            malformed_frames: 16,
            concurrent_reads: const { NonZeroUsize::new(4).expect("4 is not zero") },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::assert_options;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        assert_options::<SessionOptions>();
    }
}
