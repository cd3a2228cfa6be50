//! What tests and benchmarks share: real servers (PostgreSQL, PgBouncer, NATS, nginx, a proxy that fails on purpose), free ports, the
//! programs of this workspace, what processes use, and how a run says why it ended early.
//!
//! Each server runs on a free port of the loopback address, with its files in a temporary folder.
//!
//! # Invariants
//! A server ends with the process that started it, however that process ends, and its files are removed.

#![expect(clippy::missing_panics_doc, reason = "in a test, a panic is how a fault is told")]

mod failure;
mod guardian;
mod histogram;
mod nats;
mod nginx;
mod pgbouncer;
mod ports;
pub mod postgres;
mod program;
mod proxy;
pub mod usage;

pub use self::{
    failure::{During, Failure, ensure},
    guardian::Guardian,
    histogram::Histogram,
    nats::Nats,
    nginx::Nginx,
    pgbouncer::Pgbouncer,
    ports::{free_address, free_port},
    postgres::Cluster,
    program::Program,
    proxy::Proxy,
};
