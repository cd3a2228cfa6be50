//! The Rust client of Khala: durable, resumable real-time sync.
//!
//! [`Client::topic`] gives the handle of a topic, which publishes and subscribes as that of an embedded Khala does, with the same events:
//! code moves from one to the other by changing where its handle comes from. A subscription joins, resumes by cursor, reconnects by
//! itself, and hands out every update exactly in order, each at least once and none after a hole. An application that keeps the cursor
//! beside its state writes no reconnect code.
//!
//! ```no_run
//! use futures::TryStreamExt;
//! use khala_client::Client;
//! use khala_core::{Event, Start, Token, Update};
//!
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # struct Order { id: u64 }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("http://127.0.0.1:4510").token(Token::new("…")).build()?;
//! let orders = client.topic("orders:7")?;
//! let receipt = orders.publish(Update::json("paid", &Order { id: 7 })?.doc_key("order/7")).await?;
//! # let mut saved = receipt.cursor();
//!
//! let mut events = orders.subscribe(Start::after(saved).or_snapshot()).await?;
//! while let Some(event) = events.try_next().await? {
//!     match event {
//!         Event::Update(update) => {
//!             println!("order {} was paid", update.json::<Order>()?.id);
//!             saved = update.cursor(); // kept together with what the update changed
//!         }
//!         Event::Snapshot(page) => println!("{} documents", page.documents.len()),
//!         Event::Stale(stale) => return Err(stale.into()),
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
//!
//! # TLS and proxies
//! TLS is rustls with ring and the certificates that the system trusts. Proxies are those of the environment, see [`Client::builder`].
//! Both go by [reqwest](https://docs.rs/reqwest), whose feature `rustls-no-provider` is on. An application that uses reqwest 0.13 itself
//! turns on a feature that chooses its own TLS (`rustls`, `native-tls`), or installs a provider of rustls for the process. Otherwise
//! its own reqwest clients panic when they are made.

mod address;
mod api;
mod backoff;
mod channel;
mod client;
mod connect;
mod error;
mod event;
mod handover;
mod http;
mod hydrate;
mod options;
mod producer;
mod reader;
mod renewal;
mod socket;
mod subscription;
mod token;
mod topic;

/// What the connections of a subscription go through.
pub mod connection {
    pub use crate::{
        event::{Arrived, ConnectionEvent, Snapshot},
        subscription::ConnectionEvents,
    };
}

pub use self::{
    backoff::Backoff,
    client::{Client, ClientBuilder},
    error::{Error, Refused},
    http::Retry,
    options::ClientOptions,
    reader::{Fresh, Gap, Reader},
    renewal::FreshToken,
    topic::TopicHandle,
};
