//! The storm after a `kill -9`: 5,000 clients at the head come back at once; then as many that are 1,000 updates behind.
//!
//! `cargo bench -p khala-benches --bench storm -- --clients 1000 --behind 0`

use std::process::ExitCode;

use clap::Parser;
use khala_benches::crowd::{bench, storm};

/// A crowd that has lost its server comes back to the next.
#[derive(Parser)]
struct Arguments {
    /// Clients.
    #[arg(long, default_value_t = 5_000)]
    clients: usize,
    /// Topics, one for each client in turn.
    #[arg(long, default_value_t = 50)]
    topics: usize,
    /// How far behind the clients are, one run for each.
    #[arg(long, default_values_t = [0, 1_000])]
    behind: Vec<u64>,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 200)]
    payload_bytes: usize,
    /// The server's setting for replays, in pages a second; by default its own.
    #[arg(long)]
    replay_pages: Option<u32>,
    /// As cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let Arguments { clients, topics, behind, payload_bytes, replay_pages, .. } = Arguments::parse();
    let scenarios = behind.into_iter().map(|behind| {
        let params = storm::Params {
            clients,
            topics,
            behind,
            payload_bytes,
            replay_pages_per_second: replay_pages,
            ..storm::Params::default()
        };
        (format!("storm-{behind}-behind"), params)
    });
    bench(scenarios, |program, params| async move { storm::run(&program, params).await })
}
