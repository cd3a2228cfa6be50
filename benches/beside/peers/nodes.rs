//! Two nodes of the same: subscribers are at one of them, the publisher is at the other.

use std::{net::SocketAddr, process::Command};

use super::{Peer, khala};
use crate::{
    beside::{
        child::Server,
        keepers,
        row::Role,
        tools::Tools,
        wire::{Publishing, Speech},
    },
    crowd::{Failure, free_address},
};

/// Everybody.
pub(in crate::beside) const ALL: [Peer; 5] = [super::floor::EACH, NOTIFY, KHALA_NATS, NATS, SOCKET_IO];

/// Khala on one PostgreSQL, which carries announcements as well.
const NOTIFY: Peer = Peer {
    name: "khala-notify",
    role: Role::Khala,
    over: "WebSocket",
    durability: "each update synced to disk (PostgreSQL) before it is shown",
    keeps_history: true,
    start: |tools| khala_nodes(tools, |_| Ok(String::new())),
};

/// Khala on one PostgreSQL, with announcements over NATS.
const KHALA_NATS: Peer = Peer {
    name: "khala-nats",
    start: |tools| {
        khala_nodes(tools, |server| {
            let address = free_address()?;
            let settings = server.file("nats.conf", &format!("listen: \"{address}\"\n"))?;
            let mut command = Command::new(Tools::system_program("nats-server")?);
            command.arg("--config").arg(settings);
            server.start(command, address)?;
            Ok(format!("\n[nats]\nservers = [\"nats://{address}\"]\n"))
        })
    },
    ..NOTIFY
};

/// Two servers of a cluster.
const NATS: Peer = Peer {
    name: "nats-cluster",
    role: Role::Peer,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: nats_cluster,
};

/// Two processes with the adapter for Redis.
const SOCKET_IO: Peer = Peer {
    name: "socket.io-redis",
    role: Role::Peer,
    over: "WebSocket",
    durability: "none",
    keeps_history: false,
    start: socket_io_nodes,
};

fn apart(subscribers: Speech, publisher: Speech) -> Speech {
    Speech::Apart { subscribers: Box::new(subscribers), publisher: Box::new(publisher) }
}

fn khala_nodes(
    tools: &Tools,
    fanout: impl Fn(&mut Server) -> Result<String, Failure>,
) -> Result<(Server, Speech), Failure> {
    let mut server = Server::new(tools.target())?;
    let database = keepers::cluster(&mut server)?;
    let more = fanout(&mut server)?;
    let mut node = |name: &str| {
        let address = free_address()?;
        let text = khala::settings(address, &database);
        let settings = server.file(&format!("{name}.toml"), &format!("node = \"{name}\"\n{text}{more}"))?;
        let mut command = Command::new(tools.khala.path());
        command.arg("--config").arg(settings);
        server.start(command, address)?;
        Ok::<_, Failure>(Speech::Khala { address, token: khala::token()?, publishing: Publishing::Stream })
    };
    let speech = apart(node("b")?, node("a")?);
    Ok((server, speech))
}

fn nats_cluster(tools: &Tools) -> Result<(Server, Speech), Failure> {
    let mut server = Server::new(tools.target())?;
    let routes = [free_address()?, free_address()?];
    let mut node = |number: usize| -> Result<(SocketAddr, SocketAddr), Failure> {
        let (address, websocket) = (free_address()?, free_address()?);
        let (own, other) = (routes[number], routes[1 - number]);
        let settings = format!(
            r#"listen: "{address}"
server_name: "{number}"
websocket {{
    listen: "{websocket}"
    no_tls: true
}}
cluster {{
    name: "beside"
    listen: "{own}"
    routes: ["nats://{other}"]
}}
write_deadline: "60s"
max_pending: 1073741824
ping_interval: "1h"
"#
        );
        let settings = server.file(&format!("nats-{number}.conf"), &settings)?;
        let mut command = Command::new(Tools::system_program("nats-server")?);
        command.arg("--config").arg(settings);
        server.start(command, websocket)?;
        Ok((address, websocket))
    };
    let ((address, _), (_, websocket)) = (node(0)?, node(1)?);
    Ok((server, Speech::Nats { subscribers: websocket, publisher: address }))
}

fn socket_io_nodes(tools: &Tools) -> Result<(Server, Speech), Failure> {
    Tools::npm_packages()?;
    let (mut server, redis) = (Server::new(tools.target())?, free_address()?);
    let mut command = Command::new(Tools::system_program("redis-server")?);
    command.args(["--bind", "127.0.0.1", "--port", &redis.port().to_string(), "--save", ""]);
    server.start(command, redis)?;
    let mut node = || {
        let address = free_address()?;
        let mut command = Command::new(Tools::system_program("node")?);
        command.arg(Tools::scripts().join("socketio-redis.js"));
        command.arg(address.port().to_string()).arg(redis.port().to_string()).env("NODE_ENV", "production");
        server.start(command, address)?;
        Ok::<_, Failure>(Speech::SocketIo { address })
    };
    let speech = apart(node()?, node()?);
    Ok((server, speech))
}
