//! The rules of a topic class, as operators read them. What is not limited is null.

use std::time::Duration;

use khala_core::class::{Retain, TopicClass};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Rules {
    replay_budget_events: Option<u64>,
    publish_per_second: Option<u32>,
    publish_at_once: Option<u32>,
    payload_bytes: Option<usize>,
    inline_bytes: Option<usize>,
    hashes: bool,
    #[serde(flatten)]
    retention: Retained,
    /// Null: as long as any connection may.
    stall_ms: Option<u64>,
}

/// How much of a topic's history is kept.
#[derive(Serialize)]
pub(super) struct Retained {
    retain_for_ms: Option<u64>,
    retain_updates: Option<u64>,
    retain_bytes: Option<u64>,
    retain_tombstones_for_ms: Option<u64>,
}

impl Rules {
    pub(super) fn of(class: &TopicClass) -> Self {
        Self {
            replay_budget_events: class.replay_budget,
            publish_per_second: class.publish_rate.map(|rate| rate.per_second().get()),
            publish_at_once: class.publish_rate.map(|rate| rate.burst().get()),
            payload_bytes: class.payload_bytes,
            inline_bytes: class.inline_bytes,
            hashes: class.hashes,
            retention: Retained::of(class.retain),
            stall_ms: class.stall_timeout.map(millis),
        }
    }
}

impl Retained {
    pub(super) fn of(Retain { age, updates, bytes, tombstones, .. }: Retain) -> Self {
        Self {
            retain_for_ms: age.map(millis),
            retain_updates: updates,
            retain_bytes: bytes,
            retain_tombstones_for_ms: tombstones.map(millis),
        }
    }
}

/// A duration as it is on the wire.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
