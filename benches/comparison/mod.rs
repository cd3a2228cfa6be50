//! Khala compared: in one run, on one machine, floors (the least that the work can cost), Khala, and servers that somebody might use
//! instead, each in turn in every round, each as a process of its own, under the same load.
//!
//! A `workload::Workload` is a kind of work with its competitors. A competitor is a function that does the work once and gives a
//! `sample::Sample`: most start a server from `fanout_servers` or `log_servers`, have the generator (`load`) speak its protocol
//! (`wire`), and read what it used meanwhile. Processes of the comparison itself are this program with another subcommand.
//!
//! # Invariants
//! Every competitor gets the same payloads, subscribers and pace; what was lost is said; nothing that a competitor does not do
//! (storing, history) is left unsaid.

mod cli;
mod conditions;
mod embedded;
mod fanout_servers;
mod files;
mod floor;
mod generator;
mod load;
mod log_servers;
mod pgbench;
mod report;
mod runner;
mod sample;
mod server;
mod tools;
mod wire;
mod workload;
mod workloads;

pub use self::{cli::main, runner::tiny, tools::Tools};
