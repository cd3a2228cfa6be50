//! NATS: subscribers over WebSocket, whose frames hold its protocol; the publisher over the protocol alone.

use std::{io::Write as _, net::SocketAddr};

use super::{Step, Update, Wire, topic_name, websocket};

const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

#[derive(Debug)]
pub(super) struct Nats {
    /// Of its WebSocket listener.
    pub(super) subscribers: SocketAddr,
    /// Of its own protocol's listener.
    pub(super) publisher: SocketAddr,
}

impl Wire for Nats {
    fn address(&self) -> SocketAddr {
        self.subscribers
    }

    fn subscribe(&self, topic: usize) -> Vec<Step> {
        let subscribe = format!("{CONNECT}SUB {} 1\r\nPING\r\n", topic_name(topic));
        vec![
            Step::new(websocket::upgrade(self.subscribers, "/", ""), b"INFO {"),
            Step::new(websocket::text_frame(subscribe), b"PONG"),
        ]
    }

    fn publisher_address(&self) -> SocketAddr {
        self.publisher
    }

    fn open_publisher(&self) -> Vec<Step> {
        vec![Step::new(format!("{CONNECT}PING\r\n"), b"PONG")]
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        for &Update { topic, payload } in updates {
            write!(out, "PUB {} {}\r\n", topic_name(topic), payload.len()).expect("a Vec takes every write");
            out.extend_from_slice(payload);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        &[b"-ERR"]
    }
}
