//! Khala's words, traits, laws and engine.
//!
//! The journal is the only truth. Fanout is a hint that may be lost, late or repeated, so it may cost time and
//! never correctness. A session is a pure state machine that asks for reads and is told results. A store is
//! right when it passes the laws, and the laws ship with the trait.
//!
//! ```
//! use futures::TryStreamExt;
//! use khala_core::{Event, Khala, MemoryStore, ReadFrom, Update};
//!
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # struct Order { id: u64 }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let khala = Khala::open(MemoryStore::new()); // or a SqliteStore, a PostgresStore
//! let orders = khala.topic("orders:7")?;
//! let receipt = orders.publish(Update::json("paid", &Order { id: 7 })?.doc_key("order/7")).await?;
//! # orders.publish(Update::json("shipped", &Order { id: 7 })?.doc_key("order/7")).await?;
//! # let (mut saved, mut seen) = (receipt.cursor(), Vec::new());
//!
//! let mut events = orders.subscribe(Start::after(saved).or_snapshot()).await?;
//! while let Some(event) = events.try_next().await? {
//!     match event {
//!         Event::Update(update) => {
//!             seen.push(update.json::<Order>()?.id);
//!             saved = update.cursor(); // kept together with what the update changed
//!             # break;
//!         }
//!         Event::Snapshot(page) => println!("{} documents", page.documents.len()),
//!         Event::Stale(stale) => return Err(stale.into()),
//!     }
//! }
//! # assert_eq!((seen, saved), (vec![7], orders.bounds().await?.at_head()));
//! # Ok(())
//! # }
//! ```

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
mod event;
mod fanout;
mod finish;
pub mod health;
mod inbox;
mod journal;
mod khala;
mod memory;
mod node;
mod pipeline;
mod position;
mod producer;
mod projection;
mod recent;
mod registry;
mod replay;
mod retention;
pub mod session;
pub mod single_flight;
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
    access::AccessControl,
    admission::{Admission, AdmissionOptions, Admitted, Limited, LimitedBy, Rate},
    auth::{
        Access, AllowAll, Authorizer, CorruptRevocation, Denied, DenyAll, Grant, Issued, Issuer, Mandate,
        MemoryRevocations, Named, Revocation, RevocationId, RevocationPage, Revocations, Token, Verifier,
    },
    budget::{MemoryBudget, MemoryPart, MemoryShare, MemorySpent},
    chain::Chain,
    class::{ClassError, Classes, Retain, Tier, TopicClass, TopicPattern},
    clock::{Clock, Moment, Now, within},
    connection::ReadPermit,
    documents::{Documents, Snapshot, SnapshotFrom, SnapshotPage},
    error::{Error, ErrorKind},
    event::{DeliveredUpdate, DocumentPage, Event, EventPage, Pages, Start, Subscription, UpdatePage},
    fanout::{Fanout, LocalFanout, Watch},
    inbox::{Arrivals, Handed, Inbox, InboxClosed},
    journal::{
        Append, Batch, BatchError, CLOCKS_APART, Conflict, CorruptTopic, DEDUP_FOR, DueAfter, DuePage,
        Journal, Keep, Page, ReadFrom, ReadLimit, Receipt, Replay, Settled, TopicPage, Trimmed, is_ahead,
    },
    khala::{Khala, KhalaBuilder, PublishLimited, PublishPermit, Refusal, TopicHandle, TopicWindow},
    memory::MemoryStore,
    node::NodeId,
    pipeline::Appends,
    position::{Bounds, Cursor, Epoch, MAX_POSITION, Seq, Stale, StaleReason, Watermark, WholeNumber},
    producer::{Answer, Producer, PublishError, Submissions, Ticket},
    projection::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName},
    registry::{ConnectionRegistry, OpenConnection},
    replay::ReplayOptions,
    retention::{
        ClassRetention, ClassSwept, Facts, FailedTopic, Followers, Lead, LeftBehind, MemorySweeps, Retention,
        SWEEPS_KEPT, SweepOptions, SweepOrder, SweepOutcome, SweepPlan, SweepRecord, SweepTrigger, Sweeper,
        Sweeps, Swept, TopicPlan,
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
