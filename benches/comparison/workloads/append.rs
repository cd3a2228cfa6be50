//! Updates that are acknowledged when they are stored: many connections with one under way each, and one connection that
//! streams.

use khala_testing::Failure;

use super::{Scale, log};
use crate::comparison::{
    embedded::{self, Task},
    generator::Generator,
    load::log::command::{Amount, Open, Work},
    log_servers::{self, LogServer},
    pgbench,
    sample::Sample,
    server::Server,
    tools::Tools,
    workload::{Competitor, Headline, Role, Workload},
};

/// Connections where each waits for its answer.
const CONNECTIONS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Params {
    connections: usize,
    window: usize,
    seconds: f64,
}

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let seconds = scale.seconds;
    let mut workloads = vec![each(seconds)];
    workloads.extend([("append-stream-64", 64), ("append-stream-1024", 1_024)].map(|(name, window)| {
        let params = Params { connections: 1, window, seconds };
        let mut competitors = vec![raw("rusqlite", window, seconds)];
        let stream = |log_server: LogServer| match log_server.role {
            Role::Khala => LogServer { append_over: "HTTP, x-ndjson", ..log_server },
            _ => log_server,
        };
        let log_servers = [
            log_servers::KHALA,
            log_servers::KHALA_POSTGRES,
            log_servers::REDIS_ALWAYS,
            log_servers::REDIS_EVERYSEC,
            log_servers::JETSTREAM,
            log_servers::JETSTREAM_SYNCED,
        ];
        competitors.extend(log_servers.map(|log_server| served(stream(log_server), params)));
        workload(
            name,
            format!("one connection that appends with {window} under way"),
            format!(
                "The next update is sent when one is acknowledged. The floor has transactions of {window} rows, without an order to \
                 keep or anybody to answer."
            ),
            competitors,
        )
    }));
    workloads
}

fn each(seconds: f64) -> Workload {
    let params = Params { connections: CONNECTIONS, window: 1, seconds };
    let mut competitors = vec![
        raw("rusqlite", 1, seconds),
        Competitor {
            name: "fdatasync",
            role: Role::Floor,
            over: "no server",
            durability: "each payload synced to disk",
            measure: Box::new(move |tools| embedded::run(tools, Task::Sync, seconds)),
        },
        Competitor {
            name: "postgres",
            role: Role::Floor,
            over: "pgbench",
            durability: "each row synced to disk (synchronous_commit=on)",
            measure: Box::new(move |tools| pgbench::inserts(tools, CONNECTIONS, seconds)),
        },
    ];
    let log_servers = [
        log_servers::KHALA,
        log_servers::KHALA_POSTGRES,
        log_servers::REDIS_ALWAYS,
        log_servers::REDIS_EVERYSEC,
        log_servers::JETSTREAM,
        log_servers::JETSTREAM_SYNCED,
    ];
    competitors.extend(log_servers.map(|log_server| served(log_server, params)));
    workload(
        "append",
        format!("{CONNECTIONS} connections that append, each with one update under way"),
        format!(
            "All append to one topic. Floors: one thread with a synced transaction for each row; one that syncs a file for each \
             payload; and {CONNECTIONS} clients of PostgreSQL, each transaction one plain insert. Latency is from when an update \
             was sent, as each waits for the one before it."
        ),
        competitors,
    )
}

/// Rows into a plain table of SQLite.
pub(super) fn raw(name: &'static str, per_transaction: usize, seconds: f64) -> Competitor {
    Competitor {
        name,
        role: Role::Floor,
        over: "no server",
        durability: "each transaction synced to disk (synchronous=FULL)",
        measure: Box::new(move |tools| embedded::run(tools, Task::FloorAppend { per_transaction }, seconds)),
    }
}

fn workload(name: &'static str, title: String, note: String, competitors: Vec<Competitor>) -> Workload {
    let counted =
        "What was acknowledged is read again afterwards, all of it: what is missing counts as lost."
            .to_owned();
    Workload {
        name,
        title,
        unit: "an update that was acknowledged",
        headline: Headline::Cost,
        notes: vec![note, counted],
        competitors,
    }
}

fn served(log_server: LogServer, params: Params) -> Competitor {
    let LogServer { append_over, durability, .. } = log_server;
    log_server.competitor(append_over, durability, move |tools, server| measure(tools, server, params))
}

fn measure(tools: &Tools, log_server: LogServer, params: Params) -> Result<Sample, Failure> {
    let Params { connections, window, seconds } = params;
    let mut server = Server::new(tools.target())?;
    let protocol = (log_server.start)(tools, &mut server)?;
    let protocol = if connections == 1 { protocol.streaming() } else { protocol };
    let mut generator = Generator::start(tools)?;
    log::connect(&mut generator, Open { appenders: connections, window, ..log::open(&protocol) })?;
    let work = |seconds| Work { append: Some(Amount::Seconds(seconds)), read: None };
    // Buffers grow, and what is compiled while it runs is, before it is measured.
    let warm = log::append(&mut generator, &server, work(seconds.min(1.0)))?;
    let mut sample = log::append(&mut generator, &server, work(seconds))?;
    sample.extras.clear();
    drop(generator);
    sample.lost += log::missing(tools, &protocol, log::TOPIC, warm.units + sample.units)?;
    Ok(sample)
}
