//! The storm after a `kill -9`: 5,000 clients at the head come back at once; then as many that are 1,000 updates behind,
//! all at the same place; then as many at places of their own.
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
    /// How far behind the clients of the second and the third run are. 0: only the first, at the head.
    #[arg(long, default_value_t = 1_000)]
    behind: u64,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 200)]
    payload_bytes: usize,
    /// The server's setting for replays, in pages a second; by default its own.
    #[arg(long)]
    replay_pages: Option<u32>,
    /// A small run, only to see that it works.
    #[arg(long)]
    test: bool,
    /// As cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let Arguments { mut clients, mut topics, behind, payload_bytes, replay_pages, test, .. } =
        Arguments::parse();
    if test {
        (clients, topics) = (100, 5);
    }
    let scenario = |name: &str, behind, scattered| {
        let params = storm::Params {
            clients,
            topics,
            behind,
            scattered,
            payload_bytes,
            replay_pages_per_second: replay_pages,
            ..storm::Params::default()
        };
        (format!("storm-{name}"), params)
    };
    let mut scenarios = vec![scenario("head", 0, false)];
    if behind > 0 {
        scenarios.extend([scenario("behind", behind, false), scenario("scattered", behind, true)]);
    }
    bench(scenarios, |program, params| async move { storm::run(&program, params).await })
}
