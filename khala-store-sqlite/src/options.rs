//! How a store is opened.

use std::{num::NonZeroUsize, time::Duration};

use khala_core::{config::seconds, health::Health};
use serde::{Deserialize, Serialize};

/// When an append, or a revocation, is on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Durability {
    /// Before it is acknowledged and before anybody can read it: `synchronous=FULL`.
    #[default]
    Full,
    /// Some time after: `synchronous=NORMAL`. A killed process loses nothing. A power loss or a crash of the
    /// operating system may take the last acknowledged commits back, also from subscribers that have seen them;
    /// their cursors are then ahead of the head, until new updates take the same seqs under the same epoch. A
    /// revocation that is lost so lets in again whomever it named.
    MayLoseLastCommitsOnPowerLoss,
}

/// How a store is opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct SqliteOptions {
    /// When an append or a revocation is on stable storage. `full`: before it is acknowledged and before
    /// anybody can read it. `may_lose_last_commits_on_power_loss`: some time later.
    pub durability: Durability,
    /// How many connections read, and so how many reads run at once.
    pub readers: NonZeroUsize,
    /// How long to wait for a lock that another process holds.
    #[serde(rename = "busy_timeout_seconds", with = "seconds")]
    pub busy_timeout: Duration,
    /// How often the server looks for writes of other processes, while a topic or the revocations are watched.
    /// At least every millisecond.
    #[serde(rename = "watch_interval_seconds", with = "seconds")]
    pub watch_interval: Duration,
    /// What the store's threads report to. Default: a health of its own.
    #[serde(skip)]
    pub health: Health,
    /// The most pages that the file may have: how tests fill a disk.
    #[doc(hidden)]
    #[serde(skip)]
    pub max_pages: Option<u32>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            readers: NonZeroUsize::new(4).expect("4 is not zero"),
            busy_timeout: Duration::from_secs(5),
            watch_interval: Duration::from_millis(50),
            health: Health::new(),
            max_pages: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        let of = |text: &str| {
            serde_json::from_str::<SqliteOptions>(text).map(|options| serde_json::to_value(options).unwrap())
        };
        let defaults = serde_json::to_value(SqliteOptions::default()).unwrap();
        assert_eq!(of("{}").unwrap(), defaults);
        assert_eq!(of(&defaults.to_string()).unwrap(), defaults);
        let set = of(r#"{"durability": "full", "watch_interval_seconds": 0.05}"#).unwrap();
        assert_eq!(set, defaults);
        for unknown in [r#"{"reader": 1}"#, r#"{"health": {}}"#, r#"{"max_pages": 1}"#] {
            assert!(of(unknown).unwrap_err().to_string().contains("unknown field"), "{unknown}");
        }
    }
}
