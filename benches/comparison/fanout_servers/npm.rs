//! The servers from npm, each a small program in this folder around what it shows.

use std::{net::SocketAddr, path::Path, process::Command};

use khala_testing::{Failure, free_address};

use super::FanoutServer;
use crate::comparison::{server::Server, tools::Tools, wire::Protocol, workload::Role};

/// Bun's built-in publish and subscribe, uWebSockets underneath.
pub(super) const BUN: FanoutServer = FanoutServer {
    name: "bun",
    role: Role::Other,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: |tools| {
        let (server, address) = start(tools, &Tools::npm_program("bun")?, "bun.js")?;
        Ok((server, Protocol::Bun { address }))
    },
};

/// Socket.IO, over WebSocket alone.
pub(super) const SOCKET_IO: FanoutServer = FanoutServer {
    name: "socket.io",
    role: Role::Other,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: |tools| {
        let (server, address) = start(tools, &Tools::system_program("node")?, "socketio.js")?;
        Ok((server, Protocol::SocketIo { address }))
    },
};

fn start(tools: &Tools, runtime: &Path, script: &str) -> Result<(Server, SocketAddr), Failure> {
    Tools::npm_packages()?;
    let (mut server, address) = (Server::new(tools.target())?, free_address());
    let mut command = Command::new(runtime);
    command.arg(Tools::scripts().join(script)).arg(address.port().to_string());
    command.env("NODE_ENV", "production");
    server.start(command, address)?;
    Ok((server, address))
}
