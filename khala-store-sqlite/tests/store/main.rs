//! The store against the laws, and what it promises beyond them: group commit, appends inside the application's
//! own transactions, other processes on the same file, bounded trims, and errors that say what to do.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a fault is told")]

mod checkpoints;
mod errors;
mod group;
mod laws;
mod migration;
mod processes;
mod readers;
mod reopen;
mod restore;
mod revocations;
mod site;
mod support;
mod sweep;
mod transaction;
mod trim;
