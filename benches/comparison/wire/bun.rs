//! The small servers in `npm/bun.js`: a subscriber's topic stands in the path; the publisher sends a text for each update,
//! its topic before it.

use std::net::SocketAddr;

use super::{Step, Update, Wire, topic_name, websocket};

#[derive(Debug)]
pub(super) struct Bun {
    pub(super) address: SocketAddr,
}

impl Bun {
    fn open(&self, path: &str) -> Vec<Step> {
        // The server says so, once it has subscribed the connection.
        vec![Step::new(websocket::upgrade(self.address, path, ""), b"ready")]
    }
}

impl Wire for Bun {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn subscribe(&self, topic: usize) -> Vec<Step> {
        self.open(&format!("/subscribe/{}", topic_name(topic)))
    }

    fn open_publisher(&self) -> Vec<Step> {
        self.open("/publish")
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        for &Update { topic, payload } in updates {
            websocket::text(out, &[topic_name(topic).as_bytes(), b" ", payload]);
        }
    }
}
