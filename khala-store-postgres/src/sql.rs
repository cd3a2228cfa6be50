//! All SQL of the store, each statement with the law that it upholds.
//!
//! `{khala}` stands for the schema. Every question of a reader is one statement, so that it is answered from one moment
//! (J5) and needs no transaction. Every table leads with the topic's key, so that a distributed PostgreSQL shards by it.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Postgres, postgres::PgArguments, query::Query};

/// The migrations, oldest first, and from which version of the schema on code can still work after each.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration { text: include_str!("migrations/1.sql"), works_since: 1 },
    Migration { text: include_str!("migrations/2.sql"), works_since: 1 },
    Migration { text: include_str!("migrations/3.sql"), works_since: 1 },
    Migration { text: include_str!("migrations/4.sql"), works_since: 1 },
    Migration { text: include_str!("migrations/5.sql"), works_since: 1 },
];

/// One step of the schema.
pub(crate) struct Migration {
    pub(crate) text: &'static str,
    /// The oldest version of the code that may go on beside it.
    pub(crate) works_since: usize,
}

/// Two processes that migrate at once do it one after the other. The key is a hash of the schema's name.
pub(crate) const ONE_MIGRATION: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('khala migrate ' || $1, 0))";

/// Who moves a checkpoint does so alone until its transaction ends (C2, C3). `$1` is its name.
pub(crate) const ONE_MOVE: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";

/// Whether there is a schema with a `meta` in it.
pub(crate) const HAS_META: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'meta')";

/// What the server is: its version, the database's encoding, and whether it syncs at all.
pub(crate) const SERVER: &str = "SELECT current_setting('server_version_num')::int,
     current_setting('server_encoding'), current_setting('fsync')::boolean";

/// Whether the schema is there, whichever role made it.
pub(crate) const HAS_SCHEMA: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";

/// What the schema is made of, one line each: columns with their order and defaults, constraints, indexes and functions
/// with their rights.
pub(crate) const SHAPE: &str = "
    SELECT format('column %s.%s %s%s%s%s%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                  CASE WHEN l.collname <> 'default' THEN format(' collate %s', l.collname) ELSE '' END,
                  CASE WHEN a.attnotnull THEN ' not null' ELSE '' END,
                  CASE WHEN a.attidentity <> '' THEN ' identity' ELSE '' END,
                  ' default ' || pg_get_expr(d.adbin, d.adrelid))
      FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT format('constraint %s %s', c.relname, pg_get_constraintdef(k.oid))
      FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND k.contype <> 'n'
    UNION ALL
    SELECT format('index %s%s', CASE WHEN i.indisunique THEN 'unique ' ELSE '' END,
                  regexp_replace(pg_get_indexdef(i.indexrelid), '^.* ON [^.]*\\.', ''))
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1
    UNION ALL
    SELECT format('function %s(%s) %s%s %s', p.proname, pg_get_function_identity_arguments(p.oid),
                  CASE WHEN p.prosecdef THEN 'definer ' ELSE '' END, coalesce(p.proconfig::text, ''),
                  md5(replace(replace(p.prosrc, chr(34) || $1 || chr(34) || '.', ''),
                              'pg_notify(' || quote_literal($1), 'pg_notify(')))
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1
    ORDER BY 1";

/// How the store's own connections are set up, so that a statement by itself is as strict, as durable (J18) and as free to
/// write as the store needs it, whatever the server's defaults are or become: a commit is never answered before it is on
/// stable storage, no lock is waited for for ever, and a node that stands still amid a transaction gives its topics up before
/// others give up waiting for them. Statements are planned once, not by the sizes of arrays (planning took
/// longer than writing 64 updates), and by an index, which each has, also while a table is too small for that to pay.
pub(crate) fn session(locks: Duration) -> String {
    format!(
        "SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off;
         SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off;
         SET lock_timeout = {locks}; SET idle_in_transaction_session_timeout = {idle};
         SELECT set_config('synchronous_commit', {SYNCED}, false)",
        locks = millis(locks),
        idle = millis(locks / 2)
    )
}

