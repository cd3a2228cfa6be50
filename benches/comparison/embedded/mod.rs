//! What needs no server of its own: floors of storing, and Khala embedded in a process. A process of its own, so that what it uses
//! is told apart.
//!
//! # Invariants
//! What is said to be synced is, and what was appended is counted again in the store afterwards.

mod append;
mod floor;
mod revoke;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use khala_testing::{
    During as _, Failure, Histogram,
    usage::{Machine, Processes, Usage},
};
use serde::{Deserialize, Serialize};

pub(super) use self::revoke::Hints;
use super::{
    log_servers,
    sample::{Latency, Sample},
    server::Server,
    tools::Tools,
};

/// What is to be done, in a folder that is empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Task {
    /// Khala in the process: tasks that each wait for their append, to the topics in turn.
    Append { store: Store, tasks: usize, topics: usize },
    /// Rows into one plain table of SQLite, `per_transaction` in each synced transaction.
    FloorAppend { per_transaction: usize },
    /// Those rows read, all of them, by a connection that was just opened.
    FloorRead { rows: usize },
    /// Sessions revoked one after the other, each of which closes `named` of `open` connections.
    Revoke { hints: Hints, open: usize, named: usize },
    /// Two hundred bytes appended to a file and synced (`fdatasync`), one after the other.
    Sync,
}

/// What takes an append.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Store {
    /// The handle that an application holds, on SQLite.
    Handle,
    /// The store on PostgreSQL, at this address.
    Postgres(String),
    /// The store on SQLite.
    Sqlite,
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
    extras: BTreeMap<String, f64>,
}

/// Has it done by a process of this program.
pub(super) fn run(tools: &Tools, task: Task, seconds: f64) -> Result<Sample, Failure> {
    let server = Server::new(tools.target())?;
    let order = Order { task, folder: server.folder().to_owned(), seconds };
    let order = serde_json::to_string(&order).during("writing an order")?;
    let output = Command::new(&tools.own).args(["embedded", &order]).output();
    let output = output.during("running the embedded process")?;
    serde_json::from_slice(&output.stdout).during(String::from_utf8_lossy(&output.stderr))
}

/// Has appends done on a PostgreSQL that is started for them, whose processor time counts as well.
pub(super) fn append_to_postgres(
    tools: &Tools,
    tasks: usize,
    topics: usize,
    seconds: f64,
) -> Result<Sample, Failure> {
    let mut server = Server::new(tools.target())?;
    let store = Store::Postgres(log_servers::cluster(&mut server)?);
    let before = server.usage()?;
    let mut sample = run(tools, Task::Append { store, tasks, topics }, seconds)?;
    sample.server_cpu_seconds += Usage::cpu_between(&before, &server.usage()?).as_secs_f64();
    Ok(sample)
}

/// Does one order, and gives what came of it.
pub(super) fn obey(order: &str) -> Result<Sample, Failure> {
    let Order { task, folder, seconds } = serde_json::from_str(order).map_err(Failure::new)?;
    let (folder, length): (&Path, _) = (&folder, Duration::from_secs_f64(seconds));
    let done = match task {
        Task::Append { store, tasks, topics } => append::append(folder, &store, tasks, topics, length),
        Task::FloorAppend { per_transaction } => floor::append(folder, per_transaction, length),
        Task::FloorRead { rows } => floor::read(folder, rows),
        Task::Revoke { hints, open, named } => revoke::revoke(folder, hints, open, named, length),
        Task::Sync => floor::sync(folder, length),
    }?;
    Ok(Sample {
        units: done.units,
        server_cpu_seconds: done.spent.as_secs_f64(),
        wall_seconds: done.took.as_secs_f64(),
        latency: Latency::of(&done.latency),
        resident_bytes: done.after.resident,
        peak_bytes: done.after.peak,
        stolen: done.stolen,
        lost: done.lost,
        extras: done.extras,
        ..Sample::default()
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
        let stolen = self.machine.stolen_since();
        Ok(Done { units, took, latency, spent, after, stolen, ..Done::default() })
    }
}
