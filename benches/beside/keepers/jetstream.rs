//! JetStream with file storage.

use std::process::Command;

use super::Keeper;
use crate::{
    beside::{child::Server, row::Role, tools::Tools, wire::log::Speech},
    crowd::{Failure, free_address},
};

/// As it comes: an update is acknowledged when the system has it.
pub(in crate::beside) const JETSTREAM: Keeper = Keeper {
    name: "jetstream",
    role: Role::Peer,
    append_over: "NATS, TCP",
    read_over: "WebSocket",
    durability: "not synced: within two minutes",
    reads_from: "file",
    starts_cold: true,
    fill_batch: 1,
    start: |tools, server| start(tools, server, ""),
};

/// With `sync_interval: always`.
pub(in crate::beside) const JETSTREAM_SYNCED: Keeper = Keeper {
    name: "jetstream-synced",
    durability: "each update synced to disk (sync_interval: always)",
    start: |tools, server| start(tools, server, "sync_interval: always"),
    ..JETSTREAM
};

fn start(tools: &Tools, server: &mut Server, sync: &str) -> Result<Speech, Failure> {
    let (appenders, readers) = (free_address()?, free_address()?);
    // What is not in its default state but the sync: slow consumers are waited for, and nobody is pinged.
    let settings = format!(
        r#"listen: "{appenders}"
websocket {{
    listen: "{readers}"
    no_tls: true
}}
jetstream {{
    store_dir: "jetstream"
    {sync}
}}
write_deadline: "60s"
max_pending: 1073741824
ping_interval: "1h"
"#
    );
    let settings = server.file("nats.conf", &settings)?;
    let mut command = Command::new(tools.installed_program("nats-server")?);
    command.arg("--config").arg(settings);
    server.start(command, readers)?;
    Ok(Speech::JetStream { appenders, readers })
}
