//! The session's limits and intervals, with their defaults.

use std::{num::NonZeroUsize, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::{or_none, seconds};

/// What a session allows and how often it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct SessionOptions {
    /// How many topics one connection may join.
    pub topics: usize,
    /// How long a client may be silent before its connection is closed. The server looks a second time after
    /// another second, so that frames which arrived while the server itself was paused are read first.
    #[serde(rename = "heartbeat_timeout_seconds", with = "seconds")]
    pub heartbeat_timeout: Duration,
    /// How often the journal is read although nothing was announced.
    #[serde(rename = "poll_interval_seconds", with = "seconds")]
    pub poll_interval: Duration,
    /// How long a topic must be silent before its head is sent.
    #[serde(rename = "head_interval_seconds", with = "seconds")]
    pub head_interval: Duration,
    /// How long to wait before a failed read is tried again. Clients are told the same time. After each further
    /// failure a joined topic waits twice as long, up to `poll_interval_seconds`.
    #[serde(rename = "retry_after_seconds", with = "seconds")]
    pub retry_after: Duration,
    /// How long a WebSocket connection may take nothing of what it is sent before it is evicted. A topic's
    /// class may set a shorter time.
    #[serde(rename = "stall_timeout_seconds", with = "seconds")]
    pub stall_timeout: Duration,
    /// How many unsent bytes all connections together may hold. If they hold more, connections that take
    /// nothing for five seconds are evicted. None: no limit.
    #[serde(with = "or_none")]
    pub outbox_bytes: Option<u64>,
    /// How many malformed frames are ignored before the connection is closed.
    pub malformed_frames: u32,
    /// How many reads of the journal one connection may have at once.
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
