//! Khala's main job, whole and real: a producer publishes, subscribers of four kinds follow, the server is killed
//! with SIGKILL again and again, and in the end everybody has every acknowledged update exactly once and in order.
//!
//! Nothing in it is made up. The input is what `cargo build --message-format=json` prints for this workspace; the server, `khala
//! publish`, `khala tail` and the `phoenix` client are separate processes, the real ones; none of the subscribers has any code
//! that reconnects. Tokens run out all the time, and fresh ones are handed over on open connections.
//!
//! # Invariants
//! The last line says "nothing lost" only if the checker, which is shown in its tests to find each fault, found none.

mod journal;
mod pages;
mod phoenix;
mod producer;
mod reader;
mod report;
mod scenario;
mod setting;
mod tail;

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use khala_scenarios::{
    console::{Console, exit_code, say},
    rng,
};
use khala_testing::Failure;
use tokio::{signal, time::timeout};

use crate::setting::Setting;

/// A run that takes longer than that is stuck.
const ENDS_WITHIN: Duration = Duration::from_secs(25 * 60);

/// Publishes a real stream, follows it in four ways, kills the server again and again, and checks that nothing is
/// lost, doubled, reordered or changed.
#[derive(Debug, Parser)]
#[command(after_help = "Exit codes: 0 nothing is wrong; 1 something is, or the run could not be made.")]
struct Options {
    /// How often the server is killed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    kills: u64,
    /// Where everything random comes from; the same seed makes the same choices
    #[arg(long)]
    seed: Option<u64>,
    /// Build only this package, which is quicker than the whole workspace and prints fewer lines; may be repeated
    #[arg(long = "package", value_name = "NAME")]
    packages: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit_code(run(&Options::parse()).await)
}

/// Makes the run; says whether nothing was wrong.
async fn run(options: &Options) -> Result<bool, Failure> {
    let seed = rng::seed(options.seed)?;
    let setting = Arc::new(Setting::prepare().await?);
    let console = Console::begin();
    let scenario =
        scenario::Scenario { kills: options.kills, seed, packages: options.packages.clone(), console };
    let mut played = tokio::select! {
        played = timeout(ENDS_WITHIN, scenario.play(&setting)) => {
            played.unwrap_or_else(|_| Err(Failure::new("it did not end in time")))
        }
        failure = setting.keep_minting() => Err(failure),
        _ = signal::ctrl_c() => Err(Failure::new("it was interrupted")),
    };
    let good = played.as_mut().is_ok_and(|played| report::tell(played, &scenario));
    if !good && let Some(kept) = Arc::into_inner(setting).and_then(Setting::keep) {
        say(format_args!("What it left behind is in {}", kept.display()));
        say(format_args!("The same choices again: --kills {} --seed {seed}", options.kills));
    }
    played.map(|_| good)
}
