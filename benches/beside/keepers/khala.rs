//! `khala-server` as it is released, on an SQLite file or on PostgreSQL, fully synced.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use khala_testing::Cluster;

use super::Keeper;
use crate::{
    beside::{
        child::Server,
        peers::khala::{settings, token},
        row::Role,
        tools::Tools,
        wire::log::Speech,
    },
    crowd::{During as _, Failure, free_address},
};

/// Khala on SQLite.
pub(in crate::beside) const KHALA: Keeper = Keeper {
    name: "khala",
    role: Role::Khala,
    append_over: "HTTP",
    read_over: "WebSocket",
    durability: "each update synced to disk (SQLite, synchronous=FULL)",
    reads_from: "SQLite file",
    starts_cold: true,
    fill_batch: 1,
    start: |tools, server| {
        let database = server.folder().join("khala.db");
        start(tools, server, &database.to_string_lossy())
    },
};

/// Khala on PostgreSQL, which is part of the server here.
pub(in crate::beside) const KHALA_POSTGRES: Keeper = Keeper {
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
pub(in crate::beside) fn cluster(server: &mut Server) -> Result<String, Failure> {
    let cluster = Cluster::start_with(&["max_connections=200"]);
    let id =
        fs::read_to_string(cluster.data().join("postmaster.pid")).during("asking PostgreSQL who it is")?;
    let id = id.lines().next().and_then(|id| id.parse().ok());
    let database = cluster.database();
    server.add(id.ok_or_else(|| Failure::new("PostgreSQL does not say who it is"))?, cluster);
    Ok(database)
}

fn start(tools: &Tools, server: &mut Server, database: &str) -> Result<Speech, Failure> {
    let address = free_address()?;
    // Readers are as many as there are, however often they come.
    let text = settings(address, database) + "\n[storm]\nreplay_pages = \"none\"\n";
    let settings = server.file("khala.toml", &text)?;
    let mut command = Command::new(tools.khala.path());
    command.arg("--config").arg(settings);
    server.start(command, address)?;
    let token = token()?;
    let bounds = ask(address, "/v1/topics/beside:0", &token)?;
    let epoch = bounds.split_once(r#""epoch":""#).and_then(|(_, rest)| rest.split('"').next());
    let epoch = epoch.ok_or_else(|| Failure::new(format_args!("Khala tells no epoch: {bounds}")))?.to_owned();
    Ok(Speech::Khala { address, token, epoch: Some(epoch), stream: false })
}

/// How often it has read its journal since it was started.
pub(in crate::beside) fn journal_reads(speech: &Speech) -> Result<f64, Failure> {
    let Speech::Khala { address, token, .. } = speech else { return Err(Failure::new("not Khala")) };
    let metrics = ask(*address, "/metrics", token)?;
    let reads = metrics.lines().filter(|line| line.starts_with("khala_journal_reads_total"));
    Ok(reads.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

fn ask(address: SocketAddr, path: &str, token: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address).during("asking Khala")?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )
    .during("asking Khala")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).during("asking Khala")?;
    Ok(answer)
}
