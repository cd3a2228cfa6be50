//! Every metric's name, once, with what it counts. Labels are of bounded range: never a topic, key, user or seq. A
//! class is one: there are as many as the settings say.

use std::{fmt, time::Duration};

use metrics::{Counter, Histogram, SharedString, counter, gauge, histogram};

use crate::{
    admission::LimitedBy,
    class::{NO_CLASS, TopicClass},
    error::ErrorKind,
    retention::{SweepOutcome, SweepRecord},
    update::Timestamp,
    wire::Code,
};

/// Pages read from the journal, by `temperature`: `hot` (new updates, for all who wait for them), `cold` (behind
/// the tail), `exact` (HTTP and embedding callers), `bounds`.
pub const JOURNAL_READS: &str = "khala_journal_reads_total";
/// Times that the journal was found to have gone back within an epoch: it lost updates that were acknowledged.
pub const JOURNAL_REGRESSIONS: &str = "khala_journal_regressions_total";
/// Appends, by `outcome`: `written`, `duplicate`, `conflict`, `error`.
pub const APPENDS: &str = "khala_appends_total";
/// Updates that were stored.
pub const UPDATES: &str = "khala_updates_total";
/// Updates that were published through this node, by the topic's `class`; `none`: a topic of no class.
pub const CLASS_UPDATES: &str = "khala_class_updates_total";
/// Batches of others that a class's limits kept out, by the topic's `class` and by `code`:
/// `khala_frame_payload_too_large`, `khala_publish_rate_limited`.
pub const PUBLISH_REFUSED: &str = "khala_publish_refused_total";
/// Publishes that a limit of the token's subject held up, by `limit`: `new_topics`, `publishes`.
pub const SUBJECT_LIMITED: &str = "khala_subject_rate_limited_total";
/// From publish to acknowledgement, in seconds.
pub const APPEND_SECONDS: &str = "khala_append_seconds";
/// Transactions of a store's writer, by `outcome`: `committed`, `failed`.
pub const COMMITS: &str = "khala_commits_total";
/// How long a store's transaction took, in seconds.
pub const COMMIT_SECONDS: &str = "khala_commit_seconds";
/// How many appends and advances shared a transaction.
pub const COMMIT_APPENDS: &str = "khala_commit_appends";
/// Failures that a store reported, by `kind`: `corrupt`, `full`, `internal`, `invalid`, `read_only`, `schema`, `unavailable`.
pub const STORE_FAILURES: &str = "khala_store_failures_total";
/// Connections of a store to its database, by `state`: `busy`, `idle`.
pub const STORE_CONNECTIONS: &str = "khala_store_connections";
/// Announcements that could not be sent; delivery completes by polling.
pub const ANNOUNCE_FAILURES: &str = "khala_announce_failures_total";
/// Whether this node is connected to what carries its announcements, 1 or 0, by `transport`: `nats`, `postgres`.
pub const FANOUT_CONNECTED: &str = "khala_fanout_connected";
/// How often that connection was lost and made again, by `transport`.
pub const FANOUT_RECONNECTS: &str = "khala_fanout_reconnects_total";
/// Announcements that were heard and not made by a node of this cluster, by `transport`; somebody else writes to where nodes
/// announce.
pub const FANOUT_FOREIGN: &str = "khala_fanout_foreign_total";
/// Open connections.
pub const CONNECTIONS: &str = "khala_connections";
/// Connections closed by the server, by `reason`.
pub const CLOSES: &str = "khala_closes_total";
/// Joined channels.
pub const CHANNELS: &str = "khala_channels";
/// Joins answered with ok, by `resume`: `cursor`, `floor`, `head`, `snapshot`.
pub const JOINS: &str = "khala_joins_total";
/// Refusals, by `code` and by what was asked for, `operation`: `frame`, `http`, `join`, `live` (a joined topic), `mint`,
/// `refresh`, `upgrade`.
pub const REFUSALS: &str = "khala_refusals_total";
/// Fresh tokens that were taken on an open connection.
pub const REFRESHES: &str = "khala_refreshes_total";
/// Revocations that this node holds, by what they name, `by`: `jti`, `sid`, `sub`.
pub const REVOCATIONS: &str = "khala_revocations";
/// Revocations that were ordered over HTTP, by what they name, `by`: `jti`, `sid`, `sub`.
pub const REVOCATIONS_MADE: &str = "khala_revocations_made_total";
/// Revocations that polling found and no announcement had told of.
pub const MISSED_REVOCATION_ANNOUNCEMENTS: &str = "khala_missed_revocation_announcements_total";
/// Requests for a token, by `outcome`: `minted`, `invalid`, `authz_denied`, `signing_error`, `upstream_unavailable`.
pub const TOKENS_MINTED: &str = "khala_tokens_minted_total";
/// How long ago this node last read the log of revocations to its end, in seconds.
pub const REVOCATIONS_AGE: &str = "khala_revocations_age_seconds";
/// Keys that tokens are checked with, by `source`: `configuration`, `file`, `jwks`, and `credential` for what the minting
/// of tokens trusts.
pub const KEYS: &str = "khala_keys";
/// How long ago a `source` last confirmed its keys, in seconds: `file`, `jwks`, `credential`.
pub const KEYS_AGE: &str = "khala_keys_age_seconds";
/// Looks at a source of keys, by `source` and `outcome`: `loaded`, `unchanged`, `failed`.
pub const KEY_LOADS: &str = "khala_key_loads_total";
/// Batches handed to connections.
pub const BATCHES_SENT: &str = "khala_batches_sent_total";
/// Updates handed to connections.
pub const UPDATES_SENT: &str = "khala_updates_sent_total";
/// Updates that polling found and no announcement had told of.
pub const MISSED_ANNOUNCEMENTS: &str = "khala_missed_announcements_total";

