//! The session's limits and intervals, with their defaults.

use std::{num::NonZeroUsize, time::Duration};

/// What a session allows and how often it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Topics that one connection may join.
    pub topics: usize,
    /// Silence of the client after which it counts as gone.
    pub heartbeat_timeout: Duration,
    /// How often the journal is asked although nothing was announced.
    pub poll_every: Duration,
    /// Silence on a topic after which its head is told.
    pub head_every: Duration,
    /// Wait before a failed read is tried again; clients are told the same. After each failure in a row a joined topic
    /// waits twice as long, up to `poll_every`.
    pub retry_after: Duration,
    /// How long a connection may take nothing of what it is sent before it is evicted. A topic's class may be stricter.
    pub stall_limit: Duration,
    /// Bytes that all connections together may hold for clients that do not take them. Past it, those that take nothing
    /// for five seconds are evicted. None: no limit.
    pub outbox_bytes: Option<u64>,
    /// Frames that are none before the connection is closed.
    pub malformed_frames: u32,
    /// Questions to the journal under way at once.
    pub questions_at_once: NonZeroUsize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            topics: 1_024,
            heartbeat_timeout: Duration::from_secs(60),
            poll_every: Duration::from_secs(10),
            head_every: Duration::from_secs(30),
            retry_after: Duration::from_secs(1),
            stall_limit: Duration::from_secs(30),
            outbox_bytes: Some(256 << 20),
            malformed_frames: 16,
            questions_at_once: const { NonZeroUsize::new(4).expect("4 is not zero") },
        }
    }
}

impl SessionOptions {
    /// Lets a connection join that many topics.
    #[must_use]
    pub fn with_topics(mut self, topics: usize) -> Self {
        self.topics = topics;
        self
    }

    /// Takes a client for gone after that much silence.
    #[must_use]
    pub fn with_heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.heartbeat_timeout = timeout;
        self
    }

    /// Asks the journal that often although nothing was announced.
    #[must_use]
    pub fn with_poll_every(mut self, interval: Duration) -> Self {
        self.poll_every = interval;
        self
    }

    /// Tells the head of a topic after that much silence on it.
    #[must_use]
    pub fn with_head_every(mut self, interval: Duration) -> Self {
        self.head_every = interval;
        self
    }

    /// Tries a failed read again after that long, and tells clients the same.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = wait;
        self
    }

    /// Evicts a connection that takes nothing for that long.
    #[must_use]
    pub fn with_stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit = limit;
        self
    }

    /// Evicts those who take nothing sooner while all connections together hold more than that many bytes.
    #[must_use]
    pub fn with_outbox_bytes(mut self, bytes: Option<u64>) -> Self {
        self.outbox_bytes = bytes;
        self
    }

    /// Closes a connection that sends more than that many frames that are none.
    #[must_use]
    pub fn with_malformed_frames(mut self, frames: u32) -> Self {
        self.malformed_frames = frames;
        self
    }

    /// Asks the journal that many questions at once.
    #[must_use]
    pub fn with_questions_at_once(mut self, questions: NonZeroUsize) -> Self {
        self.questions_at_once = questions;
        self
    }
}
