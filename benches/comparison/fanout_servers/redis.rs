//! Redis publish and subscribe.

use std::process::Command;

use khala_testing::{Failure, free_address};

use super::FanoutServer;
use crate::comparison::{server::Server, tools::Tools, wire::Protocol, workload::Role};

/// `redis-server` that writes nothing to disk.
pub(super) const REDIS: FanoutServer = FanoutServer {
    name: "redis",
    role: Role::Other,
    over: "RESP, TCP",
    durability: "none",
    keeps_history: false,
    start,
};

fn start(tools: &Tools) -> Result<(Server, Protocol), Failure> {
    let (mut server, address) = (Server::new(tools.target())?, free_address());
    let mut command = Command::new(Tools::system_program("redis-server")?);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--maxclients", "11000"]);
    // Nobody is dropped for reading slowly.
    command.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
    server.start(command, address)?;
    Ok((server, Protocol::Redis { address }))
}
