//! What a trim keeps, how it judges the age of an update, and what it reports. Values only.

use std::time::Duration;

use crate::{
    position::{Bounds, Seq, Watermark},
    update::Timestamp,
};

/// What trimming keeps. An update stays if every limit that is set keeps it; what is not set keeps all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "an order to trim is data, written by field")]
pub struct Keep {
    /// Updates that are at most this old. Ends at the first one that is: the log is trimmed from its start only.
    pub age: Option<Duration>,
    /// This many of the newest.
    pub updates: Option<u64>,
    /// As many of the newest as fit into this many bytes ([`Update::size`](crate::Update::size)).
    pub bytes: Option<u64>,
    /// Everything after this watermark, whatever the limits say (J14).
    pub never_past: Option<Watermark>,
    /// Tombstones that are at most this old, and those whose updates are kept. None: all of them (D5).
    pub tombstones: Option<Duration>,
}

impl Keep {
    /// Keeps everything, until a limit is set.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether the oldest of `kept` updates, published at `at`, may go `now`; together they are `held` bytes.
    ///
    /// For implementers: a trim calls it for one update after the other, and ends at the first update that stays. For an update
    /// whose `published_at` [is ahead](is_ahead) of `now`, `at` is the `published_at` of the first later update that is not ahead.
    pub fn lets_go(&self, oldest: Seq, at: Timestamp, kept: u64, held: u64, now: Timestamp) -> bool {
        let over = self.age.is_some_and(|age| now.since(at) > age)
            || self.updates.is_some_and(|most| kept > most)
            || self.bytes.is_some_and(|most| held > most);
        over && self.never_past.is_none_or(|past| past.covers(oldest))
    }
}

/// How far the clocks of those who append may be apart before a trim takes no notice of what one of them says.
pub const CLOCKS_APART: Duration = Duration::from_secs(60);

/// Whether `at` was given by a clock that was far ahead, as far as can be told `now`. It says nothing of an update's age, and
/// must not keep those behind it for as long as that clock was ahead.
pub fn is_ahead(at: Timestamp, now: Timestamp) -> bool {
    at > now.plus(CLOCKS_APART)
}

/// How long a dedup key is remembered at least, however soon its updates are trimmed.
pub const DEDUP_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// What a trim did, or would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct Trimmed {
    /// What the topic holds now.
    pub bounds: Bounds,
    /// How many updates went.
    pub updates: u64,
    /// How many bytes they were ([`Update::size`](crate::Update::size)).
    pub bytes: u64,
    /// When the oldest update that is kept was published; none where none is kept.
    pub oldest: Option<Timestamp>,
}
