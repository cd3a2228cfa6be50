//! JetStream with file storage.

use std::process::Command;

use khala_testing::{Failure, free_address};

use super::LogServer;
use crate::comparison::{server::Server, tools::Tools, wire::log::Protocol, workload::Role};

/// As it comes: an update is acknowledged when the system has it.
pub(in crate::comparison) const JETSTREAM: LogServer = LogServer {
    name: "jetstream",
    role: Role::Other,
    append_over: "NATS, TCP",
    read_over: "WebSocket",
    durability: "not synced: within two minutes",
    reads_from: "file",
    starts_cold: true,
    start: |tools, server| start(tools, server, ""),
};

/// With `sync_interval: always`.
pub(in crate::comparison) const JETSTREAM_SYNCED: LogServer = LogServer {
    name: "jetstream-synced",
    durability: "each update synced to disk (sync_interval: always)",
    start: |tools, server| start(tools, server, "sync_interval: always"),
    ..JETSTREAM
};

fn start(tools: &Tools, server: &mut Server, sync: &str) -> Result<Protocol, Failure> {
    let (appenders, readers) = (free_address(), free_address());
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
    Ok(Protocol::JetStream { appenders, readers })
}
