//! The server as clients meet it: over real sockets, well-behaved and otherwise.
#![expect(clippy::unwrap_used, reason = "tests may unwrap")]

mod binary;
mod documents;
mod history;
mod hostile;
mod openapi;
mod operations;
mod publish;
mod support;
mod upgrade;
