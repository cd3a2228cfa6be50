//! The floor of PostgreSQL: `pgbench`, each transaction one plain insert.

use std::{fs, path::Path, process::Command};

use khala_testing::{
    During as _, Failure, Histogram, ensure, postgres,
    usage::{Machine, Processes, Usage},
};

use super::{
    log_servers,
    sample::{Latency, Sample},
    server::Server,
    tools::Tools,
};
use crate::PAYLOAD;

const TABLE: &str = "CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text NOT NULL, payload text NOT NULL)";

/// `clients` clients, each of which inserts the next row when the one before is committed.
pub(super) fn inserts(tools: &Tools, clients: usize, seconds: f64) -> Result<Sample, Failure> {
    let mut server = Server::new(tools.target())?;
    let database = log_servers::cluster(&mut server)?;
    let sql = |statement: &str| {
        run("psql", server.folder(), &["-X", "-q", "-A", "-t", "-d", &database, "-c", statement])
    };
    sql(TABLE)?;
    // To pgbench, a colon begins a variable.
    let insert =
        format!("INSERT INTO entry (kind, payload) VALUES ('step', '{}');\n", PAYLOAD.replace(':', "="));
    let script = server.file("insert.sql", &insert)?;
    // Connecting takes some of the time.
    let (script, clients, seconds) =
        (script.to_string_lossy(), clients.to_string(), (seconds + 1.0).ceil().to_string());
    let own = Processes::this();
    let (before, load, machine) = (server.usage()?, own.usage()?, Machine::now());
    let arguments = [
        "-n", "-M", "prepared", "-l", "-f", &*script, "-c", &*clients, "-j", "2", "-T", &*seconds, &database,
    ];
    let told = run("pgbench", server.folder(), &arguments)?;
    let rate = told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    let rate: f64 = rate.ok_or_else(|| Failure::new(format_args!("pgbench tells no rate: {told}")))?;
    let (after, stolen) = (server.usage()?, machine.stolen_since());
    let latency = latency(server.folder())?;
    let units = latency.count();
    let stored = sql("SELECT count(*) FROM entry")?;
    let stored: u64 = stored.trim().parse().during("counting rows")?;
    ensure(units > 0, || "pgbench inserted nothing".to_owned())?;
    Ok(Sample {
        units,
        server_cpu_seconds: Usage::cpu_between(&before, &after).as_secs_f64(),
        load_cpu_seconds: Usage::cpu_between(&load, &own.usage()?).as_secs_f64(),
        wall_seconds: units as f64 / rate.max(1e-9),
        latency: Latency::of(&latency),
        resident_bytes: after.resident,
        peak_bytes: after.peak,
        stolen,
        lost: units.abs_diff(stored),
        ..Sample::default()
    })
}

fn run(program: &str, folder: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new(postgres::program(program));
    let output =
        command.args(arguments).current_dir(folder).output().during(format_args!("running {program}"))?;
    ensure(output.status.success(), || format!("{program}: {}", String::from_utf8_lossy(&output.stderr)))?;
    String::from_utf8(output.stdout).during(program)
}

/// From its logs, a line for each transaction; the third field is its time in microseconds.
fn latency(folder: &Path) -> Result<Histogram, Failure> {
    let mut histogram = Histogram::default();
    for file in fs::read_dir(folder).during("looking for logs")? {
        let file = file.during("looking for logs")?;
        if file.file_name().to_string_lossy().starts_with("pgbench_log.") {
            let text = fs::read_to_string(file.path()).during("reading a log")?;
            let times = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok());
            times.for_each(|micros| histogram.add(micros, 1));
        }
    }
    Ok(histogram)
}
