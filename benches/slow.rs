//! Slow readers among 1,000: what they cost the quick ones, the server's memory, and themselves.
//!
//! `cargo bench -p khala-benches --bench slow -- --clients 500 --phase-seconds 20`

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use khala_benches::crowd::{bench, slow};

/// Slow readers among quick ones.
#[derive(Parser)]
struct Arguments {
    /// Subscribers, stalled ones included.
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Those that stop reading; half of them come back in time.
    #[arg(long, default_value_t = 100)]
    stalled: usize,
    /// Topics, one for each subscriber in turn.
    #[arg(long, default_value_t = 4)]
    topics: usize,
    /// Updates a second, over all topics.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// Updates that are published together.
    #[arg(long, default_value_t = 100)]
    batch: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 1_024)]
    payload_bytes: usize,
    /// How long a quiet phase lasts, and one in which some stall.
    #[arg(long, default_value_t = 60)]
    phase_seconds: u64,
    /// How many times these take turns, five at most.
    #[arg(long, default_value_t = 2)]
    rounds: u8,
    /// How long those that come back in time read nothing.
    #[arg(long, default_value_t = 20)]
    return_after_seconds: u64,
    /// The server's stall limit.
    #[arg(long, default_value_t = 30)]
    stall_seconds: u32,
    /// What the server's memory must stay below.
    #[arg(long, default_value_t = 512)]
    memory_mib: u64,
    /// A small run, only to see that it works.
    #[arg(long)]
    test: bool,
    /// As cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut params = slow::Params {
        clients: arguments.clients,
        stalled: arguments.stalled,
        topics: arguments.topics,
        rate: arguments.rate,
        batch: arguments.batch,
        payload_bytes: arguments.payload_bytes,
        phase: Duration::from_secs(arguments.phase_seconds),
        rounds: arguments.rounds,
        return_after: Duration::from_secs(arguments.return_after_seconds),
        stall_seconds: arguments.stall_seconds,
        memory_bound: Some(arguments.memory_mib << 20),
        ..slow::Params::default()
    };
    if arguments.test {
        let second = Duration::from_secs(1);
        (params.clients, params.stalled, params.topics) = (60, 10, 1);
        (params.phase, params.return_after, params.rounds) = (8 * second, 3 * second, 1);
        params.stall_seconds = 6;
    }
    bench([("slow".to_owned(), params)], |program, params| async move { slow::run(&program, params).await })
}
