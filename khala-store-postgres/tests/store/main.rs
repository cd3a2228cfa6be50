//! The store against the laws, on a real PostgreSQL with a fresh database per test, and what it promises beyond them.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a fault is told")]

mod due;
mod fanout;
mod fire;
mod laws;
mod modelling;
mod outage;
mod rows;
mod schema;
mod support;
mod topics;
mod transaction;
