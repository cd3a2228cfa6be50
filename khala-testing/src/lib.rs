//! The servers that Khala's tests and benchmarks run against.
//!
//! Each is a real one, started on a free port of the loopback address with its files in a temporary folder. What must
//! stay true: it ends with the process that started it, however that ends, and takes its files along.

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
