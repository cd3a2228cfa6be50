//! What a class asks of its topics beside who opens them: its tier, its limits, how long its history is kept.
//!
//! Values only: who reads them keeps to them.
//!
//! # Invariants
//! Every limit can be none, by name.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{or_none, seconds_or_none};

/// How a class is looked after: told to clients that have to start again, and to operators.
///
/// The order is that of their haste: hot topics are short-lived and read live, cold ones are rarely read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tier {
    /// Read live; little history is worth replaying.
    Hot,
    /// Read live and replayed at length.
    Warm,
    /// Whatever else there is.
    #[default]
    Cold,
}

impl Tier {
    /// The tier as it is on the wire and in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// How much of a topic's history is kept: an update stays if every limit that is set keeps it. None: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct Retain {
    /// How old an update may become before it is deleted. None: no limit.
    #[serde(rename = "age_seconds", with = "seconds_or_none")]
    pub age: Option<Duration>,
    /// How many of a topic's newest updates are kept. None: no limit. Example: `50_000`.
    #[serde(with = "or_none")]
    pub updates: Option<u64>,
    /// How many bytes of a topic's newest updates are kept. None: no limit. Example: `104_857_600`.
    #[serde(with = "or_none")]
    pub bytes: Option<u64>,
    /// The age at which the tombstone of a deleted document is deleted, once its updates are no longer kept.
    /// The version of the document is deleted with the tombstone: after that, an older version is accepted.
    /// None: all tombstones are kept. Example: `2_592_000`.
    #[serde(rename = "tombstones_seconds", with = "seconds_or_none")]
    pub tombstones: Option<Duration>,
}

impl Retain {
    /// How old updates become unless a class says otherwise: a week.
    pub const AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    /// Keeps everything.
    pub const fn everything() -> Self {
        Self { age: None, updates: None, bytes: None, tombstones: None }
    }
}

impl Default for Retain {
    /// A week of history.
    fn default() -> Self {
        Self { age: Some(Self::AGE), ..Self::everything() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::assert_options;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        assert_options::<Retain>();
    }
}
