//! The command line of the bench: which rows, with whom, how often.

use std::{collections::BTreeSet, fmt::Display, fs, process::ExitCode};

use clap::Parser;

use super::{
    conditions,
    contest::{self, Outcome},
    files, keepers, peers, report,
    row::{Role, Row},
    rows::{self, Scale},
    tools::{Programs, Tools},
};
use crate::crowd::{During as _, Failure, Program, ensure};

/// Khala beside floors and peers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these rows, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these contestants, by name.
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
    /// About a minute: small crowds, one round, and the floor, Khala and Bun unless told otherwise.
    #[arg(long)]
    quick: bool,
    /// Say which rows and contestants there are.
    #[arg(long)]
    list: bool,
    /// As cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Runs what the command line says; prints a table, and writes it with JSON and a plot below `target/beside`.
#[must_use]
pub fn bench(programs: Programs) -> ExitCode {
    match run(&Arguments::parse(), programs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, programs: Programs) -> Result<(), Failure> {
    let mut scale = if arguments.quick { Scale::quick() } else { Scale::full() };
    if let Some(seconds) = arguments.seconds {
        ensure(seconds > 0.0, || format!("--seconds {seconds}: it takes some time to measure anything"))?;
        scale.seconds = seconds;
    }
    let rows = chosen(arguments, &scale)?;
    if arguments.list {
        for Row { name, title, contestants, .. } in &rows {
            let names: Vec<_> = contestants.iter().map(|contestant| contestant.name).collect();
            tell(&format_args!("{name}: {title}\n    {}", names.join(", ")));
        }
        return Ok(());
    }
    files::raise_limit()?;
    let tools = Tools::new(programs, Program::built_for_release()?);
    let folder = tools.target().join(if arguments.quick { "beside/quick" } else { "beside" });
    fs::create_dir_all(&folder).during("making a folder for reports")?;
    let rounds = arguments.rounds.unwrap_or(scale.rounds).max(1);
    let names: BTreeSet<&str> =
        rows.iter().flat_map(|row| &row.contestants).map(|contestant| contestant.name).collect();
    let names: Vec<&str> = names.into_iter().collect();
    peers::try_out(&tools, &names)?;
    keepers::try_out(&tools, &names)?;
    let conditions = conditions::of_run(&tools, &names);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for row in rows {
        let outcome = contest::run(row, rounds, &tools, |row, who, figures| {
            tell(&format_args!(
                "{row}, {who}: cost {:.2}, {:.0} units/s, lost {}",
                figures.cost(),
                figures.units_per_second(),
                figures.lost
            ));
        })?;
        tell(&format_args!("\n{}", report::table(&outcome)));
        report::write_json(&folder, &outcome)?;
        outcomes.push(outcome);
        // After each row, so that what ends early leaves what it found.
        report::write_all(&folder, &conditions, &outcomes)?;
    }
    tell(&format_args!("tables, JSON and a plot: {}", folder.display()));
    Ok(())
}

fn chosen(arguments: &Arguments, scale: &Scale) -> Result<Vec<Row>, Failure> {
    let Arguments { only, with, without, quick, .. } = arguments;
    let mut rows = rows::all(scale);
    let known = |name: &String| rows.iter().any(|row| row.name == name);
    ensure(only.iter().all(known), || format!("--only {}: there is no such row; --list", only.join(",")))?;
    let known = |name: &String| {
        rows.iter().flat_map(|row| &row.contestants).any(|contestant| contestant.name == name)
    };
    ensure(with.iter().chain(without).all(known), || "there is no such contestant; --list".to_owned())?;
    rows.retain(|row| only.is_empty() || only.iter().any(|name| name == row.name));
    for row in &mut rows {
        row.contestants.retain(|contestant| {
            let named = |names: &[String]| names.iter().any(|name| name == contestant.name);
            if !with.is_empty() {
                return named(with);
            }
            let small = contestant.role != Role::Peer || contestant.name == "bun";
            !named(without) && (small || !*quick)
        });
    }
    rows.retain(|row| !row.contestants.is_empty());
    Ok(rows)
}

#[expect(clippy::print_stdout, reason = "its figures are what a bench is run for")]
fn tell(text: &impl Display) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a bench that fails says why")]
fn complain(failure: &Failure) {
    eprintln!("FAILED: {failure}");
}
