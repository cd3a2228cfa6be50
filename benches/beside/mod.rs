//! Khala beside others: in one run, on one machine, floors (the least that the work can cost) and peers (what somebody
//! might use instead), each in turn in every round, each as a process of its own, under the same load.
//!
//! A `row::Row` is a kind of work with its contestants. A contestant is a function that does the work once and gives
//! `figures::Figures`: most start a server from `peers`, have the generator (`load`) speak its protocol (`wire`), and
//! read what it used meanwhile. Rows whose work is of another kind (appends, replays) bring functions of their own.
//!
//! # Invariants
//! Everybody gets the same payloads, subscribers and pace; what was lost is said; nothing that a contestant does not do (storing,
//! history) is left unsaid.

pub mod alone;
mod child;
mod cli;
mod conditions;
mod contest;
mod figures;
mod files;
pub mod floor;
mod generator;
mod keepers;
pub mod load;
mod peers;
mod pgbench;
mod report;
mod row;
mod rows;
mod tools;
mod usage;
mod wire;

pub use self::{
    cli::bench,
    contest::tiny,
    tools::{Programs, Tools},
};
