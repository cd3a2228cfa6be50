//! Real servers for tests and benchmarks: PostgreSQL, PgBouncer, NATS, and a proxy that fails on purpose.
//!
//! Each runs on a free port of the loopback address, with its files in a temporary folder.
//!
//! # Invariants
//! A server ends with the process that started it, however that process ends, and its files are removed.

#![expect(clippy::missing_panics_doc, reason = "in a test, a panic is how a fault is told")]

mod guardian;
mod nats;
mod pgbouncer;
mod ports;
pub mod postgres;
mod proxy;

pub use self::{
    guardian::Guardian, nats::Nats, pgbouncer::Pgbouncer, ports::free_port, postgres::Cluster, proxy::Proxy,
};
