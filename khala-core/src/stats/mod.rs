//! The ledger: what went wrong for whom on this node since it started, in numbers that an operator asks for.
//!
//! Totals and what each topic of late had, beside the metrics, which may name no topic. It decides nothing. What must
//! stay true: it is bounded, however many topics and holders there are.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    budget::{MemoryBudget, MemoryPart},
    class::TopicClass,
    clock::{Moment, Now},
    position::StaleReason,
    recent::Recent,
    telemetry,
    topic::Topic,
    update::Timestamp,
};

/// Topics whose violations are remembered, at least.
const TOPICS: usize = 5_000;
/// Holders and topics whose last stale cursor is remembered, at least.
const HOLDERS: usize = 50_000;
/// A holder whose cursor of the same topic is stale again so soon goes round in a loop.
const LOOP_WITHIN: Duration = Duration::from_secs(60);

/// What a topic's rules were held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Violation {
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

impl Violation {
    /// The violation as operators read it.
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

/// How often a topic's rules were broken, as far as is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violations {
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
    /// The last of them, and when.
    pub last: Option<(Violation, Timestamp)>,
}

impl Violations {
    fn add(&mut self, violation: Violation, now: Timestamp) {
        let count = match violation {
            Violation::JournalRegressed => &mut self.journal_regressed,
            Violation::PayloadTooLarge => &mut self.payload_too_large,
            Violation::PublishRateLimited => &mut self.publish_rate_limited,
            Violation::ReplayDeferred => &mut self.replay_deferred,
            Violation::SlowConsumerEvicted => &mut self.slow_consumer_evicted,
            Violation::StaleCursor => &mut self.stale_cursor,
        };
        *count += 1;
        self.last = Some((violation, now));
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

/// What happened on this node since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Heads that this node announced.
    pub announced: u64,
    /// Heads that it could not announce.
    pub announce_failures: u64,
    /// Heads that were announced to its connections.
    pub heard: u64,
    /// Updates that polling found and no announcement had told of.
    pub poll_finds: u64,
    /// Revocations that this node announced.
    pub revocations_announced: u64,
    /// Revocations that it could not announce.
    pub revocation_announce_failures: u64,
    /// Times that this node was told that there are more.
    pub revocations_heard: u64,
    /// Revocations that polling found and no announcement had told of.
    pub revocation_poll_finds: u64,
    /// Channels that fell behind the tail after they had been live.
    pub demotions: u64,
    /// Channels that came back to it.
    pub promotions: u64,
    /// Channels that read from the journal now.
    pub behind: u64,
    /// Connections that were evicted because they made no progress.
    pub slow_evictions: u64,
    /// Cursors that could not be resumed from.
    pub stale_cursors: u64,
    /// Those of a holder that had one of the same topic within a minute.
    pub stale_loops: u64,
    /// Replays that were put off.
    pub replays_deferred: u64,
    /// Reads behind the tail that waited for their turn.
    pub turns_waited: u64,
    /// Bytes that connections hold and have not sent yet.
    pub outbox_bytes: u64,
}

macro_rules! tally {
    ($($name:ident),*) => {
        #[derive(Debug, Default)]
        struct Tally { $($name: AtomicU64,)* behind: AtomicI64, outbox_bytes: AtomicI64 }

        impl Tally {
            fn totals(&self) -> Totals {
                let gauge = |gauge: &AtomicI64| u64::try_from(gauge.load(Ordering::Relaxed)).unwrap_or(0);
                Totals {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    behind: gauge(&self.behind),
                    outbox_bytes: gauge(&self.outbox_bytes),
                }
            }
        }
    };
}

tally!(
    announced,
    announce_failures,
    heard,
    poll_finds,
    revocations_announced,
    revocation_announce_failures,
    revocations_heard,
    revocation_poll_finds,
    demotions,
    promotions,
    slow_evictions,
    stale_cursors,
    stale_loops,
    replays_deferred,
    turns_waited
);

fn one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// The ledger of one node.
#[derive(Debug)]
pub struct Ledger {
    memory: MemoryBudget,
    tally: Tally,
    topics: Mutex<Recent<Topic, Violations>>,
    stale: Mutex<Recent<u64, Option<Moment>>>,
    hasher: RandomState,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// A ledger that counts unsent bytes in `memory` too.
    pub(crate) fn with_memory(self, memory: MemoryBudget) -> Self {
        Self { memory, ..self }
    }

    /// Whether the node has no memory left, of its budget.
    pub(crate) fn has_no_memory(&self) -> bool {
        self.memory.is_spent()
    }

    /// An empty ledger.
    pub fn new() -> Self {
        Self {
            memory: MemoryBudget::new(None),
            tally: Tally::default(),
            topics: Mutex::new(Recent::new(TOPICS)),
            stale: Mutex::new(Recent::new(HOLDERS)),
            hasher: RandomState::new(),
        }
    }

    /// What happened so far.
    pub fn totals(&self) -> Totals {
        self.tally.totals()
    }

    /// How often the rules of `topic` were broken, as far as is remembered.
    pub fn violations(&self, topic: &Topic) -> Violations {
        self.topics().find(topic).copied().unwrap_or_default()
    }