/// What a commit waits for: whatever the server says, unless that is nothing.
const SYNCED: &str = "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                      ELSE current_setting('synchronous_commit') END";

/// How a transaction begins on a connection that is set up.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// How one begins on a connection of a pooler or of the application, which is not.
pub(crate) fn begin_pooled(locks: Duration) -> String {
    let (locks, idle) = (millis(locks), millis(locks / 2));
    format!(
        "{BEGIN} READ WRITE; SET LOCAL lock_timeout = {locks};
         SET LOCAL idle_in_transaction_session_timeout = {idle};
         SELECT set_config('synchronous_commit', {SYNCED}, true)"
    )
}

/// How one begins that is for an operator, and is waited for.
pub(crate) fn begin_operation() -> String {
    format!(
        "{BEGIN} READ WRITE; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0;
         SELECT set_config('synchronous_commit', {SYNCED}, true)"
    )
}

/// How the transaction begins that holds the lock of a lead. It rests for as long as that lasts, and keeps no moment: the
/// isolation matters for what may be vacuumed meanwhile.
pub(crate) const BEGIN_LEAD: &str = "BEGIN ISOLATION LEVEL READ COMMITTED;
     SET LOCAL idle_in_transaction_session_timeout = 0";

/// Whether a connection answers.
pub(crate) const PING: &str = "SELECT 1";

/// No timeout is 0, which would be none.
fn millis(timeout: Duration) -> u128 {
    timeout.as_millis().clamp(1, i32::MAX as u128)
}

