//! The scenarios at any size, on a server that is built for release: what was found is printed, and written as JSON below
//! `target/scenarios`.

use std::{fs, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use khala_scenarios::{disk, drain, slow, storm};
use khala_testing::{During as _, Failure, Program};
use serde::Serialize;
use tokio::runtime::Builder;

/// Clients and publishers against a server that goes through what happens to servers.
#[derive(Debug, Parser)]
struct Command {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Scenario {
    /// A full disk: publishers are told, readers go on, nothing is lost.
    Disk,
    /// A planned restart while updates flow.
    Drain(Drain),
    /// Slow readers among quick ones.
    Slow(Slow),
    /// Every client comes back at once after a kill -9: at the head, behind, and each elsewhere.
    Storm(Storm),
}

#[derive(Clone, Copy, Debug, Args)]
struct Drain {
    /// Clients.
    #[arg(long, default_value_t = 2_000)]
    clients: usize,
    /// Topics, one for each client in turn.
    #[arg(long, default_value_t = 20)]
    topics: usize,
    /// Updates a second, over all topics.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Over how long the server closes connections.
    #[arg(long, default_value_t = 10)]
    drain_seconds: u32,
}

#[derive(Clone, Copy, Debug, Args)]
struct Slow {
    /// Subscribers, stalled ones included.
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Those that stop reading; half of them come back in time.
    #[arg(long, default_value_t = 100)]
    stalled: usize,
    /// Updates a second, over four topics.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// How long a quiet phase lasts, and one in which some stall.
    #[arg(long, default_value_t = 60)]
    phase_seconds: u64,
    /// How many times these take turns, five at most.
    #[arg(long, default_value_t = 2)]
    rounds: u8,
    /// What the server's memory must stay below.
    #[arg(long, default_value_t = 512)]
    memory_mib: u64,
}

#[derive(Clone, Copy, Debug, Args)]
struct Storm {
    /// Clients.
    #[arg(long, default_value_t = 5_000)]
    clients: usize,
    /// Topics, one for each client in turn.
    #[arg(long, default_value_t = 50)]
    topics: usize,
    /// How far behind the clients of the second and the third run are. 0: only the first, at the head.
    #[arg(long, default_value_t = 1_000)]
    behind: u64,
    /// The server's setting for replays, in pages a second; by default its own.
    #[arg(long)]
    replay_pages: Option<u32>,
}

fn main() -> ExitCode {
    match run(Command::parse().scenario) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(scenario: Scenario) -> Result<(), Failure> {
    let program = Program::built_for_release()?;
    // Two threads, as the machine that the figures are for has two cores; the server shares them.
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.during("starting a runtime")?.block_on(async {
        match scenario {
            Scenario::Disk => tell(&program, "disk", disk::run(&program, disk::Params::default()).await),
            Scenario::Drain(Drain { clients, topics, rate, drain_seconds }) => {
                let params =
                    drain::Params { clients, topics, rate, drain_seconds, ..drain::Params::default() };
                tell(&program, "drain", drain::run(&program, params).await)
            }
            Scenario::Slow(Slow { clients, stalled, rate, phase_seconds, rounds, memory_mib }) => {
                let phase = Duration::from_secs(phase_seconds);
                let memory_bound = Some(memory_mib << 20);
                let defaults = slow::Params::default();
                let params = slow::Params { clients, stalled, rate, phase, rounds, memory_bound, ..defaults };
                tell(&program, "slow", slow::run(&program, params).await)
            }
            Scenario::Storm(Storm { clients, topics, behind, replay_pages }) => {
                let runs = [
                    ("storm-head", 0, false),
                    ("storm-behind", behind, false),
                    ("storm-scattered", behind, true),
                ];
                for (name, behind, scattered) in runs.into_iter().take(if behind > 0 { 3 } else { 1 }) {
                    let replay_pages_per_second = replay_pages;
                    let defaults = storm::Params::default();
                    let params = storm::Params {
                        clients,
                        topics,
                        behind,
                        scattered,
                        replay_pages_per_second,
                        ..defaults
                    };
                    tell(&program, name, storm::run(&program, params).await)?;
                }
                Ok(())
            }
        }
    })
}

/// Prints a report as JSON, and writes it to a file.
#[expect(clippy::print_stdout, reason = "its figures are what it is run for")]
fn tell(program: &Program, name: &str, report: Result<impl Serialize, Failure>) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&report.during(name)?).during("writing a report")?;
    let folder = program.target().join("scenarios");
    fs::create_dir_all(&folder).during("making a folder for reports")?;
    fs::write(folder.join(format!("{name}.json")), &text).during("writing a report")?;
    println!("{name}: {text}");
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a run that fails says why")]
fn complain(failure: &Failure) {
    eprintln!("FAILED: {failure}");
}
