//! Which of a topic's rules were broken, and how often. No metric may name a topic; operators ask for these figures.

use crate::update::Timestamp;

/// A rule of a topic that was broken, or a thing that went wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TopicIncident {
    /// The journal went back: it has lost updates that were acknowledged.
    JournalRegressed,
    /// A payload was larger than the class allows.
    PayloadTooLarge,
    /// More was published than the class allows.
    PublishRateLimited,
    /// A replay was put off.
    ReplayDeferred,
    /// A connection that followed it was evicted.
    SlowConsumerEvicted,
    /// A cursor could not be resumed from.
    StaleCursor,
}

impl TopicIncident {
    /// The incident as operators read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JournalRegressed => "journal_regressed",
            Self::PayloadTooLarge => "payload_too_large",
            Self::PublishRateLimited => "publish_rate_limited",
            Self::ReplayDeferred => "replay_deferred",
            Self::SlowConsumerEvicted => "slow_consumer_evicted",
            Self::StaleCursor => "stale_cursor",
        }
    }
}

/// How often each incident of a topic happened, as far as is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicIncidents {
    /// Times that the journal went back.
    pub journal_regressed: u64,
    /// Payloads that were too large.
    pub payload_too_large: u64,
    /// Publishes that were too many.
    pub publish_rate_limited: u64,
    /// Replays that were put off.
    pub replay_deferred: u64,
    /// Connections that followed it and were evicted.
    pub slow_consumer_evicted: u64,
    /// Cursors that could not be resumed from.
    pub stale_cursor: u64,
    /// The last incident, and when it happened.
    pub last: Option<(TopicIncident, Timestamp)>,
}

impl TopicIncidents {
    pub(super) fn add(&mut self, incident: TopicIncident, now: Timestamp) {
        let count = match incident {
            TopicIncident::JournalRegressed => &mut self.journal_regressed,
            TopicIncident::PayloadTooLarge => &mut self.payload_too_large,
            TopicIncident::PublishRateLimited => &mut self.publish_rate_limited,
            TopicIncident::ReplayDeferred => &mut self.replay_deferred,
            TopicIncident::SlowConsumerEvicted => &mut self.slow_consumer_evicted,
            TopicIncident::StaleCursor => &mut self.stale_cursor,
        };
        *count += 1;
        self.last = Some((incident, now));
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.journal_regressed
            + self.payload_too_large
            + self.publish_rate_limited
            + self.replay_deferred
            + self.slow_consumer_evicted
            + self.stale_cursor
    }
}
