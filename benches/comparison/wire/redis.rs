//! Redis publish and subscribe, in its protocol (RESP) over TCP: it has no WebSocket.

use std::{io::Write as _, net::SocketAddr};

use super::{Step, Update, Wire, topic_name};

#[derive(Debug)]
pub(super) struct Redis {
    pub(super) address: SocketAddr,
}

/// A command as an array of strings.
fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    write!(out, "*{}\r\n", words.len()).expect("a Vec takes every write");
    for word in words {
        write!(out, "${}\r\n", word.len()).expect("a Vec takes every write");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

impl Wire for Redis {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn subscribe(&self, topic: usize) -> Vec<Step> {
        let mut subscribe = Vec::new();
        command(&mut subscribe, &[b"SUBSCRIBE", topic_name(topic).as_bytes()]);
        vec![Step::new(subscribe, b"subscribe")]
    }

    fn open_publisher(&self) -> Vec<Step> {
        vec![Step::new("PING\r\n", b"+PONG")]
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        for &Update { topic, payload } in updates {
            command(out, &[b"PUBLISH", topic_name(topic).as_bytes(), payload]);
        }
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        &[b"-ERR", b"-NO"]
    }
}
