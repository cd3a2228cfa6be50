//! Crowds of real WebSocket clients against the real `khala-server`, in a process of its own.
//!
//! Four scenarios, each a function from parameters to a report: [`slow`] readers among quick ones, the [`storm`] that
//! follows a `kill -9`, the [`drain`] before a restart, and a full [`disk`]. The same code runs small in `cargo test`
//! and large in `cargo bench`. It knows the server by its wire, its HTTP routes, its metrics and its settings alone, and
//! shares no code with `khala-client`, so that the two do not agree by being wrong together.
//!
//! # Invariants
//! A scenario fails for what is wrong whatever the machine's speed (a hole, a wrong code, a lost update, a bound that was
//! passed), and never for being late; how long things took is only reported.

mod client;
pub mod disk;
pub mod drain;
mod http;
mod ledger;
mod metrics;
mod moment;
mod namespace;
mod phoenix;
mod publisher;
mod report;
mod run;
mod server;
mod settings;
mod site;
pub mod slow;
mod socket;
mod stamp;
pub mod storm;
mod swarm;

pub use self::{report::Range, run::bench};
