//! Redis Streams with an append-only file. What is read is in memory in any case.

use std::process::Command;

use super::Keeper;
use crate::{
    beside::{child::Server, row::Role, tools::Tools, wire::log::Speech},
    crowd::{Failure, free_address},
};

/// The file is synced before an answer is given.
pub(in crate::beside) const REDIS_ALWAYS: Keeper = Keeper {
    name: "redis-always",
    role: Role::Peer,
    append_over: "RESP, TCP",
    read_over: "RESP, TCP",
    durability: "each update synced to disk (appendfsync always)",
    reads_from: "memory",
    starts_cold: false,
    fill_batch: 1,
    start: |_, server| start(server, "always"),
};

/// The file is synced every second.
pub(in crate::beside) const REDIS_EVERYSEC: Keeper = Keeper {
    name: "redis-everysec",
    durability: "not synced: within a second (appendfsync everysec)",
    start: |_, server| start(server, "everysec"),
    ..REDIS_ALWAYS
};

/// The same, where it is only read from.
pub(in crate::beside) const REDIS: Keeper = Keeper { name: "redis", ..REDIS_EVERYSEC };

fn start(server: &mut Server, sync: &str) -> Result<Speech, Failure> {
    let address = free_address()?;
    let mut command = Command::new(Tools::system_program("redis-server")?);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "yes", "--appendfsync", sync]);
    server.start(command, address)?;
    Ok(Speech::Redis { address })
}
