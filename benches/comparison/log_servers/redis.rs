//! Redis Streams with an append-only file. What is read is in memory in any case.

use std::process::Command;

use khala_testing::{Failure, free_address};

use super::LogServer;
use crate::comparison::{server::Server, tools::Tools, wire::log::Protocol, workload::Role};

/// The file is synced before an answer is given.
pub(in crate::comparison) const REDIS_ALWAYS: LogServer = LogServer {
    name: "redis-always",
    role: Role::Other,
    append_over: "RESP, TCP",
    read_over: "RESP, TCP",
    durability: "each update synced to disk (appendfsync always)",
    reads_from: "memory",
    starts_cold: false,
    start: |_, server| start(server, "always"),
};

/// The file is synced every second.
pub(in crate::comparison) const REDIS_EVERYSEC: LogServer = LogServer {
    name: "redis-everysec",
    durability: "not synced: within a second (appendfsync everysec)",
    start: |_, server| start(server, "everysec"),
    ..REDIS_ALWAYS
};

/// The same, where it is only read from.
pub(in crate::comparison) const REDIS: LogServer = LogServer { name: "redis", ..REDIS_EVERYSEC };

fn start(server: &mut Server, sync: &str) -> Result<Protocol, Failure> {
    let address = free_address();
    let mut command = Command::new(Tools::system_program("redis-server")?);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "yes", "--appendfsync", sync]);
    server.start(command, address)?;
    Ok(Protocol::Redis { address })
}
