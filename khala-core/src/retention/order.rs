//! What a sweep is told before it begins, and what it answers.

use std::time::Duration;

use super::record::{SweepRecord, SweepTrigger};
use crate::{node::NodeId, update::Timestamp};

/// How a handle sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepOptions {
    /// How many cursors, of those who are connected and of those who were until lately, a sweep may make stale. One that
    /// would make more is held back. None: as many as there are.
    pub guard: Option<u64>,
    /// How long a lead lasts that is not renewed: how long nobody sweeps after the node that did was killed. More than
    /// the clocks of the nodes disagree.
    pub lease_duration: Duration,
    /// How long the cursor of a follower that went counts as recently seen.
    pub seen_for: Duration,
    /// How long a topic must have been empty and idle to be retired: from then on no list has it and no sweep looks at it, until
    /// something is appended to it. Its epoch and its head stay. None: topics are not retired.
    pub retire_after: Option<Duration>,
}

impl Default for SweepOptions {
    /// No guard, a lead of a minute, an hour of cursors, a week until an empty topic is retired.
    fn default() -> Self {
        Self {
            guard: None,
            lease_duration: Duration::from_secs(60),
            seen_for: Duration::from_secs(60 * 60),
            retire_after: Some(Duration::from_secs(7 * 24 * 60 * 60)),
        }
    }
}

impl SweepOptions {
    /// Holds back what would make more cursors stale than that.
    #[must_use]
    pub fn with_guard(mut self, cursors: Option<u64>) -> Self {
        self.guard = cursors;
        self
    }

    /// Leads for that long at a time.
    #[must_use]
    pub fn with_lease_duration(mut self, duration: Duration) -> Self {
        self.lease_duration = duration;
        self
    }

    /// Counts the cursors of those who went for that long.
    #[must_use]
    pub fn with_seen_for(mut self, duration: Duration) -> Self {
        self.seen_for = duration;
        self
    }

    /// Retires topics that were empty and idle for that long.
    #[must_use]
    pub fn with_retire_after(mut self, duration: Option<Duration>) -> Self {
        self.retire_after = duration;
        self
    }
}

/// An order to sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

    /// Sweeps whatever the guard says, or not.
    #[must_use]
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
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
