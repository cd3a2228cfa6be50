//! Sockudo, a server for Pusher's protocol in Rust.

use std::process::Command;

use khala_testing::{Failure, free_address};

use super::FanoutServer;
use crate::comparison::{
    server::Server,
    tools::Tools,
    wire::{App, Protocol},
    workload::Role,
};

/// `sockudo` with everything in its memory.
pub(super) const SOCKUDO: FanoutServer = FanoutServer {
    name: "sockudo",
    role: Role::Other,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start,
};

/// More than the load ever does.
const NO_LIMIT: &str = "100000000";

fn start(tools: &Tools) -> Result<(Server, Protocol), Failure> {
    let (mut server, address) = (Server::new(tools.target())?, free_address());
    let app = App { id: "comparison".into(), key: "beside-key".into(), secret: "beside-secret".into() };
    let mut command = Command::new(tools.installed_program("sockudo")?);
    command.envs([
        ("HOST", "127.0.0.1"),
        ("PORT", &address.port().to_string()),
        ("SOCKUDO_DEFAULT_APP_ID", &app.id),
        ("SOCKUDO_DEFAULT_APP_KEY", &app.key),
        ("SOCKUDO_DEFAULT_APP_SECRET", &app.secret),
        ("SOCKUDO_DEFAULT_APP_ENABLED", "true"),
        ("ADAPTER_DRIVER", "local"),
        ("APP_MANAGER_DRIVER", "memory"),
        ("CACHE_DRIVER", "memory"),
        ("QUEUE_DRIVER", "memory"),
        ("METRICS_ENABLED", "false"),
        ("LOG_LEVEL", "error"),
        ("RUST_LOG", "error"),
        // Its limits on rates and numbers of connections. What may wait for a connection, 1,000 messages, is more than the
        // load leaves there, and is allocated for each: more of it would be memory and time that its default does not take.
        ("RATE_LIMITER_ENABLED", "false"),
        ("SOCKUDO_DEFAULT_APP_MAX_CONNECTIONS", "100000"),
        ("SOCKUDO_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SECOND", NO_LIMIT),
        ("SOCKUDO_DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SECOND", NO_LIMIT),
        // The generator answers no pings.
        ("WEBSOCKET_AUTO_PING", "false"),
        ("WEBSOCKET_IDLE_TIMEOUT", "3600"),
        ("ACTIVITY_TIMEOUT", "3600"),
    ]);
    server.start(command, address)?;
    Ok((server, Protocol::Sockudo { address, app }))
}
