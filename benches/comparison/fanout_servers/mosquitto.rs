//! Mosquitto, an MQTT broker, at QoS 0.

use std::process::Command;

use khala_testing::{Failure, free_address};

use super::FanoutServer;
use crate::comparison::{server::Server, tools::Tools, wire::Protocol, workload::Role};

/// `mosquitto` that persists nothing.
pub(super) const MOSQUITTO: FanoutServer = FanoutServer {
    name: "mosquitto",
    role: Role::Other,
    over: "MQTT, TCP",
    durability: "none",
    keeps_history: false,
    start,
};

fn start(tools: &Tools) -> Result<(Server, Protocol), Failure> {
    let (mut server, address) = (Server::new(tools.target())?, free_address());
    let settings = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n\
         # Updates are small and wanted now, as with everybody else.\nset_tcp_nodelay true\n\
         # Nothing is dropped for reading slowly.\nmax_queued_messages 0\nmax_inflight_messages 0\n\
         log_type error\nuser root\n",
        address.port()
    );
    let settings = server.file("mosquitto.conf", &settings)?;
    let mut command = Command::new(Tools::system_program("mosquitto")?);
    command.arg("-c").arg(settings);
    server.start(command, address)?;
    Ok((server, Protocol::Mqtt { address }))
}
