//! What happened on this node since it started: each event is counted once, here. Operators read the figures, and a recorder of
//! metrics is told of them when metrics are read.
//!
//! The table below has each figure once: its name, what it counts, and the metric that tells it, if any. Beside the table, each
//! topic's last incidents are remembered, which no metric may name.
//!
//! # Invariants
//! - Memory is bounded, however many topics and subjects there are.
//! - Nothing is decided here.

mod cells;
mod counts;
mod incidents;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::{Histogram, counter, gauge, histogram};

use self::cells::{Count, Level};
pub(crate) use self::counts::Counts;
pub use self::incidents::{TopicIncident, TopicIncidents};
use crate::{
    budget::{MemoryBudget, MemoryPart},
    class::{Classes, TopicClass},
    clock::{Moment, Now},
    position::StaleReason,
    recent::Recent,
    telemetry,
    topic::Topic,
    update::Timestamp,
    wire::Close,
};

/// Topics whose incidents are remembered, at least.
const TOPICS: usize = 5_000;
/// Pairs of subject and topic whose last stale cursor is remembered, at least.
const SUBJECTS: usize = 50_000;
/// A subject whose cursor of the same topic is stale again so soon goes round in a loop.
const LOOP_WITHIN: Duration = Duration::from_secs(60);

/// Tells the recorder what a cell has counted since it was told last; a figure without a metric is not told.
macro_rules! report {
    ($class:expr, $cell:expr,) => {};
    ((), $cell:expr, $metric:ident) => {
        counter!(telemetry::$metric).increment($cell.unreported())
    };
    ((), $cell:expr, $metric:ident $label:literal $value:expr) => {
        counter!(telemetry::$metric, $label => $value).increment($cell.unreported())
    };
    ($class:expr, $cell:expr, $metric:ident) => {
        counter!(telemetry::$metric, "class" => $class.clone()).increment($cell.unreported())
    };
    ($class:expr, $cell:expr, $metric:ident $label:literal $value:expr) => {
        counter!(telemetry::$metric, "class" => $class.clone(), $label => $value).increment($cell.unreported())
    };
}

