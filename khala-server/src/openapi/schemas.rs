//! The schemas of what no struct of this crate is serialised to or parsed from: texts and numbers of the core, enums that
//! are texts in answers, JSON that is written by hand, and problems.
//!
//! # Invariants
//! A real answer has no member that its schema does not have: the tests of the document hold each answer against it.
#![expect(dead_code, reason = "these types are only described")]

use std::collections::BTreeMap;

use khala_core::position::MAX_POSITION;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

macro_rules! described {
    ($name:ident, [$($doc:literal),*], $type:ident, $($rule:ident($value:expr)),*) => {
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let schema = ObjectBuilder::new().schema_type(Type::$type)$(.$rule(Some($value)))*;
                schema.description(Some(concat!($($doc, "\n"),*).trim())).into()
            }
        }

        impl ToSchema for $name {}
    };
}

macro_rules! whole_numbers {
    ($($(#[doc = $doc:literal])* $name:ident from $least:literal;)*) => {$(
        described!($name, [$($doc),*], Integer, minimum($least), maximum(MAX_POSITION));
    )*};
}

whole_numbers! {
    /// The name of one update: dense from 1 within a topic.
    Seq from 1;
    /// Everything up to and including a seq; 0 is the origin.
    Watermark from 0;
    /// Milliseconds since 1970-01-01T00:00:00Z.
    Timestamp from 0;
    /// The version of a document, which grows with each of its updates.
    DocVersion from 0;
}

macro_rules! texts {
    ($($(#[doc = $doc:literal])* $name:ident of $least:literal to $most:literal like $pattern:literal;)*) => {$(
        described!($name, [$($doc),*], String, min_length($least), max_length($most), pattern($pattern));
    )*};
}

texts! {
    /// The identity of one history of a topic.
    Epoch of 16 to 16 like "^[0-9a-f]{16}$";
    /// The name of a topic. In a path, a `/` is written `%2F`. A path that a proxy has decoded is read from its end: before
    /// `/updates` and `/snapshot`, and before the last `/documents/`, stands the topic.
    Topic of 1 to 255 like "^[A-Za-z0-9._/-]([A-Za-z0-9._:/-]*[A-Za-z0-9._/-])?$";
    /// What an update is about; at most 128 bytes.
    Kind of 1 to 128 like "^[^\\u0000-\\u001F\\u007F-\\u009F]+$";
    /// The key of a document within its topic; at most 512 bytes.
    DocKey of 1 to 512 like "^[^\\u0000-\\u001F\\u007F-\\u009F]+$";
    /// The publisher's hash of the payload's canonical form (RFC 8785).
    PayloadHash of 71 to 71 like "^sha256:[0-9a-f]{64}$";
    /// The name of a publish; a retry under the same name stores nothing twice. Names are remembered for at least 24 hours.
    DedupKey of 1 to 255 like "^[!-~]([ -~]*[!-~])?$";
    /// What a claim of a token says; at most 255 bytes.
    ClaimText of 1 to 255 like "^[^\\u0000-\\u001F\\u007F-\\u009F]+$";
    /// A scope (RFC 6749).
    Scope of 1 to 128 like "^[!#-\\[\\]-~]+$";
    /// What the claim of a revoked token says; at most 512 bytes.
    RevocationId of 1 to 512 like "^[^\\u0000-\\u001F\\u007F-\\u009F]+$";
}

macro_rules! words {
    ($($(#[$attribute:meta])* $name:ident: $($word:ident)*;)*) => {$(
        $(#[$attribute])*
        #[derive(ToSchema)]
        #[schema(rename_all = "snake_case")]
        pub(crate) enum $name { $($word),* }
    )*};
}

words! {
    /// The tier of a topic class.
    Tier: Hot Warm Cold;
    /// Why a cursor cannot be resumed from.
    StaleReason: CursorAhead EpochMismatch ReplayBudgetExceeded RetentionFloorBreach;
    /// What is wrong with the version of a client.
    IncompatibleCode: InvalidClientBuild UnsupportedProtocolVersion UnsupportedSchemaVersion UpgradeRequired;
    /// Why a batch is not stored.
    ConflictCode: Conflict DedupMismatch;
    /// The code of a publish that is limited.
    PublishLimitedCode: KhalaPublishRateLimited;
    /// The code of a cursor that cannot be resumed from.
    StaleCursorCode: StaleCursor;
    /// What is not as the batch needs it.
    ConflictKind: Dedup DocVersion Head;
    /// `topic`: more is published to the topic than its class allows. `subject`: the token's subject publishes more, to all
    /// topics together, than `admission.publishes_per_subject`. `new_topics`: the topic is new, and the subject makes more topics
    /// than `admission.new_topics_per_subject`.
    PublishLimit: Topic Subject NewTopics;
    /// Why a payload is not taken.
    PayloadFault: DuplicateName Noncharacter NumberOutOfRange TooDeep UnpairedSurrogate;
    /// A rule of a topic's class that was broken.
    Incident: JournalRegressed PayloadTooLarge PublishRateLimited ReplayDeferred SlowConsumerEvicted StaleCursor;
    /// What wakes a node up.
    Hook: Heads Revocations;
    /// What a sweep was begun by.
    SweepTrigger: Order Schedule;
    /// How a sweep ended.
    SweepOutcome: Failed HeldBack Swept;
}

/// How a token is presented.
#[derive(ToSchema)]
pub(crate) enum TokenType {
    Bearer,
}

/// An update of a topic.
#[derive(ToSchema)]
pub(crate) struct Update {
    seq: Seq,
    kind: Kind,
    /// Any JSON, byte for byte as it was published.
    payload: serde_json::Value,
    #[schema(required = false)]
    doc_key: DocKey,
    #[schema(required = false)]
    doc_version: DocVersion,
    #[schema(required = false)]
    payload_hash: PayloadHash,
    published_at: Timestamp,
    /// Present and true if the document is gone.
    #[schema(required = false)]
    deleted: bool,
}

/// The updates right after a cursor.
#[derive(ToSchema)]
pub(crate) struct Page {
    topic: Topic,
    epoch: Epoch,
    /// What the page continues from.
    after: Watermark,
    /// The newest update at that moment.
    head: Watermark,
    /// Everything up to here was trimmed.
    floor: Watermark,
    /// Whether the page reaches the head. If not, ask again after the last seq.
    replay_complete: bool,
    /// Dense from `after`; at most 2 MiB unless the first alone is larger.
    updates: Vec<Update>,
}

/// Documents, and where the log continues.
#[derive(ToSchema)]
pub(crate) struct SnapshotPage {
    topic: Topic,
    epoch: Epoch,
    /// Where the log continues once every page is applied; the same on every page.
    watermark: Watermark,
    /// The newest update of each document, in order of their keys, without those that are gone.
    documents: Vec<Update>,
    complete: bool,
    /// Where the next page is; absent on the last.
    #[schema(required = false)]
    next: String,
}

/// The newest update of a document. If the document is gone, `deleted` is true.
#[derive(ToSchema)]
pub(crate) struct Document {
    topic: Topic,
    seq: Seq,
    kind: Kind,
    /// Any JSON, byte for byte as it was published.
    payload: serde_json::Value,
    doc_key: DocKey,
    doc_version: DocVersion,
    #[schema(required = false)]
    payload_hash: PayloadHash,
    published_at: Timestamp,
    /// Present and true if the document is gone.
    #[schema(required = false)]
    deleted: bool,
}

/// What the token is to say. What the credential fixes may be left out or repeated, and not changed.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// Whose token it is; required where the credential does not fix it.
    #[schema(required = false)]
    subject: ClaimText,
    /// What it opens; without it, all that the credential allows.
    #[schema(required = false, max_items = 64)]
    scopes: Vec<Scope>,
    /// The subject's organisation.
    #[schema(required = false)]
    organisation: ClaimText,
    /// The login that it belongs to, by which it can be revoked.
    #[schema(required = false)]
    session_id: ClaimText,
    /// How long it lasts, within the server's bounds and no longer than the credential. Unless set otherwise from 60 to 86400,
    /// and 3600 without it.
    #[schema(required = false, maximum = 9007199254740991_u64)]
    ttl_seconds: u64,
    /// Further claims, at most 16, of those that the server lets this credential set.
    #[schema(required = false)]
    claims: BTreeMap<String, ClaimText>,
}

/// What a sweep did to the topics of one class, or would do.
#[derive(ToSchema)]
pub(crate) struct ClassSwept {
    /// `none` for topics of no class.
    class: String,
    topics: u64,
    /// Topics that lose updates.
    topics_trimmed: u64,
    updates: u64,
    bytes: u64,
    /// When the oldest update was published that is kept.
    #[schema(required)]
    oldest_kept: Option<Timestamp>,
}

/// A topic that could not be looked at or trimmed, and why.
#[derive(ToSchema)]
pub(crate) struct FailedTopic {
    /// The name as it is stored, which may be what is wrong.
    topic: String,
    error: String,
}

/// A sweep that has ended.
#[derive(ToSchema)]
pub(crate) struct SweepRecord {
    node: String,
    began_at: Timestamp,
    took_ms: u64,
    trigger: SweepTrigger,
    outcome: SweepOutcome,
    topics: u64,
    topics_trimmed: u64,
    topics_failed: u64,
    updates: u64,
    bytes: u64,
    /// Cursors of connected clients that it made stale, or would have made.
    stale_connected: u64,
    /// The same of clients that had been connected until recently.
    stale_seen: u64,
    classes: Vec<ClassSwept>,
    /// The first twenty of the topics that failed. The others were swept.
    #[schema(max_items = 20)]
    failed: Vec<FailedTopic>,
    /// The first thing that went wrong.
    #[schema(required)]
    error: Option<String>,
}

/// What the next sweep would do, as far as is known now.
#[derive(ToSchema)]
pub(crate) struct SweepPlan {
    at: Timestamp,
    topics: u64,
    topics_trimmed: u64,
    topics_failed: u64,
    updates: u64,
    bytes: u64,
    /// Cursors of clients connected to this node that would become stale.
    stale_connected: u64,
    /// The same of clients that were connected until recently.
    stale_seen: u64,
    /// How many cursors a sweep may make stale; null: as many as there are.
    #[schema(required)]
    guard: Option<u64>,
    /// Whether the guard would hold it back.
    held_back: bool,
    classes: Vec<ClassSwept>,
    /// The topics that would lose the most.
    #[schema(max_items = 20)]
    worst: Vec<TopicPlan>,
    /// The first twenty of the topics that failed. The others were looked at.
    #[schema(max_items = 20)]
    failed: Vec<FailedTopic>,
    /// The first thing that could not be read.
    #[schema(required)]
    error: Option<String>,
}

/// What the next sweep would do to one topic.
#[derive(ToSchema)]
pub(crate) struct TopicPlan {
    topic: Topic,
    class: String,
    floor: Watermark,
    floor_after: Watermark,
    head: Watermark,
    updates: u64,
    bytes: u64,
    stale_connected: u64,
    stale_seen: u64,
    #[schema(required)]
    oldest_kept: Option<Timestamp>,
}

/// RFC 9457. A machine acts on `code`; further members say more.
#[derive(ToSchema)]
pub(crate) struct Problem {
    r#type: String,
    title: String,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    detail: String,
    code: String,
    /// The field or parameter that is wrong.
    #[schema(required = false)]
    field: String,
    /// Which update of the batch is wrong, from zero.
    #[schema(required = false)]
    index: u64,
    /// With `invalid_payload`.
    #[schema(required = false)]
    fault: PayloadFault,
    /// With `invalid_payload`: the byte of the payload at which the fault stands.
    #[schema(required = false)]
    at: u64,
    /// With `missing_scope`: the scopes of which one is needed.
    #[schema(required = false)]
    scope: String,
    /// What `Retry-After` says, exactly.
    #[schema(required = false, minimum = 1)]
    retry_after_ms: u64,
    /// At `/readyz`: why the server is not ready.
    #[schema(required = false)]
    reasons: Vec<String>,
    /// At `/readyz`: what the server does without just now.
    #[schema(required = false)]
    notes: Vec<String>,
}

macro_rules! problems {
    ($($(#[$attribute:meta])* $name:ident {
        $($(#[$of_field:meta])* $field:ident: $type:ty,)*
    })*) => {$(
        $(#[$attribute])*
        #[derive(ToSchema)]
        pub(crate) struct $name {
            #[serde(flatten)]
            problem: Problem,
            $($(#[$of_field])* $field: $type,)*
        }
    )*};
}

problems! {
    /// The client is of a version that is not supported.
    Incompatible {
        code: IncompatibleCode,
        supported: Supported,
        /// What the client said, cut off at 32 characters.
        #[schema(required)]
        sent: Option<String>,
    }
    /// Nothing was stored.
    AppendConflict {
        code: ConflictCode,
        conflict: ConflictKind,
        /// With `dedup_mismatch`: the history that the batch stored under this key is in.
        #[schema(required = false)]
        epoch: Epoch,
        /// With `dedup_mismatch`: the first seq of that batch.
        #[schema(required = false)]
        first: Seq,
        /// With `dedup_mismatch`: the last seq of that batch.
        #[schema(required = false)]
        last: Seq,
        /// Where the head was expected.
        #[schema(required = false)]
        expected: Watermark,
        /// The document whose version is not lower.
        #[schema(required = false)]
        doc_key: DocKey,
        /// The version that was given, or the seq that the update would have had.
        #[schema(required = false)]
        given: u64,
        /// The head or the version that is there.
        #[schema(required = false)]
        found: u64,
    }
    /// A body or a payload is too large.
    TooLarge {
        /// With `khala_frame_payload_too_large`: the topic's class.
        #[schema(required = false)]
        class: String,
        /// With `khala_frame_payload_too_large`: how large a payload may be.
        #[schema(required = false)]
        limit_bytes: u64,
    }
    /// More is published than is allowed.
    PublishLimited {
        code: PublishLimitedCode,
        /// After that long the same is taken, if nobody else publishes meanwhile.
        #[schema(minimum = 1)]
        retry_after_ms: u64,
        limited_by: PublishLimit,
        /// With `topic`: the topic's class.
        #[schema(required = false)]
        class: String,
        /// With `topic`: the class's tier.
        #[schema(required = false)]
        tier: Tier,
        /// Updates, or new topics, a second on one node.
        #[schema(minimum = 1)]
        limit_per_second: u32,
    }
    /// The cursor cannot be resumed from.
    StaleCursor {
        code: StaleCursorCode,
        /// The code once more.
        reason: String,
        message: String,
        /// All that hold. A page is never refused for `replay_budget_exceeded` alone: its reader goes at its own pace.
        #[schema(min_items = 1)]
        reason_codes: Vec<StaleReason>,
        topic: Topic,
        resume_after: Watermark,
        retention_floor: Watermark,
        head: Watermark,
        epoch: Epoch,
        /// How many updates the cursor is behind the head; 0 where it is of another epoch.
        replay_lag: u64,
        /// How many updates the topic's class replays at most on the WebSocket; null where it sets no limit, and for a topic of no
        /// class.
        #[schema(required)]
        replay_budget_events: Option<u64>,
        /// The tier of the topic's class; null for a topic of no class.
        #[schema(required)]
        qos_tier: Option<Tier>,
        full_resync_required: bool,
        /// The path of the topic's snapshot.
        snapshot: String,
    }
    /// The token was not made, because the request breaks a rule.
    MintInvalid {
        /// With `invalid_ttl`: the shortest lifetime.
        #[schema(required = false)]
        min_seconds: u64,
        /// With `invalid_ttl`: the longest lifetime.
        #[schema(required = false)]
        max_seconds: u64,
        /// With a version that is not supported.
        #[schema(required = false)]
        supported: Supported,
        /// With a version that is not supported: what the client said, cut off at 32 characters.
        sent: Option<String>,
    }
    /// A sweep that did not take place, or did not go to its end.
    SweepRefused {
        /// With `sweep_held_back`: what would have gone is not counted, the cursors that would have become stale are. With
        /// `sweep_failed`: what went, and the first of the topics that could not be swept.
        #[schema(required = false)]
        record: SweepRecord,
        /// With `sweep_busy`: where a sweep is under way.
        #[schema(required = false)]
        node: String,
        /// With `sweep_busy`: until when the lease of that node lasts, unless it renews it.
        #[schema(required = false)]
        until: Timestamp,
    }
}

/// The versions that are supported, both ends included.
#[derive(ToSchema)]
pub(crate) struct Supported {
    min: String,
    /// Null: there is no upper end.
    #[schema(required)]
    max: Option<String>,
}
