//! The servers from npm, each a small program in this folder around what it shows.

use std::process::Command;

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
    start: |tools| {
        let bun = Command::new(Tools::npm_program("bun")?);
        start(tools, bun, "bun.js")
    },
};

fn start(tools: &Tools, mut command: Command, script: &str) -> Result<(Server, Speech), Failure> {
    let (mut server, address) = (Server::new(tools.target())?, free_address()?);
    command.arg(Tools::scripts().join(script)).arg(address.port().to_string());
    command.env("NODE_ENV", "production");
    server.start(command, address)?;
    Ok((server, Speech::Script { address }))
}