macro_rules! figures {
    (
        counts { $($(#[$count_doc:meta])* $count:ident $(: $count_metric:ident $($count_label:literal $count_value:expr)?)?,)* }
        levels { $($(#[$level_doc:meta])* $level:ident: $level_metric:ident,)* }
        by_class { $($(#[$class_doc:meta])* $class:ident $(: $class_metric:ident $($class_label:literal $class_value:expr)?)?,)* }
    ) => {
        /// What happened on this node since it started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$count_doc])* pub $count: u64,)*
            $($(#[$level_doc])* pub $level: u64,)*
            $($(#[$class_doc])* pub $class: u64,)*
        }

        /// The cells of what is counted for the node as a whole.
        #[derive(Debug, Default)]
        pub(crate) struct Cells {
            $(pub(crate) $count: Count,)*
            $(pub(crate) $level: Level,)*
        }

        /// The cells of what is counted for each class of topics.
        #[derive(Debug, Default)]
        pub(crate) struct ClassCells {
            $(pub(crate) $class: Count,)*
        }

        impl Stats {
            /// What happened so far.
            pub fn counters(&self) -> Counters {
                Counters {
                    $($count: self.cells.$count.get(),)*
                    $($level: self.cells.$level.get(),)*
                    $($class: self.by_class().map(|(_, cells)| cells.$class.get()).sum(),)*
                }
            }

            /// Tells the process' recorder of metrics what happened since it was told last. To be called before metrics are
            /// read, by an application that exports its own; the server's `/metrics` does it.
            pub fn report(&self) {
                self.memory.report();
                $(report!((), self.cells.$count, $($count_metric $($count_label $count_value)?)?);)*
                $(gauge!(telemetry::$level_metric).increment(self.cells.$level.unreported());)*
                for (close, count) in Close::ALL.iter().zip(&self.closes) {
                    counter!(telemetry::CLOSES, "reason" => close.reason()).increment(count.unreported());
                }
                for (class, cells) in self.by_class() {
                    let class = telemetry::class_label(class);
                    $(report!(class, cells.$class, $($class_metric $($class_label $class_value)?)?);)*
                }
            }
        }
    };
}

figures! {
    counts {
        /// Heads that this node announced.
        announced,
        /// Heads that it could not announce.
        announce_failures: ANNOUNCE_FAILURES,
        /// Heads that were announced to its connections.
        heard,
        /// Updates that polling found and no announcement had told of.
        missed_announcements: MISSED_ANNOUNCEMENTS,
        /// Revocations that this node announced.
        revocations_announced,
        /// Revocations that it could not announce.
        revocation_announce_failures,
        /// Times that this node was told that there are more revocations.
        revocations_heard,
        /// Revocations that polling found and no announcement had told of.
        missed_revocation_announcements: MISSED_REVOCATION_ANNOUNCEMENTS,
        /// Channels that fell behind the tail after they had been live.
        demotions: DEMOTIONS,
        /// Channels that came back to the tail.
        promotions: PROMOTIONS,
        /// Reads behind the tail that waited for their turn.
        replays_queued: REPLAYS_QUEUED,
        /// Pages of history that rested because somebody appended.
        replays_throttled: REPLAYS_THROTTLED,
        /// Appends that were written.
        appends_written: APPENDS "outcome" "written",
        /// Appends that repeated an earlier one, by its dedup key.
        appends_duplicate: APPENDS "outcome" "duplicate",
        /// Appends that found another head or version than they expected.
        appends_conflict: APPENDS "outcome" "conflict",
        /// Appends that the journal could not store.
        appends_failed: APPENDS "outcome" "error",
        /// Updates that were stored.
        updates: UPDATES,
        /// Subscribers, over connections and within the process, that were answered from the client's cursor.
        joins_from_cursor: JOINS "resume" "cursor",
        /// Subscribers, over connections and within the process, that were answered from the floor.
        joins_from_floor: JOINS "resume" "floor",
        /// Subscribers, over connections and within the process, that were answered from the head.
        joins_from_head: JOINS "resume" "head",
        /// Subscribers, over connections and within the process, that were answered from a snapshot.
        joins_from_snapshot: JOINS "resume" "snapshot",
        /// Fresh tokens that were taken on an open connection.
        refreshes: REFRESHES,
        /// Batches handed to connections and to subscriptions within the process.
        batches_sent: BATCHES_SENT,
        /// Updates handed to connections and to subscriptions within the process.
        updates_sent: UPDATES_SENT,
    }
    levels {
        /// Connections that are open.
        connections: CONNECTIONS,
        /// Topics that the open connections have joined, each once for each connection.
        channels: CHANNELS,
        /// Channels and subscriptions that read from the journal now.
        behind: CHANNELS_BEHIND,
        /// Bytes that connections hold and have not sent yet.
        outbox_bytes: OUTBOX_BYTES,
    }
    by_class {
        /// Updates that were published through this node.
        published_updates: CLASS_UPDATES,
        /// Connections that were evicted because they made no progress.
        slow_evictions: SLOW_EVICTIONS,
        /// Cursors that could not be resumed from; several of the reasons below may hold at once.
        stale_cursors,
        /// Stale cursors that lie ahead of the head.
        stale_ahead: STALE_CURSORS "reason" StaleReason::CursorAhead.as_str(),
        /// Stale cursors of another epoch.
        stale_of_another_epoch: STALE_CURSORS "reason" StaleReason::EpochMismatch.as_str(),
        /// Stale cursors that are farther behind than the class's replay budget.
        stale_past_budget: STALE_CURSORS "reason" StaleReason::ReplayBudgetExceeded.as_str(),
        /// Stale cursors below the floor.
        stale_below_floor: STALE_CURSORS "reason" StaleReason::RetentionFloorBreach.as_str(),
        /// Stale cursors of a subject that had one of the same topic within a minute.
        stale_loops: STALE_LOOPS,
        /// Replays that were put off.
        replays_deferred: REPLAYS_DEFERRED,
        /// Topics of which a snapshot was asked although they have updates and no documents.
        topics_without_documents: TOPICS_WITHOUT_DOCUMENTS,
    }
}

impl ClassCells {
    fn of_reason(&self, reason: StaleReason) -> &Count {
        match reason {
            StaleReason::CursorAhead => &self.stale_ahead,
            StaleReason::EpochMismatch => &self.stale_of_another_epoch,
            StaleReason::ReplayBudgetExceeded => &self.stale_past_budget,
            StaleReason::RetentionFloorBreach => &self.stale_below_floor,
        }
    }
}

/// The figures of one node.
#[derive(Debug)]
pub struct Stats {
    memory: MemoryBudget,
    pub(crate) cells: Cells,
    classes: Vec<(Arc<TopicClass>, ClassCells)>,
    without_class: ClassCells,
    /// Connections that this node closed, by the place of the reason in [`Close::ALL`].
    closes: [Count; Close::ALL.len()],
    append_seconds: AppendSeconds,
    topics: Mutex<Recent<Topic, TopicIncidents>>,
    stale: Mutex<Recent<u64, Option<Moment>>>,
    hasher: RandomState,
}

struct AppendSeconds(Histogram);

impl std::fmt::Debug for AppendSeconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppendSeconds")
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self::new(&Classes::default(), MemoryBudget::new(None))
    }
}

/// What was counted after metrics were read last is reported when the node ends.
impl Drop for Stats {
    fn drop(&mut self) {
        self.report();
    }
}

impl Stats {
    /// Figures for topics of these classes. Bytes that connections hold are counted in `memory` too.
    ///
    /// The time that appends take is recorded by the recorder of metrics that is installed now.
    pub fn new(classes: &Classes, memory: MemoryBudget) -> Self {
        Self {
            memory,
            cells: Cells::default(),
            classes: classes
                .shared()
                .iter()
                .map(|class| (Arc::clone(class), ClassCells::default()))
                .collect(),
            without_class: ClassCells::default(),
            closes: Default::default(),
            append_seconds: AppendSeconds(histogram!(telemetry::APPEND_SECONDS)),
            topics: Mutex::new(Recent::new(TOPICS)),
            stale: Mutex::new(Recent::new(SUBJECTS)),
            hasher: RandomState::new(),
        }
    }

    fn by_class(&self) -> impl Iterator<Item = (Option<&TopicClass>, &ClassCells)> {
        let without = std::iter::once((None, &self.without_class));
        self.classes.iter().map(|(class, cells)| (Some(&**class), cells)).chain(without)
    }

    /// The cells of a class; those of no class for one that this node does not have.
    pub(crate) fn of_class(&self, class: Option<&TopicClass>) -> &ClassCells {
        let found =
            class.and_then(|class| self.classes.iter().find(|(known, _)| std::ptr::eq(&**known, class)));
        found.map_or(&self.without_class, |(_, cells)| cells)
    }

    /// Whether the node has no memory left, of its budget.
    pub(crate) fn has_no_memory(&self) -> bool {
        self.memory.is_spent()
    }

    /// The incidents of `topic`, as far as they are remembered.
    pub fn incidents(&self, topic: &Topic) -> TopicIncidents {
        self.topics().find(topic).copied().unwrap_or_default()
    }

    /// The topics of which any incident is remembered.
    pub(crate) fn topics_with_incidents(&self) -> Vec<Topic> {
        self.topics().keys().cloned().collect()
    }

    fn topics(&self) -> MutexGuard<'_, Recent<Topic, TopicIncidents>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something went wrong with a topic.
    pub(crate) fn incident(&self, topic: &Topic, incident: TopicIncident, now: Timestamp) {
        self.topics().touch(topic).add(incident, now);
    }

    /// A connection was closed.
    pub(crate) fn closed(&self, close: Close) {
        if let Some(place) = Close::ALL.iter().position(|one| *one == close) {
            self.closes[place].add(1);
        }
    }

    /// How many connections this node has closed for that reason.
    pub fn closes(&self, close: Close) -> u64 {
        let place = Close::ALL.iter().position(|one| *one == close);
        place.map_or(0, |place| self.closes[place].get())
    }

    /// How long an append took, in seconds.
    pub(crate) fn append_took(&self, seconds: f64) {
        self.append_seconds.0.record(seconds);
    }

    /// A cursor that `subject` brought could not be resumed from.
    pub(crate) fn stale(
        &self,
        subject: &str,
        topic: &Topic,
        class: Option<&TopicClass>,
        reasons: &[StaleReason],
        now: Now,
    ) {
        let cells = self.of_class(class);
        cells.stale_cursors.add(1);
        reasons.iter().for_each(|reason| cells.of_reason(*reason).add(1));
        self.incident(topic, TopicIncident::StaleCursor, now.wall);
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        let last = stale.touch(&self.hasher.hash_one((subject, topic))).replace(now.steady);
        drop(stale);
        if last.is_some_and(|last| now.steady.since(last) <= LOOP_WITHIN) {
            cells.stale_loops.add(1);
        }
    }

    /// A replay was put off.
    pub(crate) fn replay_deferred(&self, topic: &Topic, class: Option<&TopicClass>, now: Timestamp) {
        self.of_class(class).replays_deferred.add(1);
        self.incident(topic, TopicIncident::ReplayDeferred, now);
    }

    /// Connections hold `change` bytes more, or fewer; returns how many they hold now.
    pub(crate) fn connections_hold(&self, change: i64) -> u64 {
        self.memory.change(MemoryPart::Frames, change);
        self.cells.outbox_bytes.change(change)
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn now(millis: u64) -> Now {
        Now { wall: Timestamp::from_millis(millis), steady: Moment::from_millis(millis) }
    }

    #[test]
    fn a_loop_is_the_same_subject_with_the_same_topic_within_a_minute() {
        let stats = Stats::default();
        let stale = |subject, topic, millis| {
            let topic = Topic::parse(topic).unwrap();
            stats.stale(subject, &topic, None, &[StaleReason::EpochMismatch], now(millis));
            let counters = stats.counters();
            (counters.stale_cursors, counters.stale_loops)
        };
        assert_eq!(stale("ada", "t", 0), (1, 0));
        assert_eq!(stale("bob", "t", 1), (2, 0));
        assert_eq!(stale("ada", "u", 2), (3, 0));
        assert_eq!(stale("ada", "t", 60_000), (4, 1));
        assert_eq!(stale("ada", "t", 120_001), (5, 1));
        let incidents = stats.incidents(&Topic::parse("t").unwrap());
        assert_eq!(incidents.sum(), 4);
        assert_eq!(incidents.last, Some((TopicIncident::StaleCursor, Timestamp::from_millis(120_001))));
    }

    #[test]
    fn what_was_counted_is_reported_once_and_every_series_is_there_from_the_first_report() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let classes = Classes::default();
            let class = Arc::clone(&classes.shared()[0]);
            let stats = Stats::new(&classes, MemoryBudget::new(None));
            stats.report();
            let (count, level) = ("khala_updates_total 0", "khala_channels_behind 0");
            let text = handle.render();
            assert!(text.contains(count) && text.contains(level), "{text}");
            let of_class = |events: u64| {
                format!(
                    "khala_stale_cursors_total{{class=\"{}\",reason=\"cursor_ahead\"}} {events}",
                    class.name
                )
            };
            assert!(text.contains(&of_class(0)), "{text}");

            stats.cells.updates.add(2);
            stats.cells.behind.change(1);
            let topic = Topic::parse("t").unwrap();
            let reasons = [StaleReason::CursorAhead, StaleReason::ReplayBudgetExceeded];
            stats.stale("ada", &topic, Some(&class), &reasons, now(0));
            stats.report();
            stats.report();
            let text = handle.render();
            assert!(text.contains("khala_updates_total 2"), "{text}");
            assert!(text.contains("khala_channels_behind 1"), "{text}");
            assert!(text.contains(&of_class(1)), "{text}");
            assert_eq!(stats.counters().stale_cursors, 1);

            stats.cells.behind.change(-1);
            stats.cells.updates.add(1);
            drop(stats);
            let text = handle.render();
            assert!(text.contains("khala_updates_total 3"), "{text}");
            assert!(text.contains("khala_channels_behind 0"), "{text}");
        });
    }
}
