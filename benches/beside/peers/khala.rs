//! `khala-server` as it is released, on an SQLite file with `synchronous=FULL`.

use std::{fmt::Debug, net::SocketAddr, process::Command, time::Duration};

use khala_auth::{JwtIssuer, JwtOptions};
use khala_core::{
    auth::TokenClaims,
    clock::{Clock as _, SystemClock},
};

use super::Peer;
use crate::{
    beside::{
        child::Server,
        row::Role,
        tools::Tools,
        wire::{Publishing, Speech},
    },
    crowd::{During as _, Failure, free_address},
};

/// Khala on SQLite.
pub(super) const KHALA: Peer = Peer {
    name: "khala",
    role: Role::Khala,
    over: "WebSocket",
    durability: "each update synced to disk before it is shown",
    keeps_history: true,
    start: |tools| start(tools, Publishing::Stream),
};

/// The same, published to with a request for each update.
pub(super) const KHALA_POSTS: Peer =
    Peer { name: "khala-posts", start: |tools| start(tools, Publishing::Posts), ..KHALA };

/// What tokens are signed with: as good as public, on the loopback address, for as long as a run lasts.
const KEY: &str = "the key of a contest, which is as good as public";
/// No measurement lasts longer.
const TOKEN_FOR: Duration = Duration::from_secs(60 * 60);

fn start(tools: &Tools, publishing: Publishing) -> Result<(Server, Speech), Failure> {
    let (mut server, address) = (Server::new(tools.target())?, free_address()?);
    let settings = server.file("khala.toml", &settings(address, server.folder().join("khala.db")))?;
    let mut command = Command::new(tools.khala.path());
    command.arg("--config").arg(settings);
    server.start(command, address)?;
    Ok((server, Speech::Khala { address, token: token()?, publishing }))
}

pub(in crate::beside) fn settings(listen: SocketAddr, database: impl Debug) -> String {
    format!(
        r#"listen = "{listen}"
database = {database:?}

# The load has no limits that others do not have.
[[classes]]
name = "beside"
pattern = "beside:{{number}}"
read = ["khala:read"]
publish = ["khala:publish"]
tier = "hot"
replay_budget = "none"
publish_per_second = "none"

[limits]
new_topics_per_principal = "none"

# The generator does not beat.
[sync]
heartbeat_timeout_seconds = 3600

[auth]
hs256_key = "{KEY}"

[log]
filter = "warn"
"#
    )
}

pub(in crate::beside) fn token() -> Result<String, Failure> {
    let issuer = JwtIssuer::hs256(KEY.as_bytes(), JwtOptions::default()).during("making tokens")?;
    let claims = TokenClaims::new("beside", ["khala:read", "khala:publish"]);
    let issued = issuer.sign(&claims, SystemClock::new().now(), TOKEN_FOR).during("making a token")?;
    Ok(issued.token.reveal().to_owned())
}
