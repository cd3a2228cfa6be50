//! All SQL of the store, each statement with the law that it upholds.
//!
//! The log is a rowid table in append order with a unique index, not a `WITHOUT ROWID` table clustered by topic:
//! measured with 1,000 topics in transactions of 64 and `synchronous=FULL`, it takes 46,000 appends of 200 bytes a
//! second against 5,600 (2 KiB: 18,000 against 7,000), because it dirties the end of the file and not a leaf per
//! topic. With one topic they are even (159,000 and 163,000); reads over 1,000 topics are slower (290,000 updates
//! a second against 1,390,000), and fast enough. `moved` is an index over topics, one entry per topic and group;
//! asking the log itself for its newest rows would need AUTOINCREMENT, measured no cheaper, and read every row.

/// Where the schema's version and the seed of the epochs stand. Not `PRAGMA user_version`: that belongs to the
/// application whose file this is.
pub(crate) const CREATE_META: &str = "
CREATE TABLE IF NOT EXISTS khala_meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID";

/// Schema version 1.
///
/// `bytes` is the sum of the sizes of the updates that are kept, so that no trim has to add them up. `moved` grows
/// with every transaction that moves a head. An epoch is 64 bits, stored as the signed number with those bits;
/// so are moments, in milliseconds. `payload` comes last, so that no other column lies behind its overflow pages.
pub(crate) const MIGRATE_1: &str = "
CREATE TABLE khala_topic (
    topic_id INTEGER PRIMARY KEY,
    topic    TEXT    NOT NULL UNIQUE,
    epoch    INTEGER NOT NULL,
    floor    INTEGER NOT NULL,
    head     INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    moved    INTEGER NOT NULL
);
CREATE INDEX khala_topic_moved ON khala_topic (moved);

CREATE TABLE khala_update (
    update_id    INTEGER PRIMARY KEY,
    topic_id     INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    published_at INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    doc_key      TEXT,
    doc_version  INTEGER,
    deleted      INTEGER NOT NULL,
    payload_hash TEXT,
    trace        TEXT,
    payload      TEXT    NOT NULL,
    UNIQUE (topic_id, seq)
);

CREATE TABLE khala_document (
    document_id  INTEGER PRIMARY KEY,
    topic_id     INTEGER NOT NULL,
    doc_key      TEXT    NOT NULL,
    seq          INTEGER NOT NULL,
    published_at INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    doc_version  INTEGER NOT NULL,
    deleted      INTEGER NOT NULL,
    payload_hash TEXT,
    trace        TEXT,
    payload      TEXT    NOT NULL,
    UNIQUE (topic_id, doc_key)
);

CREATE TABLE khala_receipt (
    topic_id   INTEGER NOT NULL,
    dedup      TEXT    NOT NULL,
    epoch      INTEGER NOT NULL,
    first_seq  INTEGER NOT NULL,
    last_seq   INTEGER NOT NULL,
    written_at INTEGER NOT NULL,
    PRIMARY KEY (topic_id, dedup)
) WITHOUT ROWID;
CREATE INDEX khala_receipt_last ON khala_receipt (topic_id, last_seq);

INSERT INTO khala_meta (name, value) VALUES ('seed', randomblob(16));
";

/// Schema version 2: revocations.
///
/// AUTOINCREMENT, because the watermark of a revocation that was pruned is never given again (R5): SQLite keeps the
/// highest in its own table `sqlite_sequence`. `until` is NULL for what is kept for good, and without an index:
/// pruning reads them all, and they are few.
pub(crate) const MIGRATE_2: &str = "
CREATE TABLE khala_revocation (
    watermark  INTEGER PRIMARY KEY AUTOINCREMENT,
    named_by   TEXT    NOT NULL,
    named_id   TEXT    NOT NULL,
    revoked_at INTEGER NOT NULL,
    until      INTEGER,
    UNIQUE (named_by, named_id)
);
";

/// Schema version 3: who sweeps, and what became of it.
///
/// One row holds the lead. A record is JSON, because the core may tell more of a run from one version to the next.
pub(crate) const MIGRATE_3: &str = "
CREATE TABLE khala_sweep_lead (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    node  TEXT    NOT NULL,
    until INTEGER NOT NULL
);

CREATE TABLE khala_sweep (
    sweep_id INTEGER PRIMARY KEY,
    record   TEXT    NOT NULL
);
";

