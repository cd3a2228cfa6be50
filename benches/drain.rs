//! A planned restart under 2,000 clients: how evenly they are closed, and how long they are away.
//!
//! `cargo bench -p khala-benches --bench drain -- --clients 500 --drain-seconds 5`

use std::process::ExitCode;

use clap::Parser;
use khala_benches::crowd::{bench, drain};

/// A planned restart while updates flow.
#[derive(Parser)]
struct Arguments {
    /// Clients.
    #[arg(long, default_value_t = 2_000)]
    clients: usize,
    /// Topics, one for each client in turn.
    #[arg(long, default_value_t = 20)]
    topics: usize,
    /// Updates a second, over all topics.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Updates that are published together.
    #[arg(long, default_value_t = 10)]
    batch: u32,
    /// Over how long the server closes connections.
    #[arg(long, default_value_t = 10)]
    drain_seconds: u32,
    /// A small run, only to see that it works.
    #[arg(long)]
    test: bool,
    /// As cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let Arguments { clients, topics, rate, batch, drain_seconds, test, .. } = Arguments::parse();
    let mut params =
        drain::Params { clients, topics, rate, batch, drain_seconds, ..drain::Params::default() };
    if test {
        (params.clients, params.topics, params.drain_seconds) = (100, 5, 3);
    }
    bench([("drain".to_owned(), params)], |program, params| async move { drain::run(&program, params).await })
}
