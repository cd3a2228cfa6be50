//! The server of the npm package `@durable-streams/server`, with its file store.

use std::process::Command;

use super::Keeper;
use crate::{
    beside::{child::Server, row::Role, tools::Tools, wire::log::Speech},
    crowd::{Failure, free_address},
};

/// It shares syncs between appends that wait for one.
pub(in crate::beside) const DURABLE_STREAMS: Keeper = Keeper {
    name: "durable-streams",
    role: Role::Peer,
    append_over: "HTTP",
    read_over: "HTTP",
    durability: "each update synced to disk (fdatasync)",
    reads_from: "file",
    starts_cold: true,
    fill_batch: 100,
    start,
};

fn start(_: &Tools, server: &mut Server) -> Result<Speech, Failure> {
    Tools::npm_packages()?;
    let address = free_address()?;
    let mut command = Command::new(Tools::system_program("node")?);
    command.arg(Tools::scripts().join("durable-streams.js")).arg(address.port().to_string());
    command.arg(server.folder().join("streams")).env("NODE_ENV", "production");
    server.start(command, address)?;
    Ok(Speech::DurableStreams { address })
}