/// Schema version 4: checkpoints of projections.
///
/// Clustered by entity: the rows are short, most writes replace one where it stands, and pages are read in its order.
pub(crate) const MIGRATE_4: &str = "
CREATE TABLE khala_checkpoint (
    projection       TEXT    NOT NULL,
    entity           TEXT    NOT NULL,
    source_epoch     INTEGER NOT NULL,
    source_watermark INTEGER NOT NULL,
    version          INTEGER NOT NULL,
    summary_hash     TEXT    NOT NULL,
    PRIMARY KEY (projection, entity)
) WITHOUT ROWID;
";

/// Schema version 5: what was stored under a dedup key, so that another batch under it is told from the same one (J10). NULL for
/// receipts of before.
pub(crate) const MIGRATE_5: &str = "ALTER TABLE khala_receipt ADD COLUMN content BLOB";

/// Schema version 6: from when on a topic is looked at for what may go; a row that says nothing is due. A topic without such a
/// moment is retired: it is empty, nobody looks at it, and no list has it. `idle_since` says since when a topic that is put off
/// has not moved. And documents that are there apart from tombstones, so that these cost no snapshot anything and the oldest are found.
pub(crate) const MIGRATE_6: &str = "
ALTER TABLE khala_topic ADD COLUMN due_at INTEGER DEFAULT 0;
ALTER TABLE khala_topic ADD COLUMN idle_since INTEGER;
CREATE INDEX khala_topic_due ON khala_topic (due_at, topic);
CREATE INDEX khala_topic_there ON khala_topic (topic) WHERE due_at IS NOT NULL;
CREATE INDEX khala_document_there ON khala_document (topic_id, doc_key) WHERE deleted = 0;
CREATE INDEX khala_document_gone ON khala_document (topic_id, seq) WHERE deleted <> 0;
";

/// Records the version that a migration reached, in the migration's own transaction.
pub(crate) const SET_VERSION: &str = "INSERT INTO khala_meta (name, value) VALUES ('schema_version', ?1)
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// The version of the schema.
pub(crate) const VERSION: &str = "SELECT value FROM khala_meta WHERE name = 'schema_version'";

/// What untouched topics derive their epochs from (J16).
pub(crate) const SEED: &str = "SELECT value FROM khala_meta WHERE name = 'seed'";

/// After a restore: every history is another one (J15).
pub(crate) const NEW_EPOCHS: &str = "UPDATE khala_topic SET epoch = random()";

/// After a restore: untouched topics derive other epochs (J15, J16).
pub(crate) const NEW_SEED: &str = "UPDATE khala_meta SET value = randomblob(16) WHERE name = 'seed'";

/// After a restore: the updates are still there, and so are their receipts, which name no history that is no more (J10).
pub(crate) const MOVE_RECEIPTS: &str = "UPDATE khala_receipt SET epoch = t.epoch FROM khala_topic AS t WHERE t.topic_id = khala_receipt.topic_id";

/// Whether there is a `khala_meta` at all.
pub(crate) const HAS_META: &str =
    "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'khala_meta')";

/// The store's tables. `_` is a wildcard of LIKE, hence GLOB.
pub(crate) const TABLES: &str =
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'khala_*' ORDER BY name";

/// A table's columns: name, type, whether NULL is refused, place in the primary key.
pub(crate) const COLUMNS: &str =
    "SELECT name, upper(type), \"notnull\", pk FROM pragma_table_xinfo(?1) ORDER BY cid";

/// A table's indexes, by the columns that they cover and whether those are unique; their names are of no matter.
pub(crate) const INDEXES: &str =
    "SELECT (SELECT group_concat(name, ', ') FROM (SELECT name FROM pragma_index_info(l.name) ORDER BY seqno)),
            l.\"unique\"
     FROM pragma_index_list(?1) AS l ORDER BY 1, 2";

/// Proves that a transaction reaches the disk: a page of the file changes, and nothing that anybody reads.
pub(crate) const PROVE_WRITABLE: &str =
    "INSERT INTO khala_meta (name, value) VALUES ('write_check', randomblob(8))
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// The write lock first: what the checks of an append saw is still so when it writes (J7, J9, J10, D1).
pub(crate) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

/// One moment for everything that is read until COMMIT (J5).
pub(crate) const BEGIN_READ: &str = "BEGIN DEFERRED";

