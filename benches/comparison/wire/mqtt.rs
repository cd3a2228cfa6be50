//! MQTT 3.1.1 over TCP, QoS 0.

use std::net::SocketAddr;

use super::{Step, Update, Wire, topic_name};

#[derive(Debug)]
pub(super) struct Mqtt {
    pub(super) address: SocketAddr,
}

/// A packet: its first byte, the length of what follows, and that.
fn packet(out: &mut Vec<u8>, first: u8, pieces: &[&[u8]]) {
    out.push(first);
    let mut len: usize = pieces.iter().map(|piece| piece.len()).sum();
    loop {
        let low = (len % 128) as u8;
        len /= 128;
        out.push(if len > 0 { low | 0x80 } else { low });
        if len == 0 {
            break;
        }
    }
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

/// A clean session without a will, that is never asked whether it lives.
fn connect() -> Step {
    let mut out = Vec::new();
    packet(&mut out, 0x10, &[b"\x00\x04MQTT\x04\x02", &[0, 0], &[0, 0]]);
    Step::new(out, b"\x20\x02\x00\x00")
}

impl Wire for Mqtt {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn subscribe(&self, topic: usize) -> Vec<Step> {
        let (name, mut out) = (topic_name(topic), Vec::new());
        packet(&mut out, 0x82, &[&[0, 1], &(name.len() as u16).to_be_bytes(), name.as_bytes(), &[0]]);
        vec![connect(), Step::new(out, b"\x90\x03\x00\x01\x00")]
    }

    fn open_publisher(&self) -> Vec<Step> {
        vec![connect()]
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        for &Update { topic, payload } in updates {
            let name = topic_name(topic);
            packet(out, 0x30, &[&(name.len() as u16).to_be_bytes(), name.as_bytes(), payload]);
        }
    }
}
