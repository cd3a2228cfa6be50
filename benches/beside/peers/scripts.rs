//! The servers from npm, each a small program in this folder around what it shows.

use std::{net::SocketAddr, path::Path, process::Command};

use super::Peer;
use crate::{
    beside::{child::Server, row::Role, tools::Tools, wire::Speech},
    crowd::{Failure, free_address},
};

/// Bun's built-in publish and subscribe, uWebSockets underneath.
pub(super) const BUN: Peer = Peer {
    name: "bun",
    role: Role::Peer,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: |tools| {
        let (server, address) = start(tools, &Tools::npm_program("bun")?, "bun.js")?;
        Ok((server, Speech::Script { address }))
    },
};

/// The package `ws`, and nothing around it.
pub(super) const WS: Peer = Peer {
    name: "ws",
    role: Role::Peer,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: |tools| {
        let (server, address) = start(tools, &Tools::system_program("node")?, "ws.js")?;
        Ok((server, Speech::Script { address }))
    },
};

/// Socket.IO, over WebSocket alone.
pub(super) const SOCKET_IO: Peer = Peer {
    name: "socket.io",
    role: Role::Peer,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: |tools| {
        let (server, address) = start(tools, &Tools::system_program("node")?, "socketio.js")?;
        Ok((server, Speech::SocketIo { address }))
    },
};

fn start(tools: &Tools, runtime: &Path, script: &str) -> Result<(Server, SocketAddr), Failure> {
    Tools::npm_packages()?;
    let (mut server, address) = (Server::new(tools.target())?, free_address()?);
    let mut command = Command::new(runtime);
    command.arg(Tools::scripts().join(script)).arg(address.port().to_string());
    command.env("NODE_ENV", "production");
    server.start(command, address)?;
    Ok((server, address))
}
