//! Two nodes of Khala on one PostgreSQL: subscribers are at one of them, the publisher is at the other.

use std::process::Command;

use khala_testing::{Failure, free_address};

use super::{FanoutServer, khala};
use crate::comparison::{
    log_servers,
    server::Server,
    tools::Tools,
    wire::{Protocol, Publishing},
    workload::Role,
};

/// Everybody.
pub(in crate::comparison) const ALL: [FanoutServer; 3] = [super::floor::EACH, NOTIFY, KHALA_NATS];

/// Khala on one PostgreSQL, which carries announcements as well.
const NOTIFY: FanoutServer = FanoutServer {
    name: "khala-notify",
    role: Role::Khala,
    over: "WebSocket",
    durability: "each update synced to disk (PostgreSQL) before it is shown",
    keeps_history: true,
    start: |tools| khala_nodes(tools, |_| Ok(String::new())),
};

/// Khala on one PostgreSQL, with announcements over NATS.
const KHALA_NATS: FanoutServer = FanoutServer {
    name: "khala-nats",
    start: |tools| {
        khala_nodes(tools, |server| {
            let address = free_address();
            let settings = server.file("nats.conf", &format!("listen: \"{address}\"\n"))?;
            let mut command = Command::new(Tools::system_program("nats-server")?);
            command.arg("--config").arg(settings);
            server.start(command, address)?;
            Ok(format!("\n[nats]\nservers = [\"nats://{address}\"]\n"))
        })
    },
    ..NOTIFY
};

fn khala_nodes(
    tools: &Tools,
    fanout: impl Fn(&mut Server) -> Result<String, Failure>,
) -> Result<(Server, Protocol), Failure> {
    let mut server = Server::new(tools.target())?;
    let database = log_servers::cluster(&mut server)?;
    let more = fanout(&mut server)?;
    let mut node = |name: &str| {
        let address = free_address();
        let text = khala::settings(address, &database);
        let settings = server.file(&format!("{name}.toml"), &format!("node = \"{name}\"\n{text}{more}"))?;
        let mut command = Command::new(tools.khala.path());
        command.arg("--config").arg(settings);
        server.start(command, address)?;
        Ok::<_, Failure>(Protocol::Khala { address, token: khala::token()?, publishing: Publishing::Stream })
    };
    let (subscribers, publisher) = (Box::new(node("b")?), Box::new(node("a")?));
    let protocol = Protocol::TwoNodes { subscribers, publisher };
    Ok((server, protocol))
}
