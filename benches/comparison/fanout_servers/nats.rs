//! NATS, core: publish and subscribe from memory.

use std::process::Command;

use khala_testing::{Failure, free_address};

use super::FanoutServer;
use crate::comparison::{server::Server, tools::Tools, wire::Protocol, workload::Role};

/// `nats-server` without JetStream.
pub(super) const NATS: FanoutServer = FanoutServer {
    name: "nats",
    role: Role::Other,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start,
};

fn start(tools: &Tools) -> Result<(Server, Protocol), Failure> {
    let mut server = Server::new(tools.target())?;
    let (address, websocket) = (free_address(), free_address());
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
    Ok((server, Protocol::Nats { subscribers: websocket, publisher: address }))
}
