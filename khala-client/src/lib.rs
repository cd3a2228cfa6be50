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
//!
//! Tokens that run out are no reason to reconnect. With
//! [`token_from`](ClientBuilder::token_from) the client asks for the next one in time, and hands it over on the
//! connections that are open:
//!
//! ```no_run
//! # use khala_client::Client;
//! # use khala_core::Token;
//! # async fn log_in() -> Result<String, std::io::Error> { unimplemented!() }
//! let client = Client::builder("http://127.0.0.1:4510")
//!     .token_from(|| async { Ok(Token::new(log_in().await?)) })
//!     .build()?;
//! # Ok::<_, khala_client::Error>(())
//! ```
//!
//! A subscription ends with an error ([`Refused::is_about_token`]) when the fresh token no longer opens its topic,
//! and when even a fresh token is refused, as after its login was revoked.

mod address;
mod api;
mod backoff;
mod channel;
mod client;
mod dial;
mod error;
mod event;
mod handover;
mod http;
mod hydrate;
mod reader;
mod renewal;
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
    renewal::FreshToken,
    subscription::Subscription,
};