/// Cursors that could not be resumed from, by `class` and `reason`; several reasons may hold at once.
pub const STALE_CURSORS: &str = "khala_stale_cursors_total";
/// Those of a subject that had one of the same topic within a minute, by `class`.
pub const STALE_LOOPS: &str = "khala_stale_loops_total";
/// Replays that were put off, by `class`.
pub const REPLAYS_DEFERRED: &str = "khala_replays_deferred_total";
/// Topics of which a snapshot was asked although they have updates and no documents, by `class`.
pub const TOPICS_WITHOUT_DOCUMENTS: &str = "khala_topics_without_documents_total";
/// Reads behind the tail that waited for their turn.
pub const REPLAYS_QUEUED: &str = "khala_replay_queued_total";
/// Pages of history that rested because somebody appended.
pub const REPLAYS_THROTTLED: &str = "khala_replay_throttled_total";
/// Connections that were evicted because they made no progress, by the `class` whose limit it was; `none`: the limit
/// of every connection.
pub const SLOW_EVICTIONS: &str = "khala_slow_evictions_total";
/// Channels that read from the journal now, and not from the tail.
pub const CHANNELS_BEHIND: &str = "khala_channels_behind";
/// Channels that fell behind the tail after they had been live.
pub const DEMOTIONS: &str = "khala_demotions_total";
/// Channels that came back to the tail.
pub const PROMOTIONS: &str = "khala_promotions_total";
/// Bytes that connections hold and have not sent yet.
pub const OUTBOX_BYTES: &str = "khala_outbox_bytes";

/// Sweeps that this node ran, by `outcome`: `swept`, `held_back`, `failed`.
pub const SWEEPS: &str = "khala_sweeps_total";
/// How long a sweep took, in seconds.
pub const SWEEP_SECONDS: &str = "khala_sweep_seconds";
/// Updates that sweeps of this node removed, by `class`.
pub const SWEPT_UPDATES: &str = "khala_swept_updates_total";
/// Bytes that those were, by `class`.
pub const SWEPT_BYTES: &str = "khala_swept_bytes_total";
/// Topics that sweeps of this node retired: empty, and idle for long.
pub const TOPICS_RETIRED: &str = "khala_topics_retired_total";
/// When a sweep of the journal last went to its end, as far as this node knows, in seconds since 1970.
pub const SWEEP_LAST: &str = "khala_sweep_last_timestamp_seconds";
/// How old the oldest update was that the last sweep of this node kept, in seconds, by `class`.
pub const OLDEST_KEPT_AGE: &str = "khala_oldest_kept_age_seconds";
/// Topics that the last sweep of this node could not look at or trim. Its record names the first of them.
pub const SWEEP_FAILED_TOPICS: &str = "khala_sweep_failed_topics";
/// Cursors that the sweep which was planned last makes stale.
pub const SWEEP_STALE_CURSORS: &str = "khala_sweep_stale_cursors";

