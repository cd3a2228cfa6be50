//! What a sweep is told before it begins, and what it answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::{SweepRecord, SweepTrigger};
use crate::{
    config::{or_none, seconds, seconds_or_none},
    node::NodeId,
    update::Timestamp,
};

/// How a handle sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct SweepOptions {
    /// How many cursors a sweep may make stale, of subscribers that are connected or were connected recently. A
    /// sweep that would make more cursors stale is held back. None: no limit. Example: `100`.
    #[serde(with = "or_none")]
    pub max_stale_cursors: Option<u64>,
    /// How long the sweeper's lease of a node lasts if the node does not renew it. For that long no node sweeps
    /// after the sweeper was killed. It must be longer than the nodes' clocks differ.
    #[serde(rename = "lease_duration_seconds", with = "seconds")]
    pub lease_duration: Duration,
    /// How long the cursor of a subscriber that has left counts as recent.
    #[serde(rename = "recent_cursor_seconds", with = "seconds")]
    pub recent_cursor: Duration,
    /// How long a topic without updates, documents and dedup keys must be idle before it is retired. A retired
    /// topic is not listed, and no sweep looks at it, until something is published to it. Its epoch and its
    /// head stay, so that its cursors are judged as before. None: topics are not retired.
    #[serde(rename = "retire_after_seconds", with = "seconds_or_none")]
    pub retire_after: Option<Duration>,
}

impl Default for SweepOptions {
    /// No guard, a lead of a minute, an hour of cursors, a week until an empty topic is retired.
    fn default() -> Self {
        Self {
            max_stale_cursors: None,
            lease_duration: Duration::from_secs(60),
            recent_cursor: Duration::from_secs(60 * 60),
            retire_after: Some(Duration::from_secs(7 * 24 * 60 * 60)),
        }
    }
}

/// An order to sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "an order is data, written by field")]
pub struct SweepOrder {
    /// What it comes from.
    pub trigger: SweepTrigger,
    /// Whether the guard is not asked.
    pub force: bool,
}

impl SweepOrder {
    /// An order that the guard may hold back.
    pub fn new(trigger: SweepTrigger) -> Self {
        Self { trigger, force: false }
    }
}

/// The answer to an order to sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum Swept {
    /// A sweep is under way already, on that node, which may be this one. Nothing is recorded.
    Busy {
        /// Which node.
        node: NodeId,
        /// Until when it leads, unless it renews.
        until: Timestamp,
    },
    /// It went to its end.
    Done(SweepRecord),
    /// Something went wrong; what went before or beside it is counted, and the next sweep goes on from there.
    Failed(SweepRecord),
    /// The guard held it back; nothing went.
    HeldBack(SweepRecord),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::assert_options;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        assert_options::<SweepOptions>();
    }
}
