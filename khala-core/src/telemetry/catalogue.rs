//! Every metric: its name, once, what kind it is, and what it counts, which is its `# HELP`.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Defines a constant for each name, and the functions that go over all of them.
macro_rules! catalogue {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ident $text:literal,)*) => {
        $($(#[doc = $help])+ pub const $name: &str = $text;)*

        /// Every name, for the test that holds documentation and dashboards against it.
        pub const ALL: &[&str] = &[$($name),*];

        /// Tells the process' recorder what each metric is.
        pub(super) fn describe_all() {
            $(describe!($kind, $name, concat!($($help),+).trim().replace('`', ""));)*
        }
    };
}

macro_rules! describe {
    (counter, $name:ident, $help:expr) => {
        describe_counter!($name, $help)
    };
    (gauge, $name:ident, $help:expr) => {
        describe_gauge!($name, $help)
    };
    (histogram, $name:ident, $help:expr) => {
        describe_histogram!($name, $help)
    };
}

catalogue! {
    /// Pages read from the journal, by `temperature`: `hot` (new updates, for all who wait for them), `cold` (behind
    /// the tail), `exact` (HTTP and embedding callers), `bounds`.
    JOURNAL_READS: counter "khala_journal_reads_total",
    /// Times that the journal was found to have gone back within an epoch: it lost updates that were acknowledged.
    JOURNAL_REGRESSIONS: counter "khala_journal_regressions_total",
    /// Appends, by `outcome`: `written`, `duplicate`, `conflict`, `error`.
    APPENDS: counter "khala_appends_total",
    /// Updates that were stored.
    UPDATES: counter "khala_updates_total",
    /// Updates that were published through this node, by the topic's `class`; `none`: a topic of no class.
    CLASS_UPDATES: counter "khala_class_updates_total",
    /// Batches of others that a class's limits kept out, by the topic's `class` and by `code`:
    /// `khala_frame_payload_too_large`, `khala_publish_rate_limited`.
    PUBLISH_REFUSED: counter "khala_publish_refused_total",
    /// Publishes that a limit of the token's subject held up, by `limit`: `new_topics`, `publishes`.
    SUBJECT_LIMITED: counter "khala_subject_rate_limited_total",
    /// From publish to acknowledgement, in seconds.
    APPEND_SECONDS: histogram "khala_append_seconds",
    /// Transactions of a store's writer, by `outcome`: `committed`, `failed`.
    COMMITS: counter "khala_commits_total",
    /// How long a store's transaction took, in seconds.
    COMMIT_SECONDS: histogram "khala_commit_seconds",
    /// How many appends and advances shared a transaction.
    COMMIT_APPENDS: histogram "khala_commit_appends",
    /// Failures that a store reported, by `kind`: `corrupt`, `full`, `internal`, `invalid`, `read_only`, `schema`, `unavailable`.
    STORE_FAILURES: counter "khala_store_failures_total",
    /// Connections of a store to its database, by `state`: `busy`, `idle`.
    STORE_CONNECTIONS: gauge "khala_store_connections",
    /// Announcements that could not be sent; delivery completes by polling.
    ANNOUNCE_FAILURES: counter "khala_announce_failures_total",
    /// Whether this node is connected to what carries its announcements, 1 or 0, by `transport`: `nats`, `postgres`.
    FANOUT_CONNECTED: gauge "khala_fanout_connected",
    /// How often that connection was lost and made again, by `transport`.
    FANOUT_RECONNECTS: counter "khala_fanout_reconnects_total",
    /// Announcements that were heard and not made by a node of this cluster, by `transport`; somebody else writes to where nodes
    /// announce.
    FANOUT_FOREIGN: counter "khala_fanout_foreign_total",
    /// Open connections.
    CONNECTIONS: gauge "khala_connections",
    /// Connections closed by the server, by `reason`.
    CLOSES: counter "khala_closes_total",
    /// Joined channels.
    CHANNELS: gauge "khala_channels",
    /// Joins answered with ok, by `resume`: `cursor`, `floor`, `head`, `snapshot`.
    JOINS: counter "khala_joins_total",
    /// Refusals, by `code` and by what was asked for, `operation`: `frame`, `http`, `join`, `live` (a joined topic), `mint`,
    /// `refresh`, `upgrade`.
    REFUSALS: counter "khala_refusals_total",
    /// Fresh tokens that were taken on an open connection.
    REFRESHES: counter "khala_refreshes_total",
    /// Revocations that this node holds, by what they name, `by`: `jti`, `sid`, `sub`.
    REVOCATIONS: gauge "khala_revocations",
    /// Revocations that were ordered over HTTP, by what they name, `by`: `jti`, `sid`, `sub`.
    REVOCATIONS_MADE: counter "khala_revocations_made_total",
    /// Revocations that polling found and no announcement had told of.
    MISSED_REVOCATION_ANNOUNCEMENTS: counter "khala_missed_revocation_announcements_total",
    /// Requests for a token, by `outcome`: `minted`, `invalid`, `authz_denied`, `signing_error`, `upstream_unavailable`.
    TOKENS_MINTED: counter "khala_tokens_minted_total",
    /// How long ago this node last read the log of revocations to its end, in seconds.
    REVOCATIONS_AGE: gauge "khala_revocations_age_seconds",
    /// Keys that tokens are checked with, by `source`: `configuration`, `file`, `jwks`, and `credential` for what the minting
    /// of tokens trusts.
    KEYS: gauge "khala_keys",
    /// How long ago a `source` last confirmed its keys, in seconds: `file`, `jwks`, `credential`.
    KEYS_AGE: gauge "khala_keys_age_seconds",
    /// Looks at a source of keys, by `source` and `outcome`: `loaded`, `unchanged`, `failed`.
    KEY_LOADS: counter "khala_key_loads_total",
    /// Batches handed to connections.
    BATCHES_SENT: counter "khala_batches_sent_total",
    /// Updates handed to connections.
    UPDATES_SENT: counter "khala_updates_sent_total",
    /// Updates that polling found and no announcement had told of.
    MISSED_ANNOUNCEMENTS: counter "khala_missed_announcements_total",

    /// Cursors that could not be resumed from, by `class` and `reason`; several reasons may hold at once.
    STALE_CURSORS: counter "khala_stale_cursors_total",
    /// Those of a subject that had one of the same topic within a minute, by `class`.
    STALE_LOOPS: counter "khala_stale_loops_total",
    /// Replays that were put off, by `class`.
    REPLAYS_DEFERRED: counter "khala_replays_deferred_total",
    /// Topics of which a snapshot was asked although they have updates and no documents, by `class`.
    TOPICS_WITHOUT_DOCUMENTS: counter "khala_topics_without_documents_total",
    /// Reads behind the tail that waited for their turn.
    REPLAYS_QUEUED: counter "khala_replay_queued_total",
    /// Pages of history that rested because somebody appended.
    REPLAYS_THROTTLED: counter "khala_replay_throttled_total",
    /// Connections that were evicted because they made no progress, by the `class` whose limit it was; `none`: the limit
    /// of every connection.
    SLOW_EVICTIONS: counter "khala_slow_evictions_total",
    /// Channels that read from the journal now, and not from the tail.
    CHANNELS_BEHIND: gauge "khala_channels_behind",
    /// Channels that fell behind the tail after they had been live.
    DEMOTIONS: counter "khala_demotions_total",
    /// Channels that came back to the tail.
    PROMOTIONS: counter "khala_promotions_total",
    /// Bytes that connections hold and have not sent yet.
    OUTBOX_BYTES: gauge "khala_outbox_bytes",

    /// Sweeps that this node ran, by `outcome`: `swept`, `held_back`, `failed`.
    SWEEPS: counter "khala_sweeps_total",
    /// How long a sweep took, in seconds.
    SWEEP_SECONDS: histogram "khala_sweep_seconds",
    /// Updates that sweeps of this node removed, by `class`.
    SWEPT_UPDATES: counter "khala_swept_updates_total",
    /// Bytes that those were, by `class`.
    SWEPT_BYTES: counter "khala_swept_bytes_total",
    /// Topics that sweeps of this node retired: empty, and idle for long.
    TOPICS_RETIRED: counter "khala_topics_retired_total",
    /// When a sweep of the journal last went to its end, as far as this node knows, in seconds since 1970.
    SWEEP_LAST: gauge "khala_sweep_last_timestamp_seconds",
    /// How old the oldest update was that the last sweep of this node kept, in seconds, by `class`.
    OLDEST_KEPT_AGE: gauge "khala_oldest_kept_age_seconds",
    /// Topics that the last sweep of this node could not look at or trim. Its record names the first of them.
    SWEEP_FAILED_TOPICS: gauge "khala_sweep_failed_topics",
    /// Cursors that the sweep which was planned last makes stale.
    SWEEP_STALE_CURSORS: gauge "khala_sweep_stale_cursors",

    /// Connections over HTTP past a limit, by whose limit it was, `by`: `address`, `node`; and by what became of them,
    /// `outcome`: `closed` without a word, `refused` with an answer. Counted by a server around the core.
    HTTP_CONNECTIONS_REFUSED: counter "khala_http_connections_refused_total",
    /// HTTP requests, by `route` (its pattern), `method` and `status` (its class). Counted by a server around the core.
    HTTP_REQUESTS: counter "khala_http_requests_total",
    /// From the head of an HTTP request to that of its answer, in seconds, by `route`.
    HTTP_SECONDS: histogram "khala_http_request_seconds",

    /// Whether a long-lived part of this node works, 1 or 0, by `part`.
    PART_HEALTHY: gauge "khala_part_healthy",
    /// Supervised tasks that ended or panicked and were started again, by `part`.
    TASK_RESTARTS: counter "khala_task_restarts_total",

    /// Lines of the log that were dropped because nobody read them.
    LOG_LINES_DROPPED: counter "khala_log_lines_dropped_total",

    /// Bytes of the node's memory budget that are taken, by `part`: `answers`, `bodies`, `frames`, `snapshots`,
    /// `tail`.
    MEMORY: gauge "khala_memory_bytes",
    /// The limit of the memory budget, in bytes; without one it is not there.
    MEMORY_LIMIT: gauge "khala_memory_limit_bytes",
    /// What was refused because the memory budget was spent, by `part`: `answers`, `bodies`.
    MEMORY_REFUSALS: counter "khala_memory_refusals_total",
}
