//! NATS, core: publish and subscribe from memory.

use std::process::Command;

use super::Peer;
use crate::{
    beside::{child::Server, row::Role, tools::Tools, wire::Speech},
    crowd::{Failure, free_address},
};

/// `nats-server` without JetStream.
pub(super) const NATS: Peer = Peer {
    name: "nats",
    role: Role::Peer,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start,
};

fn start(tools: &Tools) -> Result<(Server, Speech), Failure> {
    let mut server = Server::new(tools.target())?;
    let (address, websocket) = (free_address()?, free_address()?);
    // What is not in its default state: slow consumers are waited for, and nobody is pinged.
    let settings = format!(
        r#"listen: "{address}"
websocket {{
    listen: "{websocket}"
    no_tls: true
}}
write_deadline: "60s"
max_pending: 1073741824
ping_interval: "1h"
"#
    );
    let settings = server.file("nats.conf", &settings)?;
    let mut command = Command::new(Tools::system_program("nats-server")?);
    command.arg("--config").arg(settings);
    server.start(command, websocket)?;
    Ok((server, Speech::Nats { subscribers: websocket, publisher: address }))
}