/// Connections over HTTP past a limit, by whose limit it was, `by`: `address`, `node`; and by what became of them,
/// `outcome`: `closed` without a word, `refused` with an answer. Counted by a server around the core.
pub const HTTP_CONNECTIONS_REFUSED: &str = "khala_http_connections_refused_total";
/// HTTP requests, by `route` (its pattern), `method` and `status` (its class). Counted by a server around the core.
pub const HTTP_REQUESTS: &str = "khala_http_requests_total";
/// From the head of an HTTP request to that of its answer, in seconds, by `route`.
pub const HTTP_SECONDS: &str = "khala_http_request_seconds";

/// Whether a long-lived part of this node works, 1 or 0, by `part`.
pub const PART_HEALTHY: &str = "khala_part_healthy";
/// Supervised tasks that ended or panicked and were started again, by `part`.
pub const TASK_RESTARTS: &str = "khala_task_restarts_total";

/// Lines of the log that were dropped because nobody read them.
pub const LOG_LINES_DROPPED: &str = "khala_log_lines_dropped_total";

/// Bytes of the node's memory budget that are taken, by `part`: `answers`, `bodies`, `frames`, `snapshots`,
/// `tail`.
pub const MEMORY: &str = "khala_memory_bytes";
/// The limit of the memory budget, in bytes; without one it is not there.
pub const MEMORY_LIMIT: &str = "khala_memory_limit_bytes";
/// What was refused because the memory budget was spent, by `part`: `answers`, `bodies`.
pub const MEMORY_REFUSALS: &str = "khala_memory_refusals_total";

/// Every name, for the test that holds documentation and dashboards against it.
pub const ALL: &[&str] = &[
    JOURNAL_READS,
    JOURNAL_REGRESSIONS,
    APPENDS,
    UPDATES,
    CLASS_UPDATES,
    PUBLISH_REFUSED,
    SUBJECT_LIMITED,
    APPEND_SECONDS,
    COMMITS,
    COMMIT_SECONDS,
    COMMIT_APPENDS,
    STORE_FAILURES,
    STORE_CONNECTIONS,
    ANNOUNCE_FAILURES,
    FANOUT_CONNECTED,
    FANOUT_RECONNECTS,
    FANOUT_FOREIGN,
    CONNECTIONS,
    CLOSES,
    CHANNELS,
    JOINS,
    REFUSALS,
    REFRESHES,
    REVOCATIONS,
    REVOCATIONS_AGE,
    REVOCATIONS_MADE,
    MISSED_REVOCATION_ANNOUNCEMENTS,
    TOKENS_MINTED,
    KEYS,
    KEYS_AGE,
    KEY_LOADS,
    BATCHES_SENT,
    UPDATES_SENT,
    MISSED_ANNOUNCEMENTS,
    STALE_CURSORS,
    STALE_LOOPS,
    REPLAYS_DEFERRED,
    TOPICS_WITHOUT_DOCUMENTS,
    REPLAYS_QUEUED,
    REPLAYS_THROTTLED,
    SLOW_EVICTIONS,
    CHANNELS_BEHIND,
    DEMOTIONS,
    PROMOTIONS,
    OUTBOX_BYTES,
    SWEEPS,
    SWEEP_SECONDS,
    SWEPT_UPDATES,
    SWEPT_BYTES,
    TOPICS_RETIRED,
    SWEEP_LAST,
    OLDEST_KEPT_AGE,
    SWEEP_FAILED_TOPICS,
    SWEEP_STALE_CURSORS,
    HTTP_CONNECTIONS_REFUSED,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    PART_HEALTHY,
    TASK_RESTARTS,
    LOG_LINES_DROPPED,
    MEMORY,
    MEMORY_LIMIT,
    MEMORY_REFUSALS,
];

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

pub(crate) fn task_restarted(part: &'static str) {
    counter!(TASK_RESTARTS, "part" => part).increment(1);
}

/// Lines of the log were dropped because there was no room for them. For the code that writes the log.
pub fn log_lines_dropped(lines: u64) {
    counter!(LOG_LINES_DROPPED).increment(lines);
}
