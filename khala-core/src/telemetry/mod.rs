//! Every metric's name, once, with what it counts. Labels are of bounded range: never a topic, key, user or seq. A
//! class is one: there are as many as the settings say.

mod catalogue;

use std::{fmt, time::Duration};

use metrics::{Counter, Histogram, SharedString, counter, gauge, histogram};

pub use self::catalogue::*;
use crate::{
    admission::LimitedBy,
    class::{Classes, NO_CLASS, TopicClass},
    error::ErrorKind,
    retention::{SweepOutcome, SweepRecord},
    update::Timestamp,
    wire::Code,
};

/// Registers a counter, which is zero then.
macro_rules! zero {
    ($name:expr $(, $label:literal => $value:expr)*) => {
        drop(counter!($name $(, $label => $value)*))
    };
}

/// Describes every metric to the process' recorder, and has each be there from the first scrape: counters and histograms at
/// zero, and a gauge that is not known yet as `NaN`. For a server around the core, and for an application that exports metrics of
/// its own: to be called once, after the recorder was installed. What [`Stats`](crate::stats::Stats) reports is there with its
/// first report, and the series of an HTTP route with its first request.
pub fn describe(classes: &Classes) {
    describe_all();
    for temperature in ["bounds", "cold", "exact", "hot"] {
        zero!(JOURNAL_READS, "temperature" => temperature);
    }
    for class in
        classes.iter().map(|class| class_label(Some(class))).chain([SharedString::const_str(NO_CLASS)])
    {
        for code in [Code::PayloadTooLarge, Code::PublishRateLimited] {
            zero!(PUBLISH_REFUSED, "class" => class.clone(), "code" => code.as_str());
        }
        zero!(SWEPT_BYTES, "class" => class.clone());
        zero!(SWEPT_UPDATES, "class" => class.clone());
        gauge!(OLDEST_KEPT_AGE, "class" => class).set(f64::NAN);
    }
    for limit in ["new_topics", "publishes"] {
        zero!(SUBJECT_LIMITED, "limit" => limit);
    }
    for kind in ["corrupt", "full", "internal", "invalid", "read_only", "schema", "unavailable"] {
        zero!(STORE_FAILURES, "kind" => kind);
    }
    store_connections(0, 0);
    for transport in ["nats", "postgres"] {
        zero!(FANOUT_FOREIGN, "transport" => transport);
        zero!(FANOUT_RECONNECTS, "transport" => transport);
        // Zero would say that a connection is lost which was never made.
        gauge!(FANOUT_CONNECTED, "transport" => transport).set(f64::NAN);
    }
    for code in Code::ALL {
        for on in [Surface::Frame, Surface::Http, Surface::Join, Surface::Live, Surface::Upgrade] {
            zero!(REFUSALS, "code" => code.as_str(), "operation" => on.as_str());
        }
    }
    for by in ["jti", "sid", "sub"] {
        zero!(REVOCATIONS_MADE, "by" => by);
        revocations(by, 0);
    }
    revocations_age(f64::NAN);
    for outcome in ["authz_denied", "invalid", "minted", "signing_error", "upstream_unavailable"] {
        zero!(TOKENS_MINTED, "outcome" => outcome);
    }
    for source in ["credential", "file", "jwks"] {
        keys_age(source, f64::NAN);
        for outcome in ["failed", "loaded", "unchanged"] {
            zero!(KEY_LOADS, "source" => source, "outcome" => outcome);
        }
    }
    for outcome in [SweepOutcome::Failed, SweepOutcome::HeldBack, SweepOutcome::Swept] {
        zero!(SWEEPS, "outcome" => outcome.as_str());
    }
    zero!(JOURNAL_REGRESSIONS);
    zero!(LOG_LINES_DROPPED);
    zero!(TOPICS_RETIRED);
    for (name, value) in [(SWEEP_FAILED_TOPICS, 0.0), (SWEEP_LAST, f64::NAN), (SWEEP_STALE_CURSORS, 0.0)] {
        gauge!(name).set(value);
    }
    for by in [LimitedBy::Address, LimitedBy::Node] {
        for outcome in ["closed", "refused"] {
            zero!(HTTP_CONNECTIONS_REFUSED, "by" => by.as_str(), "outcome" => outcome);
        }
    }
    zero!(HTTP_REQUESTS, "route" => "unknown", "method" => "GET", "status" => "4xx");
    drop(histogram!(HTTP_SECONDS, "route" => "unknown"));
    drop(histogram!(APPEND_SECONDS));
    drop(histogram!(SWEEP_SECONDS));
}