/// Durable before visible: what this ends is on stable storage before anybody is answered (J18).
pub(crate) const COMMIT: &str = "COMMIT";

/// Nothing of it was ever there (J2).
pub(crate) const ROLLBACK: &str = "ROLLBACK";

/// A batch inside somebody else's transaction is still a whole (J2).
pub(crate) const SAVEPOINT: &str = "SAVEPOINT khala_append";

/// The batch is part of the transaction around it.
pub(crate) const RELEASE: &str = "RELEASE khala_append";

/// The batch never was; the transaction around it goes on (J2).
pub(crate) const ROLLBACK_TO: &str = "ROLLBACK TO khala_append; RELEASE khala_append";

/// A topic as it stands: read once per topic and group.
pub(crate) const TOPIC: &str =
    "SELECT topic_id, epoch, floor, head, bytes, due_at FROM khala_topic WHERE topic = ?1";

/// A topic's first append makes its row, with the epoch that it had while untouched (J16).
pub(crate) const ADD_TOPIC: &str =
    "INSERT INTO khala_topic (topic, epoch, floor, head, bytes, moved) VALUES (?1, ?2, 0, 0, 0, 0)";

/// The mark that this transaction's moved topics get: higher than any before, since writers come one by one.
pub(crate) const NEXT_MARK: &str =
    "SELECT coalesce(max(moved), 0) + 1 FROM khala_topic WHERE moved < 4611686018427387904";

/// The head moves in the transaction that stores the updates up to it (J6, J7): once per topic and group.
pub(crate) const MOVE_HEAD: &str =
    "UPDATE khala_topic SET head = ?2, bytes = ?3, moved = ?4 WHERE topic_id = ?1";

/// The same of a topic that was put off: it is due again (J21).
pub(crate) const MOVE_HEAD_DUE: &str =
    "UPDATE khala_topic SET head = ?2, bytes = ?3, moved = ?4, due_at = 0 WHERE topic_id = ?1";

/// One update of the log. `UNIQUE (topic_id, seq)` stands behind J1 and J8.
pub(crate) const ADD_UPDATE: &str =
    "INSERT INTO khala_update (topic_id, seq, published_at, kind, doc_key, doc_version, deleted, payload_hash,
                               trace, payload)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// The document is the newest update of its key (D1), a copy of its own (D4), a tombstone too (D2).
pub(crate) const PUT_DOCUMENT: &str =
    "INSERT INTO khala_document (topic_id, seq, published_at, kind, doc_key, doc_version, deleted, payload_hash,
                                 trace, payload)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
     ON CONFLICT (topic_id, doc_key) DO UPDATE SET
         seq = excluded.seq, published_at = excluded.published_at, kind = excluded.kind,
         doc_version = excluded.doc_version, deleted = excluded.deleted, payload_hash = excluded.payload_hash,
         trace = excluded.trace, payload = excluded.payload";

/// The version that a document's next one must exceed (D1).
pub(crate) const DOCUMENT_VERSION: &str =
    "SELECT doc_version FROM khala_document WHERE topic_id = ?1 AND doc_key = ?2";

/// The first receipt under a dedup key (J10).
pub(crate) const RECEIPT: &str =
    "SELECT epoch, first_seq, last_seq, content FROM khala_receipt WHERE topic_id = ?1 AND dedup = ?2";

/// Remembers a dedup key, in the transaction that stores its batch (J10).
pub(crate) const ADD_RECEIPT: &str =
    "INSERT INTO khala_receipt (topic_id, dedup, epoch, first_seq, last_seq, written_at, content)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// A page of the log, exclusive of its cursor (J3), in order of seq (J4).
pub(crate) const PAGE: &str =
    "SELECT seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace, payload
     FROM khala_update WHERE topic_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";

/// Topics from a name on, but for one, up to a name: the pages of a listing in byte order of the names.
pub(crate) const TOPICS: &str = "SELECT topic, epoch, floor, head FROM khala_topic INDEXED BY khala_topic_there
     WHERE topic >= ?1 AND topic < ?2 AND topic IS NOT ?3 AND due_at IS NOT NULL AND head <> 0 ORDER BY topic LIMIT ?4";

