//! How much the tail may hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{config::seconds, journal::ReadLimit};

/// How much the tail may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct TailOptions {
    /// About how much memory the newest updates of a followed topic may use, in addition to its newest page.
    pub topic_bytes: usize,
    /// About how much memory the older history of a topic may use that was read recently and that other clients
    /// may replay.
    pub history_bytes: usize,
    /// About how much memory all topics together may use, and at most half of the node's memory budget. Beyond
    /// it, topics drop what they hold, beginning with the topic that was filled first.
    pub total_bytes: usize,
    /// Each batch of updates and each page of a snapshot is smaller than this many bytes when it is sent,
    /// unless one update alone is larger. Some WebSocket clients refuse messages of more than 1 MiB.
    pub batch_bytes: usize,
    /// How long a topic that nobody follows stays in memory.
    #[serde(rename = "idle_seconds", with = "seconds")]
    pub idle: Duration,
}

impl TailOptions {
    /// The least [`batch_bytes`](Self::batch_bytes) that is of use: with less, what stands beside the payloads leaves no room for a
    /// second update, and each is sent alone.
    pub const MIN_BATCH_BYTES: usize = 256 << 10;
    /// The most that is of use: Khala's own client takes no frame of more than 64 MiB.
    pub const MAX_BATCH_BYTES: usize = 32 << 20;

    /// What one page holds.
    pub(crate) fn page_limit(&self) -> ReadLimit {
        ReadLimit::of_batch(self.batch_bytes)
    }
}

impl Default for TailOptions {
    fn default() -> Self {
        Self {
            topic_bytes: 4 << 20,
            history_bytes: 4 << 20,
            total_bytes: 256 << 20,
            batch_bytes: 1 << 20,
            idle: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::assert_options;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        assert_options::<TailOptions>();
    }
}
