//! Khala's words, traits, laws and engine.
//!
//! The journal is the only truth. Fanout is a hint that may be lost, late or repeated, so it may cost time and
//! never correctness. A session is a pure state machine that asks for reads and is told results. A store is
//! right when it passes the laws, and the laws ship with the trait.

mod access;
mod admission;
mod auth;
mod budget;
mod chain;
mod class;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod connection;
mod documents;
mod error;
mod fanout;
mod finish;
pub mod health;
mod inbox;
mod journal;
mod khala;
mod memory;
mod node;
mod position;
mod projection;
mod recent;
mod registry;
mod replay;
mod retention;
pub mod session;
mod snapshots;
mod stats;
mod store;
mod strict;
mod tail;
pub mod telemetry;
mod text;
mod topic;
mod update;
mod wake;
pub mod wire;

#[cfg(feature = "system-clock")]
pub use self::clock::SystemClock;
pub use self::{
    admission::{Admission, AdmissionOptions, Admitted, Limited, LimitedBy, Rate},
    auth::{
        Access, AllowAll, Authorizer, CorruptRevocation, Denied, DenyAll, Grant, Issued, Issuer, Mandate,
        MemoryRevocations, Named, Revocation, RevocationId, RevocationPage, Revocations, Token, Verifier,
    },
    budget::{MemoryBudget, MemoryPart, MemoryShare, MemorySpent},
    chain::Chain,
    class::{ClassError, Classes, Retain, Tier, TopicClass, TopicPattern},
    clock::{Clock, Moment, Now, within},
    connection::HistoryTurn,
    documents::{Documents, Snapshot, SnapshotFrom, SnapshotPage},
    error::{Error, ErrorKind},
    fanout::{Fanout, LocalFanout, Watch},
    inbox::{Arrivals, Handed, Inbox, InboxClosed},
    journal::{
        Append, Batch, BatchError, CLOCKS_APART, Conflict, CorruptTopic, DEDUP_FOR, DueAfter, DuePage,
        Journal, Keep, Page, ReadLimit, Receipt, Replay, Settled, Start, TopicPage, Trimmed, is_ahead,
    },
    khala::{Appended, Delivery, Khala, KhalaBuilder, PublishLimited, Subscribed, Subscription, TopicWindow},
    memory::MemoryStore,
    node::NodeId,
    position::{Bounds, Cursor, Epoch, MAX_POSITION, Seq, Stale, StaleReason, Watermark, WholeNumber},
    projection::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName},
    registry::OpenConnection,
    replay::ReplayOptions,
    retention::{
        ClassRetention, ClassSwept, Facts, FailedTopic, Followers, Lead, LeftBehind, MemorySweeps, Retention,
        SWEEPS_KEPT, SweepOptions, SweepOrder, SweepOutcome, SweepPlan, SweepRecord, SweepTrigger, Sweeps,
        Swept, TopicPlan,
    },
    snapshots::{SharedSnapshot, SharedSnapshotPage},
    stats::{Counters, Stats, TopicIncident, TopicIncidents},
    store::{Roles, Store},
    strict::PayloadFault,
    tail::{Followed, Peek, SharedPage, TailJournal, TailOptions, Wanted},
    text::{TextError, without_byte_order_mark},
    topic::Topic,
    update::{
        DedupKey, DocKey, Kind, NewUpdate, Payload, PayloadHash, Timestamp, TraceContext, TraceField, Update,
    },
    wire::{JoinRequest, OnStale, Resume},
};
