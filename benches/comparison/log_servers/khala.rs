//! `khala-server` as it is released, on an SQLite file or on PostgreSQL, fully synced.

use std::{fs, process::Command};

use khala_testing::Cluster;
use khala_testing::{During as _, Failure, free_address};

use super::LogServer;
use crate::comparison::{
    fanout_servers::khala::{self, ask, settings, token},
    server::Server,
    tools::Tools,
    wire::log::Protocol,
    workload::Role,
};

/// Khala on SQLite.
pub(in crate::comparison) const KHALA: LogServer = LogServer {
    name: "khala",
    role: Role::Khala,
    append_over: "HTTP",
    read_over: "WebSocket",
    durability: "each update synced to disk (SQLite, synchronous=FULL)",
    reads_from: "SQLite file",
    starts_cold: true,
    start: |tools, server| {
        let database = server.folder().join("khala.db");
        start(tools, server, &database.to_string_lossy())
    },
};

/// Khala on PostgreSQL, which is part of the server here.
pub(in crate::comparison) const KHALA_POSTGRES: LogServer = LogServer {
    name: "khala-postgres",
    durability: "each update synced to disk (PostgreSQL, synchronous_commit=on)",
    reads_from: "PostgreSQL",
    starts_cold: false,
    start: |tools, server| {
        let url = cluster(server)?;
        start(tools, server, &url)
    },
    ..KHALA
};

/// Starts a PostgreSQL cluster with its defaults, syncs on, as part of that server; gives the address of a database.
pub(in crate::comparison) fn cluster(server: &mut Server) -> Result<String, Failure> {
    let cluster = Cluster::start_with(&["max_connections=200"]);
    let id =
        fs::read_to_string(cluster.data().join("postmaster.pid")).during("asking PostgreSQL who it is")?;
    let id = id.lines().next().and_then(|id| id.parse().ok());
    let database = cluster.database();
    server.add(id.ok_or_else(|| Failure::new("PostgreSQL does not say who it is"))?, cluster);
    Ok(database)
}

fn start(tools: &Tools, server: &mut Server, database: &str) -> Result<Protocol, Failure> {
    let address = free_address();
    // Readers are as many as there are, however often they come.
    let text = settings(address, database) + "\n[replay]\nrate = \"none\"\n";
    let settings = server.file("khala.toml", &text)?;
    let mut command = Command::new(tools.khala.path());
    command.arg("--config").arg(settings);
    server.start(command, address)?;
    let token = token()?;
    let bounds = ask(address, "/v1/topics/bench:0", &token)?;
    let epoch = bounds.split_once(r#""epoch":""#).and_then(|(_, rest)| rest.split('"').next());
    let epoch = epoch.ok_or_else(|| Failure::new(format_args!("Khala tells no epoch: {bounds}")))?.to_owned();
    Ok(Protocol::Khala { address, token, epoch: Some(epoch), stream: false })
}

/// How often it has read its journal since it was started.
pub(in crate::comparison) fn journal_reads(protocol: &Protocol) -> Result<f64, Failure> {
    let Protocol::Khala { address, token, .. } = protocol else { return Err(Failure::new("not Khala")) };
    khala::journal_reads(*address, token)
}
