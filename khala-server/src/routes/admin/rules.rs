//! The rules of a topic class, as operators read them. What is not limited is null.

use std::time::Duration;

use khala_core::class::{Retain, TopicClass};
use serde::Serialize;

/// The rules of a topic class. What is not limited is null.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ClassRules)]
pub(super) struct Rules {
    /// How many updates a cursor may be behind to be resumed from.
    #[schema(required)]
    replay_budget_events: Option<u64>,
    /// Updates to one topic on one node.
    #[schema(required, minimum = 1)]
    publish_per_second: Option<u32>,
    /// The same after a rest.
    #[schema(required, minimum = 1)]
    publish_at_once: Option<u32>,
    /// Of one update's payload.
    #[schema(required)]
    payload_bytes: Option<usize>,
    /// Of a payload that travels within an update batch.
    #[schema(required)]
    inline_bytes: Option<usize>,
    /// Whether updates are given the hash of their payload.
    hashes: bool,
    #[serde(flatten)]
    retention: Retained,
    /// How long a connection may take nothing; null: as long as any may.
    #[schema(required)]
    stall_ms: Option<u64>,
}

/// How much of a topic's history is kept. What is not limited is null.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = RetentionRules)]
pub(super) struct Retained {
    /// How old updates become.
    #[schema(required)]
    retain_for_ms: Option<u64>,
    /// How many of a topic's newest are kept.
    #[schema(required)]
    retain_updates: Option<u64>,
    /// Of how many bytes.
    #[schema(required)]
    retain_bytes: Option<u64>,
    /// How old tombstones of documents become whose updates are gone.
    #[schema(required)]
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
