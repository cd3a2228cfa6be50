//! How much the tail may hold.

use std::time::Duration;

/// How much the tail may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TailOptions {
    /// Bytes of memory per topic, roughly, beyond its newest page.
    pub topic_bytes: usize,
    /// Bytes of memory per topic, roughly, for older history that was read recently and that others may replay.
    pub history_bytes: usize,
    /// Bytes of memory in all, roughly. Past it topics let go of what they hold, the one that was filled first at first.
    pub total_bytes: usize,
    /// How long a topic is kept that nobody follows.
    pub idle: Duration,
}

impl Default for TailOptions {
    fn default() -> Self {
        Self {
            topic_bytes: 4 << 20,
            history_bytes: 4 << 20,
            total_bytes: 256 << 20,
            idle: Duration::from_secs(60),
        }
    }
}

impl TailOptions {
    /// Holds at most that many bytes per topic, beyond its newest page.
    #[must_use]
    pub fn with_topic_bytes(mut self, bytes: usize) -> Self {
        self.topic_bytes = bytes;
        self
    }

    /// Holds at most that many bytes of history per topic.
    #[must_use]
    pub fn with_history_bytes(mut self, bytes: usize) -> Self {
        self.history_bytes = bytes;
        self
    }

    /// Holds at most that many bytes in all, beyond what was appended or read last.
    #[must_use]
    pub fn with_total_bytes(mut self, bytes: usize) -> Self {
        self.total_bytes = bytes;
        self
    }
}
