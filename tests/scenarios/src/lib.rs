//! Scenarios: the real `khala-server` in a process of its own, clients and publishers that go through what happens to servers, and
//! one [`checker`] that holds what subscribers were given against what was acknowledged.
//!
//! Four scenarios are functions from parameters to a report: [`slow`] readers among quick ones, the [`storm`] that follows a
//! `kill -9`, the [`drain`] before a restart, and a full [`disk`]. They run small in `cargo test` and at any size as
//! `khala-scenarios`. They know the server by its wire, its HTTP routes, its metrics and its settings alone, and their WebSocket
//! client shares no code with `khala-client`, so that the two do not agree by being wrong together. The examples `main-job` and
//! `several-nodes` stand on the rest.
//!
//! # Invariants
//! A scenario fails for what is wrong whatever the machine's speed (a hole, a wrong code, a lost update, a bound that was
//! passed), and never for being late; how long things took is only reported.

pub mod checker;
mod client;
mod client_pool;
mod clock;
pub mod console;
pub mod disk;
pub mod drain;
mod environment;
pub mod history;
pub mod http;
mod metrics;
mod observations;
mod phoenix;
mod publisher;
mod report;
pub mod rng;
pub mod server;
mod settings;
pub mod slow;
mod small_disk;
mod socket;
mod stamp;
pub mod storm;
mod topics;
pub mod workspace;

pub use self::report::Range;
