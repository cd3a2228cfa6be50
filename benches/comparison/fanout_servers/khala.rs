//! `khala-server` as it is released, on an SQLite file with `synchronous=FULL`.

use std::{
    fmt::Debug,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use khala_auth::{JwtIssuer, JwtOptions};
use khala_core::{
    auth::TokenClaims,
    clock::{Clock as _, SystemClock},
};
use khala_testing::{During as _, Failure, free_address};

use super::FanoutServer;
use crate::comparison::{
    server::Server,
    tools::Tools,
    wire::{Protocol, Publishing},
    workload::Role,
};

/// Khala on SQLite.
pub(super) const KHALA: FanoutServer = FanoutServer {
    name: "khala",
    role: Role::Khala,
    over: "WebSocket",
    durability: "each update synced to disk before it is shown",
    keeps_history: true,
    start: |tools| start(tools, Publishing::Stream),
};

/// The same, published to with a request for each update.
pub(super) const KHALA_POSTS: FanoutServer =
    FanoutServer { name: "khala-posts", start: |tools| start(tools, Publishing::Posts), ..KHALA };

/// What tokens are signed with: as good as public, on the loopback address, for as long as a run lasts.
const KEY: &str = "the key of a comparison, which is as good as public";
/// No measurement lasts longer.
const TOKEN_FOR: Duration = Duration::from_secs(60 * 60);

fn start(tools: &Tools, publishing: Publishing) -> Result<(Server, Protocol), Failure> {
    let (mut server, address) = (Server::new(tools.target())?, free_address());
    let settings = server.file("khala.toml", &settings(address, server.folder().join("khala.db")))?;
    let mut command = Command::new(tools.khala.path());
    command.arg("--config").arg(settings);
    server.start(command, address)?;
    Ok((server, Protocol::Khala { address, token: token()?, publishing }))
}

pub(in crate::comparison) fn settings(listen: SocketAddr, database: impl Debug) -> String {
    format!(
        r#"listen = "{listen}"
database = {database:?}

# The load has no limits that others do not have.
[[classes]]
name = "bench"
pattern = "bench:{{number}}"
read = ["khala:read"]
publish = ["khala:publish"]
tier = "hot"
replay_budget = "none"
publish_rate = "none"

[admission]
new_topics_per_subject = "none"

# The generator does not beat.
[session]
heartbeat_timeout_seconds = 3600

[auth]
hs256_key = "{KEY}"

[log]
filter = "warn"
"#
    )
}

pub(in crate::comparison) fn token() -> Result<String, Failure> {
    let issuer = JwtIssuer::hs256(KEY.as_bytes(), JwtOptions::default()).during("making tokens")?;
    let claims = TokenClaims::new("bench", ["khala:read", "khala:publish"]);
    let issued = issuer.sign(&claims, SystemClock::new().now(), TOKEN_FOR).during("making a token")?;
    Ok(issued.token.reveal().to_owned())
}

/// How often the server at that address has read its journal since it was started.
pub(in crate::comparison) fn journal_reads(address: SocketAddr, token: &str) -> Result<f64, Failure> {
    let metrics = ask(address, "/metrics", token)?;
    let reads = metrics.lines().filter(|line| line.starts_with("khala_journal_reads_total"));
    Ok(reads.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

/// The answer to a request, its head included.
pub(in crate::comparison) fn ask(address: SocketAddr, path: &str, token: &str) -> Result<String, Failure> {
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
