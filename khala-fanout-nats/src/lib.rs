//! Announcements between the nodes of a Khala cluster over core NATS: a node that stores an update wakes the nodes that have subscribers
//! of its topic. It takes the place of PostgreSQL's LISTEN and NOTIFY where these limit the rate of commits.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use khala_core::{Topic, fanout::{Fanout}};
//! use khala_fanout_nats::{NatsCredentials, NatsFanout, NatsOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = NatsOptions {
//!     servers: vec!["nats://nats-1.internal:4222".into(), "nats://nats-2.internal:4222".into()],
//!     credentials: NatsCredentials::User { user: "khala".into(), password: std::env::var("NATS_PASSWORD")? },
//!     tls_ca_file: Some("/etc/khala/nats-ca.pem".into()),
//!     ..NatsOptions::default()
//! };
//! let fanout = NatsFanout::connect(options).await?;
//! if let Some(fault) = fanout.state().fault {
//!     eprintln!("without NATS for now, so by polling: {fault}");
//! }
//!
//! // As a part of Khala: `Khala::builder(store).with_fanout(Arc::new(fanout))`. By itself:
//! let mut watch = fanout.watch(&Topic::parse("run:7:events")?).await?;
//! println!("the head is at least {:?}", watch.moved().await);
//! # Ok(())
//! # }
//! ```
//!
//! # What is announced
//!
//! | subject | text | when |
//! | --- | --- | --- |
//! | `<prefix>.head.<topic>` | the epoch, a space, the watermark | a topic's head moved. Each `.` of the topic is written `~` |
//! | `<prefix>.revoked` | the watermark | the log of revocations has grown |
//! | `<prefix>.hello` | the node | it has a new connection, and watches something: it may have missed what the others say |
//! | `<prefix>.echo.<node>` | a number | to the node itself, which so learns that the server has taken what it sent before |
//!
//! A user of NATS that is good for `publish` and `subscribe` on `<prefix>.>` is enough; no JetStream, no requests.
//! A client that may publish there can wake nodes, and makes them read their journal: no update travels here, and none is
//! believed. A false head silences no later one, but for the same one: who tells each head before it is reached delays
//! that to the next poll. A client may be told a false head once, as `sync:head`.
//!
//! - **Announcing never waits.** A head waits in memory, one per topic, the newest; one task sends what waits. However many
//!   publishers share a commit, the topic is announced about once. Without a connection [`announce`](khala_core::fanout::Fanout::announce)
//!   fails with `Unavailable`, and what waits goes out when it is back.
//! - **A node hears what it watches.** One subscription for each topic that is watched in this process, however many watch it,
//!   and none once the last has gone. [`watch`](khala_core::fanout::Fanout::watch) returns when the server knows of it, so that nothing
//!   announced after that is missed, and after at most a second. A watched topic takes about 6 KB of memory.
//! - **It heals.** Connections are made again for ever. A node with a new one says what it announced recently, and asks all
//!   others to do the same, which they do, each at most once a second, from a moment of its own within a quarter of a second
//!   on, and about a thousand topics every 10 ms. So watchers hear of what they missed, if it was announced
//!   within the time that is [remembered](NatsOptions::remember), and polling finds the rest.
//! - **It is proven to hear.** A node publishes a beat to itself every two seconds. When none comes back within eight seconds, or the
//!   server refuses a subscription or takes one away, the connection is made anew, with growing pauses, until all is heard.
//!   [`listens`](NatsFanout::listens) says so.
//!
//! # What is not promised
//!
//! That an announcement arrives, that it arrives once, or in order. It is a hint: delivery completes by polling
//! when all of them are lost, only later. A connection that dies without a word is noticed after about three
//! [ping intervals](NatsOptions::ping_interval), and what is announced meanwhile counts as sent until then. When the process ends, what waits
//! is lost, unless it was [flushed](NatsFanout::flush). Credentials and certificates are read once.
//!
//! # For operators
//!
//! [`NatsFanout::state`], the metrics `khala_fanout_connected` and `khala_fanout_reconnects_total` (`transport="nats"`), and log
//! lines when the connection is lost or nothing is heard on it, why that is, and when it is back: each once. The client below says the same in its own
//! words, under the target `async_nats`.

mod beat;
mod fanout;
mod listening;
mod options;
mod outbox;
mod setup;
mod state;
mod subject;

pub use self::{
    fanout::NatsFanout,
    options::{NatsCredentials, NatsOptions},
    state::NatsState,
};

/// What errors, and metrics, call it.
const BACKEND: &str = "nats";
