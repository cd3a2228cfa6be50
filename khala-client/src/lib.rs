//! The Rust client of Khala: durable, resumable real-time sync.
//!
//! A [`Client`] publishes, lists topics and reads history over HTTP. A [`Subscription`] follows a topic: it joins,
//! resumes by cursor, reconnects by itself, and hands out every update exactly in order, each at least once and
//! none after a hole. An application that keeps the cursor beside its state writes no reconnect code.
//!
//! ```no_run
//! use khala_client::{Client, Event};
//! use khala_core::{Batch, Kind, NewUpdate, Payload, Token, Topic, wire::{JoinRequest, Resume}};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("http://127.0.0.1:4510").token(Token::new("…")).build()?;
//! let topic = Topic::parse("run:7:events")?;
//!
//! let update = NewUpdate::new(Kind::parse("started")?, Payload::parse(r#"{"by":"ada"}"#)?);
//! client.publish(&topic, Batch::new(vec![update])?).await?;
//!
//! // With a kept cursor: `Resume::After(cursor)`.
//! let request = JoinRequest { resume: Resume::Floor, ..JoinRequest::default() };
//! let mut subscription = client.subscribe(&topic, request);
//! while let Some(event) = subscription.next().await {
//!     match event? {
//!         Event::Updates(arrived) => {
//!             for update in &arrived.updates {
//!                 println!("{} {}", update.seq, update.payload.as_str());
//!             }
//!             // Keep `arrived.cursor` together with what the updates changed.
//!         }
//!         Event::Stale(stale) => println!("start again from a snapshot: {}", stale.message),
//!         Event::Reconnecting { error, wait, .. } => println!("{error}; again in {wait:?}"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod address;
mod api;
mod backoff;
mod channel;
mod client;
mod dial;
mod error;
mod event;
mod http;
mod reader;
mod socket;
mod subscription;
mod token;

pub use self::{
    api::{History, HistoryPage},
    backoff::Backoff,
    client::{Client, ClientBuilder},
    error::{Error, Refused},
    event::{Arrived, Event, Snapshot},
    http::Retry,
    reader::{Fresh, Gap, Reader},
    subscription::Subscription,
};
