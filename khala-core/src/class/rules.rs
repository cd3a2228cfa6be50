//! What a class asks of its topics beside who opens them: its tier, its limits, how long its history is kept.
//!
//! Values only: who reads them keeps to them. What must stay true: every limit can be none, by name.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Retain {
    /// Updates that are at most this old.
    pub age: Option<Duration>,
    /// This many of the newest.
    pub updates: Option<u64>,
    /// As many of the newest as fit into this many bytes.
    pub bytes: Option<u64>,
    /// Tombstones of documents that are at most this old, and all tombstones whose updates are kept. The version of a document is
    /// deleted with its tombstone: after that, an older version is accepted. None: all tombstones.
    pub tombstones: Option<Duration>,
}

impl Retain {
    /// How old updates become unless a class says otherwise: a week.
    pub const AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    /// Keeps everything.
    pub const fn everything() -> Self {
        Self { age: None, updates: None, bytes: None, tombstones: None }
    }

    /// Keeps updates for that long. None: however old.
    #[must_use]
    pub const fn with_age(mut self, age: Option<Duration>) -> Self {
        self.age = age;
        self
    }

    /// Keeps that many of the newest updates. None: however many.
    #[must_use]
    pub const fn with_updates(mut self, updates: Option<u64>) -> Self {
        self.updates = updates;
        self
    }

    /// Keeps that many bytes of the newest updates. None: however many.
    #[must_use]
    pub const fn with_bytes(mut self, bytes: Option<u64>) -> Self {
        self.bytes = bytes;
        self
    }

    /// Keeps tombstones of documents for that long, and those whose updates are kept. None: however old.
    #[must_use]
    pub const fn with_tombstones(mut self, age: Option<Duration>) -> Self {
        self.tombstones = age;
        self
    }
}

impl Default for Retain {
    /// A week of history.
    fn default() -> Self {
        Self::everything().with_age(Some(Self::AGE))
    }
}