/// A document, a tombstone too (D1).
pub(crate) const DOCUMENT: &str =
    "SELECT seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace, payload
     FROM khala_document WHERE topic_id = ?1 AND doc_key = ?2";

/// A page of the documents that are there: no tombstones (D2), in byte order of the keys. No key is empty, so the
/// empty text stands before the first. By the index that has no tombstones in it, however many there are.
pub(crate) const DOCUMENTS: &str =
    "SELECT seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace, payload
     FROM khala_document INDEXED BY khala_document_there
     WHERE topic_id = ?1 AND doc_key > ?2 AND deleted = 0 ORDER BY doc_key";

/// The oldest updates of a topic with what a trim weighs; `octet_length` does not load the text that it measures.
pub(crate) const OLDEST: &str =
    "SELECT seq, published_at, octet_length(payload) + octet_length(kind) + coalesce(octet_length(doc_key), 0)
     FROM khala_update WHERE topic_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";

/// The first update after another that was published by then: where clocks that were ahead end.
pub(crate) const NEXT_PUBLISHED_BY: &str = "SELECT seq, published_at FROM khala_update
     WHERE topic_id = ?1 AND seq > ?2 AND published_at <= ?3 ORDER BY seq LIMIT 1";
/// Under which rules topics were put off.
pub(crate) const RULES: &str = "SELECT value FROM khala_meta WHERE name = 'rules'";

/// Names the rules under which topics are put off from here on; what was put off under others is due by then (J21).
pub(crate) const SET_RULES: &str = "INSERT INTO khala_meta (name, value) VALUES ('rules', ?1)
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Makes some topics due that were put off.
pub(crate) const UNSETTLE: &str = "UPDATE khala_topic SET due_at = 0 WHERE topic_id IN (
         SELECT topic_id FROM khala_topic WHERE due_at > 0 LIMIT ?1)";

/// Puts a topic off, unless it has moved (J21), and no further than until its oldest dedup key whose update is gone is to be
/// forgotten, or its oldest tombstone whose update is gone is to go. One that was put off, has not moved since then and holds nothing is retired (J22).
pub(crate) const SETTLE: &str = "UPDATE khala_topic SET
         due_at = CASE
             WHEN due_at > 0 AND idle_since <= ?7 AND floor = head
                 AND NOT EXISTS (SELECT * FROM khala_receipt AS r WHERE r.topic_id = khala_topic.topic_id)
                 AND NOT EXISTS (SELECT * FROM khala_document AS d WHERE d.topic_id = khala_topic.topic_id AND d.deleted = 0)
                 AND (?8 IS NULL OR NOT EXISTS (
                     SELECT * FROM khala_document AS d WHERE d.topic_id = khala_topic.topic_id AND d.deleted <> 0))
             THEN NULL
             ELSE min(?4, coalesce((
                 SELECT r.written_at + ?5 FROM khala_receipt AS r
                 WHERE r.topic_id = khala_topic.topic_id AND r.last_seq <= khala_topic.floor AND r.written_at <= ?9
                 ORDER BY r.last_seq LIMIT 1), ?4),
                 coalesce((
                 SELECT d.published_at + ?8 + 1 FROM khala_document AS d INDEXED BY khala_document_gone
                 WHERE d.topic_id = khala_topic.topic_id AND d.deleted <> 0 AND d.seq <= khala_topic.floor
                     AND d.published_at <= ?9
                 ORDER BY d.seq LIMIT 1), ?4))
         END,
         idle_since = CASE WHEN due_at > 0 THEN idle_since ELSE ?6 END
     WHERE topic = ?1 AND epoch = ?2 AND head = ?3 AND due_at IS NOT NULL
     RETURNING due_at IS NULL";

/// The topics that are due, by the index on that.
pub(crate) const DUE: &str = "SELECT topic, epoch, floor, head, due_at FROM khala_topic
     WHERE (due_at, topic) > (?1, ?2) AND due_at <= ?3 AND head <> 0 ORDER BY due_at, topic LIMIT ?4";

/// Removes the oldest updates, and nothing else (J13).
pub(crate) const REMOVE_UPDATES: &str = "DELETE FROM khala_update WHERE topic_id = ?1 AND seq <= ?2";

/// The floor rises in the transaction that removes the updates up to it (J11, J14). The head stays (J13).
pub(crate) const RAISE_FLOOR: &str = "UPDATE khala_topic SET floor = ?2, bytes = ?3 WHERE topic_id = ?1";

