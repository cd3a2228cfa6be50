//! The floor of PostgreSQL: `pgbench`, each transaction one plain insert.

use std::{fs, path::Path, process::Command, time::Instant};

use khala_testing::postgres;

use super::{
    child::Server,
    figures::{Figures, Latency},
    keepers,
    tools::Tools,
    usage::{Machine, Processes, Usage},
};
use crate::{
    PAYLOAD,
    crowd::{During as _, Failure, Histogram, ensure},
};

const TABLE: &str = "CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text NOT NULL, payload text NOT NULL)";

/// So many clients, each of which inserts the next row when the one before is committed.
pub(super) fn inserts(tools: &Tools, clients: usize, seconds: f64) -> Result<Figures, Failure> {
    let mut server = Server::new(tools.target())?;
    let database = keepers::cluster(&mut server)?;
    let sql = |statement: &str| {
        run("psql", server.folder(), &["-X", "-q", "-A", "-t", "-d", &database, "-c", statement])
    };
    sql(TABLE)?;
    // To pgbench, a colon begins a variable.
    let insert =
        format!("INSERT INTO entry (kind, payload) VALUES ('step', '{}');\n", PAYLOAD.replace(':', "="));
    let script = server.file("insert.sql", &insert)?;
    let (script, clients, seconds) =
        (script.to_string_lossy(), clients.to_string(), seconds.ceil().to_string());
    let own = Processes::this();
    let (before, load, machine, begin) = (server.usage()?, own.usage()?, Machine::now(), Instant::now());
    let arguments = [
        "-n", "-M", "prepared", "-l", "-f", &*script, "-c", &*clients, "-j", "2", "-T", &*seconds, &database,
    ];
    run("pgbench", server.folder(), &arguments)?;
    let wall_seconds = begin.elapsed().as_secs_f64();
    let (after, stolen) = (server.usage()?, machine.stolen_since());
    let latency = latency(server.folder())?;
    let units = latency.count();
    let stored = sql("SELECT count(*) FROM entry")?;
    let stored: u64 = stored.trim().parse().during("counting rows")?;
    ensure(units > 0, || "pgbench inserted nothing".to_owned())?;
    Ok(Figures {
        units,
        server_cpu_seconds: Usage::cpu_between(&before, &after).as_secs_f64(),
        load_cpu_seconds: Usage::cpu_between(&load, &own.usage()?).as_secs_f64(),
        wall_seconds,
        latency: Latency::of(&latency),
        resident_bytes: after.resident,
        peak_bytes: after.peak,
        stolen,
        lost: units.abs_diff(stored),
        ..Figures::default()
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
    let histogram = Histogram::default();
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
