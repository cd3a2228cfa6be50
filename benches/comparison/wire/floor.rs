//! The floor: subscribers over WebSocket; the publisher over a line of text for each update.

use std::{io::Write as _, net::SocketAddr};

use super::{Step, Update, Wire, websocket};

#[derive(Debug)]
pub(super) struct Floor {
    pub(super) address: SocketAddr,
}

impl Wire for Floor {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn subscribe(&self, topic: usize) -> Vec<Step> {
        vec![Step::new(
            websocket::upgrade(self.address, &format!("/subscribe/{topic}"), ""),
            websocket::UPGRADED,
        )]
    }

    fn open_publisher(&self) -> Vec<Step> {
        vec![Step::new(websocket::upgrade(self.address, "/publish", ""), websocket::UPGRADED)]
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        for &Update { topic, payload } in updates {
            write!(out, "{topic} ").expect("a Vec takes every write");
            out.extend_from_slice(payload);
            out.push(b'\n');
        }
    }
}