/// The oldest receipts whose updates are gone, but for those of a clock that was ahead: they go with what follows them.
pub(crate) const OLDEST_RECEIPTS: &str = "SELECT last_seq, written_at FROM khala_receipt
     WHERE topic_id = ?1 AND last_seq <= ?2 AND written_at <= ?4 ORDER BY last_seq LIMIT ?3";

/// Forgets the oldest receipts.
pub(crate) const REMOVE_RECEIPTS: &str = "DELETE FROM khala_receipt WHERE topic_id = ?1 AND last_seq <= ?2";

/// Removes, of the oldest tombstones whose updates are gone, those that are old enough (D5), and those of a clock that was ahead
/// with what follows them.
pub(crate) const REMOVE_TOMBSTONES: &str = "DELETE FROM khala_document WHERE rowid IN (
         SELECT rowid FROM khala_document INDEXED BY khala_document_gone
         WHERE topic_id = ?1 AND deleted <> 0 AND (published_at < ?3 OR published_at > ?5) AND seq <= (
             SELECT max(seq) FROM (
                 SELECT seq, published_at FROM khala_document INDEXED BY khala_document_gone
                 WHERE topic_id = ?1 AND deleted <> 0 AND seq <= ?2 AND published_at <= ?5 ORDER BY seq LIMIT ?4)
             WHERE published_at < ?3))";

/// What is kept about somebody already, which revoking again must not shorten (R4).
pub(crate) const REVOKED: &str =
    "SELECT watermark, named_by, named_id, revoked_at, until FROM khala_revocation
     WHERE named_by = ?1 AND named_id = ?2";

/// Stores a revocation, in the place of an older one that names the same (R4), at a watermark that is higher than any
/// before (R1, R5): writers come one by one, so watermarks become visible in their order (R3).
pub(crate) const REVOKE: &str =
    "INSERT OR REPLACE INTO khala_revocation (named_by, named_id, revoked_at, until) VALUES (?1, ?2, ?3, ?4)
     RETURNING watermark";

/// A page of revocations, exclusive of its watermark and in order (R2).
pub(crate) const REVOCATIONS: &str =
    "SELECT watermark, named_by, named_id, revoked_at, until FROM khala_revocation
     WHERE watermark > ?1 ORDER BY watermark LIMIT ?2";

/// Forgets the oldest that have ended, and nothing else (R5). Moments are unsigned and compared as such: a negative
/// number is one that is past the largest signed one.
pub(crate) const PRUNE: &str = "DELETE FROM khala_revocation WHERE watermark IN (
         SELECT watermark FROM khala_revocation WHERE (until < 0, until) <= (?1 < 0, ?1)
         ORDER BY watermark LIMIT ?2)";

/// How far the log of revocations goes. After pruning that may be less than it was, which is news to nobody.
pub(crate) const LAST_REVOKED: &str = "SELECT coalesce(max(watermark), 0) FROM khala_revocation";

/// Takes the lead, or moves its end, unless another node has it still (S1, S2, S3). Moments are unsigned, as in `PRUNE`.
pub(crate) const LEAD: &str = "INSERT INTO khala_sweep_lead (one, node, until) VALUES (1, ?1, ?3)
     ON CONFLICT (one) DO UPDATE SET node = excluded.node, until = excluded.until
     WHERE node = excluded.node OR (until < 0, until) <= (?2 < 0, ?2)";

/// Who has the lead (S1).
pub(crate) const LEADER: &str = "SELECT node, until FROM khala_sweep_lead WHERE one = 1";

/// Records a run. Rows go from the oldest only, so the ids are in the order of storing (S4).
pub(crate) const ADD_SWEEP: &str = "INSERT INTO khala_sweep (record) VALUES (?1)";

/// Forgets the oldest records (S4).
pub(crate) const FORGET_SWEEPS: &str = "DELETE FROM khala_sweep WHERE sweep_id <= ?1";

/// The newest records, newest first (S4), for as long as they are read.
pub(crate) const SWEEPS: &str = "SELECT record, sweep_id FROM khala_sweep ORDER BY sweep_id DESC";

/// Where a checkpoint stands: read under the write lock by the caller that moves it (C2, C3).
pub(crate) const CHECKPOINT: &str = "SELECT source_epoch, source_watermark, version, summary_hash
     FROM khala_checkpoint WHERE projection = ?1 AND entity = ?2";

