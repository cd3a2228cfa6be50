//! How much the tail may hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::seconds;

/// How much the tail may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct TailOptions {
    /// Bytes of memory per topic, roughly, beyond its newest page.
    pub topic_bytes: usize,
    /// Bytes of memory per topic, roughly, for older history that was read recently and that others may replay.
    pub history_bytes: usize,
    /// Bytes of memory in all, roughly. Past it topics let go of what they hold, the one that was filled first at first.
    pub total_bytes: usize,
    /// How long a topic is kept that nobody follows.
    #[serde(rename = "idle_seconds", with = "seconds")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::assert_options;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        assert_options::<TailOptions>();
    }
}
