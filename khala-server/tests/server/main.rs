//! The server as clients meet it: over real sockets, well-behaved and otherwise.
#![expect(clippy::unwrap_used, reason = "tests may unwrap")]

mod admin;
mod attacks;
#[cfg(feature = "binary")]
mod binary;
mod budget;
mod compatibility;
#[cfg(feature = "binary")]
mod configured;
mod documents;
mod drain;
mod edges;
mod evidence;
#[cfg(feature = "binary")]
mod exported;
mod fanout;
mod hangup;
mod history;
mod hostile;
mod keys;
mod limits;
mod logs;
mod longpoll;
mod mint;
#[cfg(feature = "binary")]
mod nodes;
mod openapi;
mod operations;
mod origins;
mod other_clients;
mod proxied;
mod publish;
mod refusals;
mod restored;
mod retention;
mod rotation;
mod slow;
mod stream;
mod support;
mod trims;
mod upgrade;