    /// The topics of which any violation is remembered.
    pub(crate) fn violated_topics(&self) -> Vec<Topic> {
        self.topics().keys().cloned().collect()
    }

    fn topics(&self) -> MutexGuard<'_, Recent<Topic, Violations>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules of a topic were broken.
    pub(crate) fn violated(&self, topic: &Topic, violation: Violation, now: Timestamp) {
        self.topics().touch(topic).add(violation, now);
    }

    /// A cursor that `holder` brought could not be resumed from.
    pub(crate) fn stale(
        &self,
        holder: &str,
        topic: &Topic,
        class: Option<&TopicClass>,
        reasons: &[StaleReason],
        now: Now,
    ) {
        one(&self.tally.stale_cursors);
        self.violated(topic, Violation::StaleCursor, now.wall);
        let class = telemetry::class_label(class);
        for reason in reasons {
            telemetry::stale_cursor(&class, reason.as_str());
        }
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        let last = stale.touch(&self.hasher.hash_one((holder, topic))).replace(now.steady);
        drop(stale);
        if last.is_some_and(|last| now.steady.since(last) <= LOOP_WITHIN) {
            one(&self.tally.stale_loops);
            telemetry::stale_loop(&class);
        }
    }

    /// A replay was put off.
    pub(crate) fn deferred(&self, topic: &Topic, class: Option<&TopicClass>, now: Timestamp) {
        one(&self.tally.replays_deferred);
        self.violated(topic, Violation::ReplayDeferred, now);
        telemetry::replay_deferred(&telemetry::class_label(class));
    }

    /// A connection was evicted by the rule of that class.
    pub(crate) fn evicted(&self, class: Option<&TopicClass>) {
        one(&self.tally.slow_evictions);
        telemetry::slow_eviction(&telemetry::class_label(class));
    }

    /// A channel fell behind the tail: at its join, or after it had been live.
    pub(crate) fn fell_behind(&self, was_live: bool) {
        self.behind(1);
        if was_live {
            one(&self.tally.demotions);
            telemetry::demoted();
        }
    }

    /// A channel came back to the tail. That it is no longer behind is told apart.
    pub(crate) fn caught_up(&self) {
        one(&self.tally.promotions);
        telemetry::promoted();
    }

    /// So many channels more, or fewer, read from the journal.
    pub(crate) fn behind(&self, change: i64) {
        self.tally.behind.fetch_add(change, Ordering::Relaxed);
        telemetry::channels_behind(change as f64);
    }

    pub(crate) fn turn_waited(&self) {
        one(&self.tally.turns_waited);
        telemetry::turn_waited();
    }

    pub(crate) fn announced(&self, well: bool) {
        if well {
            one(&self.tally.announced);
        } else {
            one(&self.tally.announce_failures);
            telemetry::announce_failed();
        }
    }

    pub(crate) fn heard(&self, heads: u64) {
        self.tally.heard.fetch_add(heads, Ordering::Relaxed);
    }

    pub(crate) fn revocation_announced(&self, well: bool) {
        one(if well { &self.tally.revocations_announced } else { &self.tally.revocation_announce_failures });
    }

    pub(crate) fn revocations_heard(&self) {
        one(&self.tally.revocations_heard);
    }

    pub(crate) fn revocation_poll_found(&self, revocations: usize) {
        self.tally.revocation_poll_finds.fetch_add(revocations as u64, Ordering::Relaxed);
        telemetry::revocation_poll_found(revocations);
    }

    pub(crate) fn poll_found(&self, updates: usize) {
        self.tally.poll_finds.fetch_add(updates as u64, Ordering::Relaxed);
        telemetry::poll_found(updates);
    }

    /// Connections hold so many bytes more, or fewer; says how many they hold now.
    pub(crate) fn holds(&self, change: i64) -> u64 {
        let before = self.tally.outbox_bytes.fetch_add(change, Ordering::Relaxed);
        telemetry::outbox(change as f64);
        self.memory.change(MemoryPart::Frames, change);
        u64::try_from(before + change).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_the_same_holder_with_the_same_topic_within_a_minute() {
        let ledger = Ledger::new();
        let at = Timestamp::from_millis;
        let stale = |holder, topic, now| {
            let topic = Topic::parse(topic).unwrap();
            ledger.stale(
                holder,
                &topic,
                None,
                &[StaleReason::EpochMismatch],
                Now { wall: at(now), steady: Moment::from_millis(now) },
            );
            let totals = ledger.totals();
            (totals.stale_cursors, totals.stale_loops)
        };
        assert_eq!(stale("ada", "t", 0), (1, 0));
        assert_eq!(stale("bob", "t", 1), (2, 0));
        assert_eq!(stale("ada", "u", 2), (3, 0));
        assert_eq!(stale("ada", "t", 60_000), (4, 1));
        assert_eq!(stale("ada", "t", 120_001), (5, 1));
        let violations = ledger.violations(&Topic::parse("t").unwrap());
        assert_eq!(violations.sum(), 4);
        assert_eq!(violations.last, Some((Violation::StaleCursor, at(120_001))));
    }
}
