//! Mosquitto, an MQTT broker, at QoS 0.

use std::process::Command;

use super::Peer;
use crate::{
    beside::{child::Server, row::Role, tools::Tools, wire::Speech},
    crowd::{Failure, free_address},
};

/// `mosquitto` that persists nothing.
pub(super) const MOSQUITTO: Peer = Peer {
    name: "mosquitto",
    role: Role::Peer,
    over: "MQTT, TCP",
    durability: "none",
    keeps_history: false,
    start,
};

fn start(tools: &Tools) -> Result<(Server, Speech), Failure> {
    let (mut server, address) = (Server::new(tools.target())?, free_address()?);
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
    Ok((server, Speech::Mqtt { address }))
}