/// What was asked for when something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Surface {
    /// Any other frame of a connection.
    Frame,
    /// An HTTP request.
    Http,
    /// A join.
    Join,
    /// Nothing: a joined topic ended.
    Live,
    /// A token to be made.
    Mint,
    /// A fresh token to be taken.
    Refresh,
    /// A WebSocket.
    Upgrade,
}

impl Surface {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Http => "http",
            Self::Join => "join",
            Self::Live => "live",
            Self::Mint => "mint",
            Self::Refresh => "refresh",
            Self::Upgrade => "upgrade",
        }
    }
}

/// The label of a class: its name, of which there are as many as are configured; `none` for a topic of no class.
pub fn class_label(class: Option<&TopicClass>) -> SharedString {
    class.map_or(SharedString::const_str(NO_CLASS), |class| class.name.clone().into())
}

/// A sweep was planned that makes that many cursors stale.
pub(crate) fn sweep_planned(cursors: u64) {
    gauge!(SWEEP_STALE_CURSORS).set(cursors as f64);
}

/// Topics were retired.
pub(crate) fn topics_retired(topics: u64) {
    counter!(TOPICS_RETIRED).increment(topics);
}

/// A sweep ended, `now`.
pub(crate) fn swept(record: &SweepRecord, now: Timestamp) {
    counter!(SWEEPS, "outcome" => record.outcome.as_str()).increment(1);
    histogram!(SWEEP_SECONDS).record(record.took_ms as f64 / 1000.0);
    gauge!(SWEEP_FAILED_TOPICS).set(record.topics_failed as f64);
    let whole = record.outcome == SweepOutcome::Swept;
    for swept in &record.classes {
        let class = || SharedString::from(swept.class.clone());
        counter!(SWEPT_UPDATES, "class" => class()).increment(swept.updates);
        counter!(SWEPT_BYTES, "class" => class()).increment(swept.bytes);
        // Without an oldest nothing is kept of what was looked at, or that is not known.
        if (whole && swept.topics > 0) || swept.oldest_kept.is_some() {
            // Below zero where a clock that was ahead stored it: an age of 0 would look healthy.
            let signed =
                |oldest: Timestamp| now.since(oldest).as_secs_f64() - oldest.since(now).as_secs_f64();
            let age = swept.oldest_kept.map(signed);
            gauge!(OLDEST_KEPT_AGE, "class" => class()).set(age.unwrap_or_default());
        }
    }
    if whole {
        last_sweep(now);
    }
}

/// A sweep of the journal went to its end at that moment.
pub(crate) fn last_sweep(at: Timestamp) {
    gauge!(SWEEP_LAST).set(at.as_millis() as f64 / 1000.0);
}

pub(crate) fn journal_read(temperature: &'static str) {
    counter!(JOURNAL_READS, "temperature" => temperature).increment(1);
}

pub(crate) fn journal_regressed() {
    counter!(JOURNAL_REGRESSIONS).increment(1);
}

pub(crate) fn publish_refused(class: &TopicClass, code: Code) {
    counter!(PUBLISH_REFUSED, "class" => class_label(Some(class)), "code" => code.as_str()).increment(1);
}

/// Which limit of a subject held something up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubjectLimit {
    /// The topics that it makes.
    NewTopics,
    /// The updates that it publishes.
    Publishes,
}

pub(crate) fn subject_limited(limit: SubjectLimit) {
    let limit = match limit {
        SubjectLimit::NewTopics => "new_topics",
        SubjectLimit::Publishes => "publishes",
    };
    counter!(SUBJECT_LIMITED, "limit" => limit).increment(1);
}

/// The metrics of a store's transactions, asked of the recorder once. For implementers of a store.
///
/// Make it after the process has installed its recorder: what is made before the recorder counts nothing.
pub(crate) struct CommitMetrics {
    committed: Counter,
    failed: Counter,
    seconds: Histogram,
    appends: Histogram,
}

impl fmt::Debug for CommitMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitMetrics").finish_non_exhaustive()
    }
}

impl CommitMetrics {
    /// The metrics, of the recorder that is installed now.
    pub(crate) fn new() -> Self {
        Self {
            committed: counter!(COMMITS, "outcome" => "committed"),
            failed: counter!(COMMITS, "outcome" => "failed"),
            seconds: histogram!(COMMIT_SECONDS),
            appends: histogram!(COMMIT_APPENDS),
        }
    }

    /// A transaction of `appends`, advances among them, was committed, or failed.
    pub(crate) fn record(&self, committed: bool, appends: usize, took: Duration) {
        if committed { &self.committed } else { &self.failed }.increment(1);
        self.seconds.record(took.as_secs_f64());
        self.appends.record(appends as f64);
    }
}