/// Nothing waits for ever for a lock that somebody holds. `$1` is a text with its unit.
pub(crate) const LOCK_TIMEOUT: &str = "SELECT set_config('lock_timeout', $1, true)";

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $text:expr;)*) => {
        /// The statements, for one schema.
        #[derive(Debug)]
        pub(crate) struct Sql {
            $($(#[$doc])* pub(crate) $name: Statement,)*
        }

        impl Sql {
            /// For that schema; `kept` says whether connections keep them prepared.
            pub(crate) fn new(schema: &str, kept: bool) -> Self {
                let schema = format!("\"{schema}\"");
                Self { $($name: Statement { text: $text.replace("{khala}", &schema).into(), kept },)* }
            }
        }
    };
}

statements! {
    /// The schema itself, where nobody has made it.
    add_schema = "CREATE SCHEMA {khala}";

    /// The versions of the schema, the seed of the epochs (J16), and whether appends in transactions of applications
    /// NOTIFY.
    meta = "SELECT schema_version, works_since, seed FROM {khala}.meta";

    /// Records the version that a migration reached, in the migration's own transaction.
    set_version = "UPDATE {khala}.meta SET schema_version = $1, works_since = greatest(works_since, $2)";

    /// Proves that a transaction reaches the disk: it needs the right to write, a server that is no standby, and a flush of
    /// the log; it changes nothing that anybody reads.
    prove_writable = "WITH writes AS (UPDATE {khala}.topic SET head = head WHERE false RETURNING 1)
         SELECT pg_logical_emit_message(true, 'khala', '')::text";

    /// How many connections of stores there are, to whichever schema. Everybody may see these columns.
    stores_there = "SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE datname = current_database() AND application_name IN ('khala', 'khala listen')";

    /// After a restore: stores that open meanwhile, and transactions that read the seed, wait for the new one (J16).
    lock_meta = "LOCK TABLE {khala}.meta IN ACCESS EXCLUSIVE MODE";

    /// After a restore: untouched topics derive other epochs (J15, J16).
    new_seed = "UPDATE {khala}.meta SET seed = uuid_send(gen_random_uuid())";

    /// After a restore: every history is another one (J15).
    new_epochs = "UPDATE {khala}.topic SET epoch = ('x' || encode(uuid_send(gen_random_uuid()), 'hex'))::bit(64)::bigint";

    /// After a restore: no receipt names a history that is no more (J10).
    move_receipts = "UPDATE {khala}.receipt r SET epoch = t.epoch FROM {khala}.topic t WHERE t.topic_id = r.topic_id";

    /// Locks topics for as long as the transaction lasts, so that what is checked is still so when it is written, and
    /// commits of one topic come in the order of their seqs (J7, J9, J10, D1). In the order of the names, so that two who
    /// wait for each other's topics cannot be.
    lock_topics = "SELECT topic, topic_id, epoch, floor, head, bytes FROM {khala}.topic
         WHERE topic = ANY($1) ORDER BY topic FOR NO KEY UPDATE";

    /// The same, of those that nobody else has: who groups topics must not wait for one on behalf of the others.
    lock_free_topics = "SELECT topic, topic_id, epoch, floor, head, bytes FROM {khala}.topic
         WHERE topic = ANY($1) ORDER BY topic FOR NO KEY UPDATE SKIP LOCKED";

    /// Which topics have a row.
    known_topics = "SELECT topic FROM {khala}.topic WHERE topic = ANY($1)";

    /// Gives topics their rows, with the epochs that they had while untouched (J16). In the order of their names.
    add_topics = "INSERT INTO {khala}.topic (topic, epoch)
         SELECT * FROM unnest($1::text[], $2::bigint[]) ON CONFLICT (topic) DO NOTHING";

    /// All that a group of plain appends is: locks the topics that nobody else has, in the order that they are given in,
    /// each found by its index whatever else the planner thinks of, moves their heads (J6, J7) and writes the log from where
    /// the heads stood (J1, J2, J8). One statement, and so a whole. A row that was changed after the statement began is
    /// locked and moved as it is now.
    append_plain = "WITH locked AS MATERIALIZED (
             SELECT t.topic_id, w.updates, w.bytes, w.place
             FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS w (topic, updates, bytes, place),
                  LATERAL (SELECT topic_id FROM {khala}.topic t
                           WHERE t.topic = w.topic AND t.floor <= t.head AND t.head <= 9007199254740991 - w.updates
                           FOR NO KEY UPDATE SKIP LOCKED) AS t),
         moved AS (
             UPDATE {khala}.topic t SET head = t.head + l.updates, bytes = t.bytes + l.bytes, due_at = 0
             FROM locked l WHERE t.topic_id = l.topic_id
             RETURNING t.topic_id, t.epoch, t.head, t.head - l.updates AS before, l.place),
         written AS (
             INSERT INTO {khala}.update (topic_id, seq, published_at, kind, deleted, payload_hash, trace, payload)
             SELECT m.topic_id, m.before + u.nth, u.published_at, u.kind, false, u.payload_hash, u.trace, u.payload
             FROM unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[])
                 AS u (place, nth, published_at, kind, payload_hash, trace, payload)
             JOIN moved m USING (place))
         SELECT place, epoch, head FROM moved";

    /// First receipts under dedup keys (J10).
    receipts = "SELECT k.place, r.epoch, r.first_seq, r.last_seq, r.content FROM {khala}.receipt r
         JOIN unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS k (topic_id, dedup, place) USING (topic_id, dedup)";

    /// The versions that documents' next ones must exceed (D1).
    document_versions = "SELECT k.place, d.doc_version FROM {khala}.document d
         JOIN unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS k (topic_id, doc_key, place) USING (topic_id, doc_key)";

    /// All that a group writes: the heads (J6, J7), the log, whose primary key stands behind J1 and J8, the newest state of
    /// each document, a copy of its own (D1, D4), a tombstone too (D2), and the receipts under dedup keys (J10).
    write = "WITH u AS MATERIALIZED (
             SELECT * FROM unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::bigint[],
                                  $10::boolean[], $11::text[], $12::text[], $13::text[], $14::boolean[])
                 AS u (topic_id, seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace, payload,
                       newest)),
         moved AS (
             UPDATE {khala}.topic t SET head = m.head, bytes = t.bytes + m.bytes, due_at = 0
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS m (topic_id, head, bytes)
             WHERE t.topic_id = m.topic_id),
         documents AS (
             INSERT INTO {khala}.document (topic_id, seq, published_at, kind, doc_key, doc_version, deleted,
                                           payload_hash, trace, payload)
             SELECT topic_id, seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace, payload
             FROM u WHERE newest
             ON CONFLICT (topic_id, doc_key) DO UPDATE SET
                 seq = excluded.seq, published_at = excluded.published_at, kind = excluded.kind,
                 doc_version = excluded.doc_version, deleted = excluded.deleted, payload_hash = excluded.payload_hash,
                 trace = excluded.trace, payload = excluded.payload),
         receipts AS (
             INSERT INTO {khala}.receipt (topic_id, dedup, epoch, first_seq, last_seq, written_at, content)
             SELECT * FROM unnest($15::bigint[], $16::text[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[],
                                  $21::bytea[]))
         INSERT INTO {khala}.update (topic_id, seq, published_at, kind, doc_key, doc_version, deleted, payload_hash,
                                     trace, payload)
         SELECT topic_id, seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace, payload FROM u";

    /// Where a checkpoint stands, held until the transaction that moves it ends: nobody removes it meanwhile (C3, C8).
    hold_checkpoint = "SELECT source_epoch, source_watermark, version, summary_hash FROM {khala}.checkpoint
         WHERE projection = $1 AND entity = $2 FOR UPDATE";

    /// What the SQL function says by itself: that a topic has moved, once the caller's transaction commits. Without its head:
    /// what a transaction says twice is said once. And by a mark that only those know who know the seed: every role of the
    /// database may listen.
    notify_in = "SELECT pg_notify($1, 't ' || encode(substring(sha256(convert_to('khala topic ', 'UTF8') || m.seed
             || convert_to($2, 'UTF8')) FROM 1 FOR 16), 'hex'))
         FROM {khala}.meta m WHERE m.notify";

    /// Whether appends in the transactions of applications NOTIFY.
    set_notify = "UPDATE {khala}.meta SET notify = $1";

    /// What a topic holds (J5).
    bounds = "SELECT epoch, floor, head FROM {khala}.topic WHERE topic = $1";

    /// What topics hold.
    heads = "SELECT topic, epoch, floor, head FROM {khala}.topic WHERE topic = ANY($1)";

    /// A page of the log, exclusive of its cursor (J3), in order of seq (J4), with the bounds of the same moment (J5).
    /// Rows past the byte limit stay in the database; sizes are told without loading what they are of.
    page = "SELECT t.epoch, t.floor, t.head, u.seq, u.published_at, u.kind, u.doc_key, u.doc_version, u.deleted,
                   u.payload_hash, u.trace, u.payload
         FROM {khala}.topic t LEFT JOIN LATERAL (
             SELECT * FROM (
                 SELECT *, row_number() OVER by_seq AS nth, sum(size) OVER by_seq AS bytes FROM (
                     SELECT *, octet_length(payload) + octet_length(kind) + coalesce(octet_length(doc_key), 0) AS size
                     FROM {khala}.update u WHERE u.topic_id = t.topic_id AND u.seq > $2 ORDER BY u.seq LIMIT $3
                 ) AS most WINDOW by_seq AS (ORDER BY seq)
             ) AS weighed WHERE nth = 1 OR bytes <= $4
         ) AS u ON t.floor <= $2 AND t.head > $2 AND coalesce(t.epoch = $5, true)
         WHERE t.topic = $1 ORDER BY u.seq";

    /// Topics from a name on, but for one, up to a name: the pages of a listing in byte order of the names.
    topics = "SELECT topic, epoch, floor, head FROM {khala}.topic
         WHERE topic >= $1 AND topic < $2 AND topic IS DISTINCT FROM $3 AND due_at IS NOT NULL AND head <> 0
         ORDER BY topic LIMIT $4";

    /// The topics that are due, by the index on that, and all of them where they were put off under other rules (J21).
    due = "SELECT t.topic, t.epoch, t.floor, t.head, t.due_at FROM {khala}.topic t
         WHERE (t.due_at, t.topic) > ($1, $2) AND t.due_at <= $3 AND t.head <> 0 ORDER BY t.due_at, t.topic LIMIT $4";

    /// Under which rules topics are put off.
    rules = "SELECT rules FROM {khala}.meta";

    /// The same, locked, so that one at a time puts topics off.
    lock_rules = "SELECT rules FROM {khala}.meta FOR NO KEY UPDATE";

    /// Names the rules under which topics are put off from here on.
    set_rules = "UPDATE {khala}.meta SET rules = $1 WHERE rules <> $1";

    /// Makes some topics due that were put off, but for those that somebody else has locked: nobody is waited for.
    unsettle = "UPDATE {khala}.topic SET due_at = 0 WHERE topic_id IN (
             SELECT topic_id FROM {khala}.topic WHERE due_at > 0 ORDER BY topic LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED)";

    /// Whether any topic is put off.
    any_put_off = "SELECT EXISTS (SELECT FROM {khala}.topic WHERE due_at > 0)";

    /// Puts topics off that have not moved (J21), none further than until its oldest dedup key whose update is gone is to be
    /// forgotten, or its oldest tombstone whose update is gone is to go. One that was put off, has not moved since then and holds nothing is retired (J22). Who has one of them locked
    /// appends to it, so it is due anyway: nobody is waited for.
    settle = "WITH locked AS MATERIALIZED (
             SELECT t.topic_id, s.head, s.due, s.seen_at, s.idle, s.tombstones FROM {khala}.topic t
             JOIN unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $6::bigint[], $7::bigint[],
                         $8::bigint[])
                 AS s (topic, epoch, head, due, seen_at, idle, tombstones) USING (topic)
             WHERE t.epoch = s.epoch AND t.head = s.head AND t.due_at IS NOT NULL
             ORDER BY t.topic FOR NO KEY UPDATE OF t SKIP LOCKED)
         UPDATE {khala}.topic t SET
             due_at = CASE
                 WHEN t.due_at > 0 AND t.idle_since <= l.idle AND t.floor = t.head
                     AND NOT EXISTS (SELECT FROM {khala}.receipt r WHERE r.topic_id = t.topic_id)
                     AND NOT EXISTS (SELECT FROM {khala}.document d WHERE d.topic_id = t.topic_id AND NOT d.deleted)
                     AND (l.tombstones IS NULL OR NOT EXISTS (
                         SELECT FROM {khala}.document d WHERE d.topic_id = t.topic_id AND d.deleted))
                 THEN NULL
                 ELSE least(l.due, (
                     SELECT r.written_at + $5 FROM {khala}.receipt r
                     WHERE r.topic_id = t.topic_id AND r.last_seq <= t.floor AND r.written_at <= l.seen_at + $9
                     ORDER BY r.last_seq LIMIT 1), (
                     SELECT d.published_at + l.tombstones + 1 FROM {khala}.document d
                     WHERE d.topic_id = t.topic_id AND d.deleted AND d.seq <= t.floor AND d.published_at <= l.seen_at + $9
                     ORDER BY d.seq LIMIT 1))
             END,
             idle_since = CASE WHEN t.due_at > 0 THEN t.idle_since ELSE l.seen_at END
         FROM locked l WHERE t.topic_id = l.topic_id AND t.head = l.head
         RETURNING t.due_at IS NULL";

    /// A document, a tombstone too (D1).
    document = "SELECT d.seq, d.published_at, d.kind, d.doc_key, d.doc_version, d.deleted, d.payload_hash, d.trace,
                       d.payload
         FROM {khala}.topic t JOIN {khala}.document d USING (topic_id) WHERE t.topic = $1 AND d.doc_key = $2";

    /// A page of the documents that are there: no tombstones (D2), in byte order of the keys. No key is empty, so the
    /// empty text stands before the first. One more than fits tells that there are more. The index that has no tombstones in
    /// it answers, however many there are.
    documents = "SELECT t.epoch, t.floor, t.head, d.seq, d.published_at, d.kind, d.doc_key, d.doc_version, d.deleted,
                        d.payload_hash, d.trace, d.payload
         FROM {khala}.topic t LEFT JOIN LATERAL (
             SELECT * FROM (
                 SELECT *, row_number() OVER by_key AS nth, sum(size) OVER by_key - size AS bytes_before FROM (
                     SELECT *, octet_length(payload) + octet_length(kind) + octet_length(doc_key) AS size
                     FROM {khala}.document d WHERE d.topic_id = t.topic_id AND d.doc_key > $2 AND NOT d.deleted
                     ORDER BY d.doc_key LIMIT $3
                 ) AS most WINDOW by_key AS (ORDER BY doc_key)
             ) AS weighed WHERE nth <= 2 OR bytes_before <= $4
         ) AS d ON true
         WHERE t.topic = $1 ORDER BY d.doc_key";

    /// A topic that is to be trimmed, locked: a trim and an append never overlap (J11, J14).
    lock_topic = "SELECT topic_id, epoch, floor, head, bytes FROM {khala}.topic WHERE topic = $1 FOR NO KEY UPDATE";

    /// The same, for a plan, which locks nothing.
    look_at_topic = "SELECT topic_id, epoch, floor, head, bytes FROM {khala}.topic WHERE topic = $1";

    /// The oldest updates of a topic with what a trim weighs.
    oldest = "SELECT seq, published_at,
                     (octet_length(payload) + octet_length(kind) + coalesce(octet_length(doc_key), 0))::bigint
         FROM {khala}.update WHERE topic_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";

    /// The first update after another that was published by then: where clocks that were ahead end.
    next_published_by = "SELECT published_at FROM {khala}.update
         WHERE topic_id = $1 AND seq > $2 AND published_at <= $3 ORDER BY seq LIMIT 1";

    /// Removes the oldest updates, and nothing else (J13).
    remove_updates = "DELETE FROM {khala}.update WHERE topic_id = $1 AND seq <= $2";

    /// The floor rises in the transaction that removes the updates up to it (J11, J14). The head stays (J13).
    raise_floor = "UPDATE {khala}.topic SET floor = $2, bytes = $3 WHERE topic_id = $1";

    /// Forgets, of the oldest receipts whose updates are gone, those that are old enough, and those of a clock that was ahead
    /// with what follows them.
    remove_receipts = "DELETE FROM {khala}.receipt r
         WHERE r.topic_id = $1 AND (r.written_at <= $3 OR r.written_at > $5) AND r.last_seq <= (
             SELECT max(o.last_seq) FROM (
                 SELECT last_seq, written_at FROM {khala}.receipt
                 WHERE topic_id = $1 AND last_seq <= $2 AND written_at <= $5 ORDER BY last_seq LIMIT $4) AS o
             WHERE o.written_at <= $3)";

    /// Removes, of the oldest tombstones whose updates are gone, those that are old enough (D5), as with receipts.
    remove_tombstones = "DELETE FROM {khala}.document d
         WHERE d.topic_id = $1 AND d.deleted AND (d.published_at < $3 OR d.published_at > $5) AND d.seq <= (
             SELECT max(o.seq) FROM (
                 SELECT seq, published_at FROM {khala}.document
                 WHERE topic_id = $1 AND deleted AND seq <= $2 AND published_at <= $5 ORDER BY seq LIMIT $4) AS o
             WHERE o.published_at < $3)";

    /// Where a checkpoint stands (C2, C3).
    checkpoint = "SELECT source_epoch, source_watermark, version, summary_hash FROM {khala}.checkpoint
         WHERE projection = $1 AND entity = $2";

    /// Moves a checkpoint, in the transaction that stores its batch (C1).
    put_checkpoint = "INSERT INTO {khala}.checkpoint (projection, entity, source_epoch, source_watermark, version,
                                                      summary_hash)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (projection, entity) DO UPDATE SET
             source_epoch = excluded.source_epoch, source_watermark = excluded.source_watermark,
             version = excluded.version, summary_hash = excluded.summary_hash";

    /// A page of a projection's checkpoints, exclusive of its entity and in byte order (C7).
    checkpoints = "SELECT entity, source_epoch, source_watermark, version, summary_hash FROM {khala}.checkpoint
         WHERE projection = $1 AND entity > $2 ORDER BY entity LIMIT $3";

    /// Removes one checkpoint (C8).
    remove_checkpoint = "DELETE FROM {khala}.checkpoint WHERE projection = $1 AND entity = $2";

    /// Removes the next checkpoints of a projection (C8).
    remove_checkpoints = "DELETE FROM {khala}.checkpoint WHERE projection = $1 AND entity IN (
             SELECT entity FROM {khala}.checkpoint WHERE projection = $1 AND entity > $2 ORDER BY entity LIMIT $3)
         RETURNING entity";

    /// The newest watermark of the log of revocations, locked: so watermarks become visible in their order (R3), and none
    /// is given twice (R5).
    next_revocation = "UPDATE {khala}.revocation_head SET newest = newest + 1 RETURNING newest";

    /// What is kept about somebody already, which revoking again must not shorten (R4).
    revoked = "SELECT watermark, named_by, named_id, revoked_at, until FROM {khala}.revocation
         WHERE named_by = $1 AND named_id = $2";

    /// Stores a revocation, in the place of an older one that names the same (R1, R4).
    revoke = "INSERT INTO {khala}.revocation (watermark, named_by, named_id, revoked_at, until)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (named_by, named_id) DO UPDATE SET
             watermark = excluded.watermark, revoked_at = excluded.revoked_at, until = excluded.until";

    /// A page of revocations, exclusive of its watermark and in order (R2).
    revocations = "SELECT watermark, named_by, named_id, revoked_at, until FROM {khala}.revocation
         WHERE watermark > $1 ORDER BY watermark LIMIT $2";

    /// Forgets the oldest that have ended, and nothing else (R5). Moments are unsigned and compared as such: a negative
    /// number is one that is past the largest signed one.
    prune = "DELETE FROM {khala}.revocation WHERE watermark IN (
             SELECT watermark FROM {khala}.revocation WHERE (until < 0, until) <= ($1 < 0, $1)
             ORDER BY watermark LIMIT $2)";

    /// How far the log of revocations goes.
    last_revoked = "SELECT newest FROM {khala}.revocation_head";

    /// Who leads, locked, so that one node at a time asks (S1).
    lock_lead = "SELECT node, until, session FROM {khala}.sweep_lead FOR UPDATE";

    /// Makes the row of the lead, once.
    add_lead = "INSERT INTO {khala}.sweep_lead (one, node, until, session) VALUES (true, '', 0, 0)
         ON CONFLICT (one) DO NOTHING";

    /// Takes the lead, moves its end, or gives it up (S2, S3).
    set_lead = "UPDATE {khala}.sweep_lead SET node = $1, until = $2, session = $3";

    /// Records a run (S4).
    add_sweep = "INSERT INTO {khala}.sweep (record) VALUES ($1)";

    /// Forgets the oldest records (S4).
    forget_sweeps = "DELETE FROM {khala}.sweep WHERE sweep_id <=
         (SELECT sweep_id FROM {khala}.sweep ORDER BY sweep_id DESC OFFSET $1 LIMIT 1)";

    /// The newest records, newest first (S4).
    sweeps = "SELECT record, sweep_id FROM {khala}.sweep ORDER BY sweep_id DESC LIMIT $1";
}

/// Holds the session that leads: the lock goes with its transaction, and so with its connection (S2).
pub(crate) const HOLD_LEAD: &str =
    "SELECT pg_try_advisory_xact_lock(hashtextextended('khala sweep ' || $1, $2))";

/// Tells everybody who listens. Parameters: the channel and the payloads.
pub(crate) const NOTIFY: &str = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";

/// A statement of one schema.
#[derive(Debug)]
pub(crate) struct Statement {
    text: Arc<str>,
    /// Whether connections keep it prepared: a pooler's are somebody else's by the next transaction.
    kept: bool,
}

/// A statement to run.
pub(crate) fn query(statement: &Statement) -> Query<'static, Postgres, PgArguments> {
    // What was put into it is a schema's name, which is checked.
    sqlx::query(AssertSqlSafe(Arc::clone(&statement.text))).persistent(statement.kept)
}

/// A statement to run that is rare, and of no schema.
pub(crate) fn rare(text: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(text).persistent(false)
}
