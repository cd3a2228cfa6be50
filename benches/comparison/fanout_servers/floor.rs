//! The floor: a process of this program that does nothing but write.

use std::process::Command;

use khala_testing::{Failure, free_address};

use super::FanoutServer;
use crate::comparison::{server::Server, tools::Tools, wire::Protocol, workload::Role};

/// One write for each delivery.
pub(super) const EACH: FanoutServer = FanoutServer {
    name: "floor",
    role: Role::Floor,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: |tools| start(tools, "each"),
};

/// One write for all that is there for a subscriber.
pub(super) const COALESCED: FanoutServer = FanoutServer {
    name: "floor-coalesced",
    role: Role::Floor,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: |tools| start(tools, "coalesced"),
};

fn start(tools: &Tools, mode: &str) -> Result<(Server, Protocol), Failure> {
    let (mut server, address) = (Server::new(tools.target())?, free_address());
    let mut command = Command::new(&tools.own);
    command.args(["floor", mode, &address.to_string()]);
    server.start(command, address)?;
    Ok((server, Protocol::Floor { address }))
}