/// A store could not do what it was asked. For implementers of a store.
pub fn store_failed(kind: ErrorKind) {
    counter!(STORE_FAILURES, "kind" => kind.as_str()).increment(1);
}

/// How many connections a store has to its database. For implementers of a store.
pub fn store_connections(busy: u32, idle: u32) {
    for (state, connections) in [("busy", busy), ("idle", idle)] {
        gauge!(STORE_CONNECTIONS, "state" => state).set(f64::from(connections));
    }
}

/// A fanout between nodes has a connection now, or has none. For implementers of a fanout.
pub fn fanout_connected(transport: &'static str, connected: bool) {
    gauge!(FANOUT_CONNECTED, "transport" => transport).set(f64::from(u8::from(connected)));
}

/// An announcement was heard that no node made. For implementers of fanouts.
pub fn fanout_foreign(transport: &'static str) {
    counter!(FANOUT_FOREIGN, "transport" => transport).increment(1);
}

/// A fanout between nodes has made a lost connection again. For implementers of a fanout.
pub fn fanout_reconnected(transport: &'static str) {
    counter!(FANOUT_RECONNECTS, "transport" => transport).increment(1);
}

/// A connection came past a limit, and was `answered`, or closed at once. For a server around the core.
pub fn http_connection_refused(by: LimitedBy, answered: bool) {
    let outcome = if answered { "refused" } else { "closed" };
    counter!(HTTP_CONNECTIONS_REFUSED, "by" => by.as_str(), "outcome" => outcome).increment(1);
}

/// Something was refused. `code` is one of those that PROTOCOL.md or the OpenAPI document lists.
pub fn refused(code: &'static str, on: Surface) {
    counter!(REFUSALS, "code" => code, "operation" => on.as_str()).increment(1);
}

pub(crate) fn revocations(by: &'static str, held: usize) {
    gauge!(REVOCATIONS, "by" => by).set(held as f64);
}

/// A revocation was ordered over HTTP. For a server around the core.
pub fn revocation_made(by: &'static str) {
    counter!(REVOCATIONS_MADE, "by" => by).increment(1);
}

/// A token was asked for. For a server around the core.
pub fn minted(outcome: &'static str) {
    counter!(TOKENS_MINTED, "outcome" => outcome).increment(1);
}

pub(crate) fn revocations_age(seconds: f64) {
    gauge!(REVOCATIONS_AGE).set(seconds);
}

/// How many keys a source holds. For implementers of a source of keys.
pub fn keys_held(source: &'static str, keys: usize) {
    gauge!(KEYS, "source" => source).set(keys as f64);
}

/// A source of keys was looked at. For implementers of a source of keys.
pub fn keys_read(source: &'static str, outcome: &'static str) {
    counter!(KEY_LOADS, "source" => source, "outcome" => outcome).increment(1);
}

/// How long ago a source of keys last confirmed them. For implementers of a source of keys.
pub fn keys_age(source: &'static str, seconds: f64) {
    gauge!(KEYS_AGE, "source" => source).set(seconds);
}

pub(crate) fn part_healthy(part: &'static str, healthy: bool) {
    gauge!(PART_HEALTHY, "part" => part).set(if healthy { 1.0 } else { 0.0 });
}

/// A part is there from now on, and healthy.
pub(crate) fn part_begins(part: &'static str) {
    part_healthy(part, true);
    zero!(TASK_RESTARTS, "part" => part);
}

pub(crate) fn task_restarted(part: &'static str) {
    counter!(TASK_RESTARTS, "part" => part).increment(1);
}

/// Lines of the log were dropped because there was no room for them. For the code that writes the log.
pub fn log_lines_dropped(lines: u64) {
    counter!(LOG_LINES_DROPPED).increment(lines);
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::{budget::MemoryBudget, stats::Stats};

    /// Without a task that has to have run before: a scrape can be quicker than each of them.
    #[test]
    fn every_metric_is_there_before_anything_has_happened() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let classes = Classes::default();
            describe(&classes);
            Stats::new(&classes, MemoryBudget::new(Some(1 << 30))).report();
            let text = handle.render();
            // What is known of them when they are made, which is before somebody can scrape: parts, keys, stores.
            let made_by_others = [PART_HEALTHY, TASK_RESTARTS, KEYS, COMMITS, COMMIT_SECONDS, COMMIT_APPENDS];
            for name in ALL.iter().filter(|name| !made_by_others.contains(name)) {
                assert!(text.contains(&format!("# TYPE {name} ")), "{name} has no series: {text}");
            }
        });
    }
}
