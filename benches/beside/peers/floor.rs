//! The floor: `khala-floor`, which does nothing but write.

use std::process::Command;

use super::Peer;
use crate::{
    beside::{child::Server, row::Role, tools::Tools, wire::Speech},
    crowd::{Failure, free_address},
};

/// One write for each delivery.
pub(super) const EACH: Peer = Peer {
    name: "floor",
    role: Role::Floor,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: |tools| start(tools, "each"),
};

/// One write for all that is there for a subscriber.
pub(super) const COALESCED: Peer = Peer {
    name: "floor-coalesced",
    role: Role::Floor,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: |tools| start(tools, "coalesced"),
};

fn start(tools: &Tools, mode: &str) -> Result<(Server, Speech), Failure> {
    let (mut server, address) = (Server::new(tools.target())?, free_address()?);
    let mut command = Command::new(&tools.programs.floor);
    command.arg(address.to_string()).arg(mode);
    server.start(command, address)?;
    Ok((server, Speech::Floor { address }))
}