/// Moves a checkpoint, in the transaction that stores its batch (C1).
pub(crate) const PUT_CHECKPOINT: &str =
    "INSERT INTO khala_checkpoint (projection, entity, source_epoch, source_watermark, version, summary_hash)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
     ON CONFLICT (projection, entity) DO UPDATE SET
         source_epoch = excluded.source_epoch, source_watermark = excluded.source_watermark,
         version = excluded.version, summary_hash = excluded.summary_hash";

/// A projection's checkpoints, exclusive of an entity and in byte order (C7), for as long as they are read. No entity is empty, so the
/// empty text stands before the first.
pub(crate) const CHECKPOINTS: &str =
    "SELECT entity, source_epoch, source_watermark, version, summary_hash FROM khala_checkpoint
     WHERE projection = ?1 AND entity > ?2 ORDER BY entity";

/// Removes one checkpoint (C8).
pub(crate) const REMOVE_CHECKPOINT: &str =
    "DELETE FROM khala_checkpoint WHERE projection = ?1 AND entity = ?2";

/// The last entity of a full step of removing, as its bytes; none where fewer are left.
pub(crate) const LAST_TO_REMOVE: &str = "SELECT CAST(entity AS BLOB) FROM khala_checkpoint
     WHERE projection = ?1 AND entity > CAST(?2 AS TEXT) ORDER BY entity LIMIT 1 OFFSET ?3 - 1";

/// Removes the checkpoints of a projection from one entity to another, or to the end (C8): any blob comes after any text.
/// A bound in both cases, because a step that read on to the end would take longer the more there are.
pub(crate) const REMOVE_CHECKPOINTS: &str =
    "DELETE FROM khala_checkpoint WHERE projection = ?1 AND entity > CAST(?2 AS TEXT)
         AND entity <= coalesce(CAST(?3 AS TEXT), x'')";

/// Changes when another connection, of this process or another, has committed. Reads no table.
pub(crate) const DATA_VERSION: &str = "PRAGMA data_version";

/// The newest mark.
pub(crate) const LAST_MARK: &str =
    "SELECT coalesce(max(moved), 0) FROM khala_topic WHERE moved < 4611686018427387904";

/// The topics that moved since a mark, by the index on `moved`.
pub(crate) const MOVED: &str =
    "SELECT topic, epoch, head, moved FROM khala_topic WHERE moved > ?1 AND moved < 4611686018427387904
     ORDER BY moved";

/// Nobody else may have the file open.
pub(crate) const ALONE: &str = "PRAGMA locking_mode = EXCLUSIVE";

/// Writers and readers do not wait for each other. Answers the mode that the file is in now.
pub(crate) const USE_WAL: &str = "PRAGMA journal_mode = WAL";

/// A commit returns when it is on stable storage (J18). `fullfsync` makes macOS mean it; elsewhere it is nothing.
pub(crate) const SYNC_EVERY_COMMIT: &str = "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON";

/// A commit returns when it is in the operating system's cache: a power loss may take the last ones.
pub(crate) const SYNC_CHECKPOINTS: &str = "PRAGMA synchronous = NORMAL";

/// Durable before visible, across a crash too (J18): what a killed process wrote to the log and did not sync yet is
/// read like any other commit, and a power loss may still take it. A checkpoint syncs the log before it copies
/// anything. PASSIVE waits for nobody: where another connection is in the way, it says so and does not fail.
pub(crate) const SYNC_LOG: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// What the writer's connection keeps besides: after a burst, the write-ahead log shrinks to 64 MiB.
pub(crate) const WRITER_SETTINGS: &str = "PRAGMA journal_size_limit = 67108864";

/// A reader never writes, whatever it is asked.
pub(crate) const READER_SETTINGS: &str = "PRAGMA query_only = ON";

/// Puts everything into the database file and empties the write-ahead log.
pub(crate) const EMPTY_LOG: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// Copies the write-ahead log into the database file, waits for those who still read what is older, and syncs it.
pub(crate) const COPY_LOG: &str = "PRAGMA wal_checkpoint(FULL)";

/// The most pages that the file may have: for tests of a full disk.
pub(crate) const MAX_PAGES: &str = "PRAGMA max_page_count = ";
