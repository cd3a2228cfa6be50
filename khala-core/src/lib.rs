//! Durable, resumable real-time sync as a library: publish updates to topics in your own database, and every subscriber receives every
//! update of its topics in order, across reconnects, restarts and failovers.
//!
//! [`Khala::open`] takes a store, and [`Khala::topic`] gives the handle that publishes and subscribes. A subscription first replays what
//! the subscriber missed, and then delivers new updates as they are stored. A cursor that cannot be resumed from is answered with
//! [`Event::Stale`] or with a snapshot, and never with a log that has a hole.
//!
//! ```
//! use futures::TryStreamExt;
//! use khala_core::{Event, Khala, MemoryStore, Start, Update};
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
//!
//! The handle is also what a server stands on: `khala-server` serves it over WebSocket and HTTP, `khala-store-sqlite` and
//! `khala-store-postgres` are its durable stores, and `khala-client` has the same handle for a topic of a remote server.
//!
//! | module | for |
//! | --- | --- |
//! | [`event`], [`update`], [`position`] | what a subscriber receives, and where it stands |
//! | [`publish`], [`class`], [`access`], [`auth`], [`admission`] | serving others: permits, topic classes, tokens, limits |
//! | [`retention`], [`stats`], [`health`], [`telemetry`] | operating it: what is deleted, figures, metrics |
//! | [`journal`], [`documents`], [`fanout`], [`projection`] | the traits of a store, and `conformance`, the laws that a store must pass |
//! | [`session`], [`connection`], [`wire`] | the protocol: a session as a value, its driver, the frames |
//!
//! # Design
//! The journal is the only truth. Fanout is a hint that may be lost, late or repeated, so it may cost time and
//! never correctness. A session is a pure state machine that asks for reads and is told results. A store is
//! right when it passes the laws, and the laws ship with the trait.

pub mod access;
pub mod admission;
pub mod auth;
pub mod budget;
mod chain;
pub mod class;
pub mod clock;
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod connection;
pub mod documents;
mod error;
pub mod event;
pub mod fanout;
mod finish;
mod follower;
pub mod health;
pub mod inbox;
pub mod journal;
mod khala;
mod memory;
pub mod node;
mod pipeline;
pub mod position;
mod producer;
pub mod projection;
mod recent;
mod refusal;
pub mod registry;
pub mod replay;
pub mod retention;
pub mod session;
pub mod single_flight;
pub mod snapshots;
pub mod stats;
pub mod store;
mod strict;
pub mod tail;
pub mod telemetry;
pub mod text;
mod topic;
pub mod update;
mod wake;
pub mod wire;

/// What operators are told of single topics.
pub mod admin {
    pub use crate::khala::TopicWindow;
}

/// Publishing for somebody else, and many updates at once.
pub mod publish {
    pub use crate::{
        khala::PublishPermit,
        pipeline::Appends,
        producer::{Answer, Submissions},
        refusal::{PublishLimited, Refusal},
    };
}

pub use self::{
    auth::{Grant, Token},
    error::{Error, ErrorKind},
    event::{Event, EventPage, Start, Subscription},
    journal::{Append, Batch, Conflict, Receipt},
    khala::{Khala, KhalaBuilder, TopicHandle},
    memory::MemoryStore,
    position::{Bounds, Cursor, Epoch, Seq, Stale, Watermark},
    producer::{Producer, PublishError, Ticket},
    store::{Roles, Store},
    text::TextError,
    topic::Topic,
    update::{DocKey, Kind, NewUpdate, Payload, Timestamp, Update},
};
