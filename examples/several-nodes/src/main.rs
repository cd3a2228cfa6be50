//! Three servers on one PostgreSQL, and everything that can break broken in turn: in the end nothing that was acknowledged
//! is lost, doubled or reordered, for anybody.
//!
//! Nothing in it is made up. The servers, PostgreSQL, pgbouncer and NATS are processes, the real ones; the clients are the
//! `phoenix` package in Node.js, move between the nodes at random, and have no code that resumes but join parameters that are a
//! function of their cursor.
//!
//! # Invariants
//! The last line says "nothing lost" only if the scenarios' checker, which is shown in its tests to find each fault, found none
//! after every fault.

mod client_pool;
mod faults;
mod load;
mod model;
mod publishers;
mod report;
mod scenario;
mod setting;
mod sql;
mod watch;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Parser, ValueEnum};
use khala_scenarios::{
    console::{Console, exit_code, say},
    rng,
};
use khala_testing::{During as _, Failure};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{faults::Fault, report::Report, scenario::Scenario, setting::Setting};

/// Breaks what three servers stand on, one thing after the other, while clients move between them, and checks after each
/// that nothing is lost, doubled or reordered.
#[derive(Debug, Parser, Serialize)]
#[command(after_help = "Exit codes: 0 nothing is wrong; 1 something is, or the run could not be made.")]
struct Options {
    /// Where everything random comes from; the same seed makes the same choices
    #[arg(long)]
    seed: Option<u64>,
    /// How many clients follow
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    clients: u64,
    /// How long each fault lasts
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds_per_fault: u64,
    /// How long a client stays at a node, on average
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    move_every: u64,
    /// What carries the hints between the nodes
    #[arg(long, value_enum, default_value_t = Fanout::Postgres)]
    fanout: Fanout,
    /// Put a pgbouncer in transaction mode in front of the database
    #[arg(long)]
    pooler: bool,
    /// Lose the database for good, and go on with its standby
    #[arg(long)]
    failover: bool,
    /// Everything at once, for that many minutes: several of the faults at a time, at random, while keys rotate, history is
    /// swept, slow readers and unfinished requests load the nodes, and readiness and memory are watched
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..), requires = "memory")]
    soak: Option<u64>,
    /// With --soak: how many MiB of memory a node may have
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// The folder that a small file system is mounted on, which is filled up now and then. It must be what TMPDIR names, for
    /// PostgreSQL's data lies there
    #[arg(long, value_name = "FOLDER")]
    disk: Option<PathBuf>,
    /// Only these faults, in this order
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What the nodes share; with SQLite, a file
    #[arg(long, value_enum, default_value_t = Store::Postgres, hide = true)]
    store: Store,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Fanout {
    /// LISTEN and NOTIFY
    Postgres,
    /// A NATS server
    Nats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Store {
    Postgres,
    Sqlite,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit_code(run(&Options::parse()).await)
}

/// Makes the run; says whether nothing was wrong.
async fn run(options: &Options) -> Result<bool, Failure> {
    let seed = rng::seed(options.seed)?;
    let console = Console::begin();
    say(format_args!(
        "Several nodes: what they stand on is broken, one thing after the other (--seed {seed}).\n"
    ));
    let mut terminated = signal(SignalKind::terminate()).during("listening for signals")?;
    let mut outcomes = Vec::new();
    let mut scenario = Scenario::begin(options, seed, console, Setting::prepare(options).await?).await?;
    let play = async {
        let Some(minutes) = options.soak else { return (None, scenario.play(&mut outcomes).await) };
        let lasts = Duration::from_secs(minutes * 60);
        let (soaked, played) = scenario.soak(lasts, options.memory.unwrap_or(u64::MAX)).await;
        (Some(soaked), played)
    };
    let (soaked, played) = tokio::select! {
        played = play => played,
        _ = tokio::signal::ctrl_c() => (None, Err(Failure::new("it was interrupted"))),
        _ = terminated.recv() => (None, Err(Failure::new("it was told to end"))),
    };
    let report = Report::new(options, seed, outcomes, scenario.model().counts(), &played);
    if let Some(soaked) = &soaked {
        soaked.tell();
    }
    report.tell(&console);
    if let Some(file) = &options.json {
        report.write(file)?;
    }
    let Setting { workspace, servers, .. } = scenario.end().await;
    if !report.is_good() {
        // They end before their workspace is kept, and hold it.
        drop(servers);
        if let Some(workspace) = Arc::into_inner(workspace) {
            say(format_args!("What the nodes and the clients said is in {}", workspace.keep().display()));
        }
        say(format_args!("The same choices again: --seed {seed}"));
    }
    Ok(report.is_good())
}
