//! Several nodes: subscribers at one, the publisher at another.

use std::net::SocketAddr;

use super::{Step, Update, Wire};

#[derive(Debug)]
pub(super) struct TwoNodes {
    pub(super) subscribers: Box<dyn Wire>,
    pub(super) publisher: Box<dyn Wire>,
}

impl Wire for TwoNodes {
    fn address(&self) -> SocketAddr {
        self.subscribers.address()
    }

    fn subscribe(&self, topic: usize) -> Vec<Step> {
        self.subscribers.subscribe(topic)
    }

    fn resume(&self, topic: usize, answer: &[u8], received: u32) -> Option<Vec<Step>> {
        self.subscribers.resume(topic, answer, received)
    }

    fn publisher_address(&self) -> SocketAddr {
        self.publisher.publisher_address()
    }

    fn open_publisher(&self) -> Vec<Step> {
        self.publisher.open_publisher()
    }

    fn updates_a_connection(&self) -> Option<usize> {
        self.publisher.updates_a_connection()
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        self.publisher.publish(out, updates);
    }

    fn acknowledgement(&self) -> Option<&'static [u8]> {
        self.publisher.acknowledgement()
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        self.publisher.refusals()
    }
}
