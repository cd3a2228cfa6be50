//! What needs no server: floors of storing, and Khala as a library. A process of its own, so that what it uses is told apart.
//!
//! # Invariants
//! What is said to be synced is, and what was appended is counted again in the file afterwards.

mod library;
mod raw;

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    figures::{Figures, Latency},
    tools::Tools,
    usage::{Machine, Processes, Usage},
};
use crate::crowd::{During as _, Failure, Histogram};

/// What is to be done, in a folder that is empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Task {
    /// Khala in the process: so many tasks, each waiting for its append.
    Library { handle: bool, tasks: usize },
    /// Rows into one plain table of SQLite, so many in each synced transaction.
    RawAppend { per_transaction: usize },
    /// Those rows read, all of them, by a connection that was just opened.
    RawRead { rows: usize },
    /// Two hundred bytes appended to a file and synced (`fdatasync`), one after the other.
    Sync,
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    task: Task,
    folder: PathBuf,
    seconds: f64,
}

/// What is counted.
#[derive(Debug, Default)]
struct Done {
    units: u64,
    /// What was done and is not there.
    lost: u64,
    took: Duration,
    latency: Histogram,
    /// What was used for it.
    spent: Duration,
    after: Usage,
    stolen: f64,
}

/// Has it done by `khala-alone`.
pub(super) fn run(tools: &Tools, task: Task, seconds: f64) -> Result<Figures, Failure> {
    let folder =
        tempfile::Builder::new().prefix("alone-").tempdir_in(tools.target()).during("making a folder")?;
    let order = Order { task, folder: folder.path().to_owned(), seconds };
    let order = serde_json::to_string(&order).during("writing an order")?;
    let output = Command::new(&tools.programs.alone).arg(order).output().during("running khala-alone")?;
    serde_json::from_slice(&output.stdout).during(String::from_utf8_lossy(&output.stderr))
}

/// What the program does: one order, as its argument; prints figures.
#[must_use]
pub fn main() -> ExitCode {
    let order = env::args().nth(1).unwrap_or_default();
    let done = serde_json::from_str(&order).map_err(Failure::new).and_then(|order| obey(&order));
    match done {
        Ok(figures) => {
            let text = serde_json::to_vec(&figures).expect("figures are JSON");
            if io::stdout().write_all(&text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            // Whoever started it reads this, if it still does.
            let _ = io::stderr().write_all(failure.to_string().as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn obey(order: &Order) -> Result<Figures, Failure> {
    let (folder, length) = (&order.folder, Duration::from_secs_f64(order.seconds));
    let done = match order.task {
        Task::Library { handle, tasks } => library::append(folder, handle, tasks, length),
        Task::RawAppend { per_transaction } => raw::append(folder, per_transaction, length),
        Task::RawRead { rows } => raw::read(folder, rows),
        Task::Sync => raw::sync(folder, length),
    }?;
    Ok(Figures {
        units: done.units,
        server_cpu_seconds: done.spent.as_secs_f64(),
        wall_seconds: done.took.as_secs_f64(),
        latency: Latency::of(&done.latency),
        resident_bytes: done.after.resident,
        peak_bytes: done.after.peak,
        stolen: done.stolen,
        lost: done.lost,
        ..Figures::default()
    })
}

/// Measures what this process uses from now on.
struct Meter {
    before: Usage,
    machine: Machine,
    begin: Instant,
}

impl Meter {
    fn start() -> Result<Self, Failure> {
        Ok(Self { before: Processes::this().usage()?, machine: Machine::now(), begin: Instant::now() })
    }

    fn stop(self, units: u64, latency: Histogram) -> Result<Done, Failure> {
        let took = self.begin.elapsed();
        let after = Processes::this().usage()?;
        let spent = Usage::cpu_between(&self.before, &after);
        Ok(Done { units, lost: 0, took, latency, spent, after, stolen: self.machine.stolen_since() })
    }
}
