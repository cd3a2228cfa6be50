//! Every metric's name, once, with what it counts. Labels are of bounded range: never a topic, key, user or seq.

use metrics::{counter, gauge, histogram};

use crate::wire::{Close, Code};

/// Pages read from the journal, by `temperature`: `hot` (new updates, for all who wait for them), `cold` (behind
/// the tail), `exact` (HTTP and embedding callers), `bounds`.
pub const JOURNAL_READS: &str = "khala_journal_reads_total";
/// Appends, by `outcome`: `written`, `duplicate`, `conflict`, `error`.
pub const APPENDS: &str = "khala_appends_total";
/// Updates that were stored.
pub const UPDATES: &str = "khala_updates_total";
/// From publish to acknowledgement, in seconds.
pub const APPEND_SECONDS: &str = "khala_append_seconds";
/// Transactions of a store's writer, by `outcome`: `committed`, `failed`.
pub const COMMITS: &str = "khala_commits_total";
/// How long a store's transaction took, in seconds.
pub const COMMIT_SECONDS: &str = "khala_commit_seconds";
/// How many appends shared a transaction.
pub const COMMIT_APPENDS: &str = "khala_commit_appends";
/// Announcements that could not be sent; delivery completes by polling.
pub const ANNOUNCE_FAILURES: &str = "khala_announce_failures_total";
/// Open connections.
pub const CONNECTIONS: &str = "khala_connections";
/// Connections closed by the server, by `reason`.
pub const CLOSES: &str = "khala_closes_total";
/// Joined channels.
pub const CHANNELS: &str = "khala_channels";
/// Joins answered with ok, by `resume`: `cursor`, `floor`, `head`, `snapshot`.
pub const JOINS: &str = "khala_joins_total";
/// Refusals, by `code`.
pub const REFUSALS: &str = "khala_refusals_total";
/// Batches handed to connections.
pub const BATCHES_SENT: &str = "khala_batches_sent_total";
/// Updates handed to connections.
pub const UPDATES_SENT: &str = "khala_updates_sent_total";
/// Updates that polling found and no announcement had told of.
pub const POLL_FINDS: &str = "khala_poll_finds_total";

/// HTTP requests, by `route` (its pattern), `method` and `status` (its class). Counted by a server around the core.
pub const HTTP_REQUESTS: &str = "khala_http_requests_total";
/// From the head of an HTTP request to that of its answer, in seconds, by `route`.
pub const HTTP_SECONDS: &str = "khala_http_request_seconds";

/// Every name, for the test that holds documentation and dashboards against it.
pub const ALL: &[&str] = &[
    JOURNAL_READS,
    APPENDS,
    UPDATES,
    APPEND_SECONDS,
    COMMITS,
    COMMIT_SECONDS,
    COMMIT_APPENDS,
    ANNOUNCE_FAILURES,
    CONNECTIONS,
    CLOSES,
    CHANNELS,
    JOINS,
    REFUSALS,
    BATCHES_SENT,
    UPDATES_SENT,
    POLL_FINDS,
    HTTP_REQUESTS,
    HTTP_SECONDS,
];

pub(crate) fn journal_read(temperature: &'static str) {
    counter!(JOURNAL_READS, "temperature" => temperature).increment(1);
}

pub(crate) fn appended(outcome: &'static str, updates: u64, seconds: f64) {
    counter!(APPENDS, "outcome" => outcome).increment(1);
    counter!(UPDATES).increment(updates);
    histogram!(APPEND_SECONDS).record(seconds);
}

/// A store's writer committed a group of `appends`, or failed to. For implementers of a store.
pub fn committed(outcome: &'static str, appends: usize, seconds: f64) {
    counter!(COMMITS, "outcome" => outcome).increment(1);
    histogram!(COMMIT_SECONDS).record(seconds);
    histogram!(COMMIT_APPENDS).record(appends as f64);
}

pub(crate) fn announce_failed() {
    counter!(ANNOUNCE_FAILURES).increment(1);
}

pub(crate) fn connections(change: f64) {
    gauge!(CONNECTIONS).increment(change);
}

pub(crate) fn closed(close: Close) {
    counter!(CLOSES, "reason" => close.reason()).increment(1);
}

pub(crate) fn channels(change: f64) {
    gauge!(CHANNELS).increment(change);
}

pub(crate) fn joined(resume: &'static str) {
    counter!(JOINS, "resume" => resume).increment(1);
}

pub(crate) fn refused(code: Code) {
    counter!(REFUSALS, "code" => code.as_str()).increment(1);
}

pub(crate) fn batch_sent(updates: usize) {
    counter!(BATCHES_SENT).increment(1);
    counter!(UPDATES_SENT).increment(updates as u64);
}

pub(crate) fn poll_found(updates: usize) {
    counter!(POLL_FINDS).increment(updates as u64);
}
