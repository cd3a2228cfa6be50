//! The record of a sweep: what an operator looks up afterwards, and what the next node reads of the last.
//!
//! It is written once, when the run has ended, and never changed. It names classes, of which there are as many as are
//! configured, and the first few topics that failed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{node::NodeId, update::Timestamp};

/// One run of the sweeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweepRecord {
    /// The node that ran it.
    pub node: NodeId,
    /// When it began.
    pub began_at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What it was begun by.
    pub trigger: SweepTrigger,
    /// How it ended.
    pub outcome: SweepOutcome,
    /// Topics that it looked at.
    pub topics: u64,
    /// Topics that lost updates by it.
    pub topics_trimmed: u64,
    /// Topics that could not be looked at or trimmed.
    pub topics_failed: u64,
    /// Updates that went.
    pub updates: u64,
    /// Bytes that they were.
    pub bytes: u64,
    /// Cursors of those who were connected that it made stale, or would have made where it was held back.
    pub stale_connected: u64,
    /// The same of those who had been until recently.
    pub stale_seen: u64,
    /// What went, by class.
    pub classes: Vec<ClassSwept>,
    /// The topics that failed, and why: the first twenty.
    #[serde(default)]
    pub failed: Vec<FailedTopic>,
    /// The first thing that went wrong.
    pub error: Option<String>,
}

/// A topic that a sweep could not look at or trim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedTopic {
    /// Its name as it is stored, which may be what is wrong.
    pub topic: String,
    /// What is wrong.
    pub error: String,
}

impl SweepRecord {
    /// A run that looked at nothing.
    pub fn new(node: NodeId, began_at: Timestamp, trigger: SweepTrigger, outcome: SweepOutcome) -> Self {
        Self {
            node,
            began_at,
            took_ms: 0,
            trigger,
            outcome,
            topics: 0,
            topics_trimmed: 0,
            topics_failed: 0,
            updates: 0,
            bytes: 0,
            stale_connected: 0,
            stale_seen: 0,
            classes: Vec::new(),
            failed: Vec::new(),
            error: None,
        }
    }

    /// When it ended.
    pub fn ended_at(&self) -> Timestamp {
        self.began_at.plus(Duration::from_millis(self.took_ms))
    }
}

/// What a sweep did to the topics of one class, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClassSwept {
    /// The class; `none` for topics of no class.
    pub class: String,
    /// Its topics that were looked at.
    pub topics: u64,
    /// Those that lost updates.
    pub topics_trimmed: u64,
    /// Updates that went.
    pub updates: u64,
    /// Bytes that they were.
    pub bytes: u64,
    /// The `published_at` of the oldest update that is kept after the run, among the topics that the run looked at. None: no update
    /// is kept, or the run ended before that was known.
    pub oldest_kept: Option<Timestamp>,
}

impl ClassSwept {
    /// A class of which nothing was looked at.
    pub fn new(class: impl Into<String>) -> Self {
        Self { class: class.into(), topics: 0, topics_trimmed: 0, updates: 0, bytes: 0, oldest_kept: None }
    }
}

/// What a run was begun by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SweepTrigger {
    /// Somebody ordered it.
    Order,
    /// It was time.
    Schedule,
}

impl SweepTrigger {
    /// The trigger as it is on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Schedule => "schedule",
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SweepOutcome {
    /// Something went wrong; what went before or beside it is counted.
    Failed,
    /// The guard held it back; nothing went.
    HeldBack,
    /// It went to its end.
    Swept,
}

impl SweepOutcome {
    /// The outcome as it is on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::HeldBack => "held_back",
            Self::Swept => "swept",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_as_it_is_read() {
        let node = NodeId::parse("n").unwrap();
        let began_at = Timestamp::from_millis(5);
        let mut record = SweepRecord::new(node, began_at, SweepTrigger::Order, SweepOutcome::HeldBack);
        record.classes.push(ClassSwept::new("fallback"));
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.contains(r#""trigger":"order","outcome":"held_back""#), "{text}");
        assert_eq!(serde_json::from_str::<SweepRecord>(&text).unwrap(), record);
        for trigger in [SweepTrigger::Order, SweepTrigger::Schedule] {
            assert_eq!(serde_json::to_value(trigger).unwrap(), trigger.as_str());
        }
        for outcome in [SweepOutcome::Failed, SweepOutcome::HeldBack, SweepOutcome::Swept] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }
}
