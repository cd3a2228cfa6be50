//! The command line: which workloads, with whom, how often; and the subcommands by which this program starts itself.

use std::{
    collections::BTreeSet,
    env,
    fmt::Display,
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use khala_testing::{During as _, Failure, Program, ensure};

use super::{
    conditions, embedded, fanout_servers, files, floor, load, log_servers, report,
    runner::{self, Outcome},
    tools::Tools,
    workload::{Role, Workload},
    workloads::{self, Scale},
};

/// Khala compared with floors and other servers.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Command {
    #[command(subcommand)]
    subcommand: Option<Subcommands>,
    #[command(flatten)]
    run: Run,
    /// As cargo passes it.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Measure, and write tables and JSON below `target/comparison`; the default.
    Run(Run),
    /// Write the tables once more, from the JSON of a run.
    Report {
        /// The folder of the run.
        folder: PathBuf,
    },
    /// Puts load on servers: commands on standard input, answers on standard output, a line of JSON each.
    #[command(hide = true)]
    Load,
    /// The floor of fan-out.
    #[command(hide = true)]
    Floor { writes: Writes, address: SocketAddr },
    /// Does one order, given as JSON, in this process.
    #[command(hide = true)]
    Embedded { order: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Writes {
    Coalesced,
    Each,
}

#[derive(Debug, Args)]
struct Run {
    /// Only these workloads, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these competitors, by name.
    #[arg(long, value_delimiter = ',')]
    with: Vec<String>,
    /// Everybody but these.
    #[arg(long, value_delimiter = ',', conflicts_with = "with")]
    without: Vec<String>,
    /// How often each is measured.
    #[arg(long)]
    rounds: Option<usize>,
    /// For how many seconds each time, where it is not until something is done.
    #[arg(long)]
    seconds: Option<f64>,
    /// About a minute: few connections, one round, and the floor, Khala and Bun unless told otherwise.
    #[arg(long)]
    quick: bool,
    /// Say which workloads and competitors there are.
    #[arg(long)]
    list: bool,
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let Command { subcommand, run: default, .. } = Command::parse();
    let done = match subcommand.unwrap_or(Subcommands::Run(default)) {
        Subcommands::Run(arguments) => run(&arguments),
        Subcommands::Report { folder } => report::again(&folder),
        Subcommands::Load => return load::run(),
        Subcommands::Floor { writes, address } => floor::serve(address, writes == Writes::Coalesced)
            .map_err(Failure::new)
            .map(|never| match never {}),
        Subcommands::Embedded { order } => embedded::obey(&order).and_then(|sample| {
            let text = serde_json::to_vec(&sample).expect("a sample is JSON");
            io::stdout().write_all(&text).during("telling the sample")
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Run) -> Result<(), Failure> {
    let mut scale = if arguments.quick { Scale::quick() } else { Scale::full() };
    if let Some(seconds) = arguments.seconds {
        ensure(seconds > 0.0, || format!("--seconds {seconds}: it takes some time to measure anything"))?;
        scale.seconds = seconds;
    }
    let workloads = chosen(arguments, &scale)?;
    if arguments.list {
        for Workload { name, title, competitors, .. } in &workloads {
            let names: Vec<_> = competitors.iter().map(|competitor| competitor.name).collect();
            tell(&format_args!("{name}: {title}\n    {}", names.join(", ")));
        }
        return Ok(());
    }
    files::raise_limit()?;
    let own = env::current_exe().during("finding this program")?;
    let tools = Tools::new(own, Program::built_for_release()?);
    let folder = tools.target().join(if arguments.quick { "comparison/quick" } else { "comparison" });
    fs::create_dir_all(&folder).during("making a folder for reports")?;
    let rounds = arguments.rounds.unwrap_or(scale.rounds).max(1);
    let names: BTreeSet<&str> = workloads
        .iter()
        .flat_map(|workload| &workload.competitors)
        .map(|competitor| competitor.name)
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    fanout_servers::try_out(&tools, &names)?;
    log_servers::try_out(&tools, &names)?;
    let conditions = conditions::of_run(&tools, &names);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for workload in workloads {
        let outcome = runner::run(workload, rounds, &tools, |workload, who, sample| {
            tell(&format_args!(
                "{workload}, {who}: cost {:.2}, {:.0} units/s, lost {}",
                sample.cost(),
                sample.units_per_second(),
                sample.lost
            ));
        })?;
        tell(&format_args!("\n{}", report::table(&outcome)));
        outcomes.push(outcome);
        // After each workload, so that what ends early leaves what it found.
        report::write(&folder, &conditions, &outcomes)?;
    }
    tell(&format_args!("tables and JSON: {}", folder.display()));
    Ok(())
}

fn chosen(arguments: &Run, scale: &Scale) -> Result<Vec<Workload>, Failure> {
    let Run { only, with, without, quick, .. } = arguments;
    let mut workloads = workloads::all(scale);
    let known = |name: &String| workloads.iter().any(|workload| workload.name == name);
    ensure(only.iter().all(known), || {
        format!("--only {}: there is no such workload; --list", only.join(","))
    })?;
    let known = |name: &String| {
        workloads.iter().flat_map(|workload| &workload.competitors).any(|competitor| competitor.name == name)
    };
    ensure(with.iter().chain(without).all(known), || "there is no such competitor; --list".to_owned())?;
    workloads.retain(|workload| only.is_empty() || only.iter().any(|name| name == workload.name));
    for workload in &mut workloads {
        workload.competitors.retain(|competitor| {
            let named = |names: &[String]| names.iter().any(|name| name == competitor.name);
            if !with.is_empty() {
                return named(with);
            }
            let small = competitor.role != Role::Other || competitor.name == "bun";
            !named(without) && (small || !*quick)
        });
    }
    workloads.retain(|workload| !workload.competitors.is_empty());
    Ok(workloads)
}

#[expect(clippy::print_stdout, reason = "its figures are what a bench is run for")]
fn tell(text: &impl Display) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a bench that fails says why")]
fn complain(failure: &Failure) {
    eprintln!("FAILED: {failure}");
}
