//! What the generator says to each server, as bytes: how a subscriber opens, how an update is published, and the text by
//! which it knows that a step was taken. All else about a server is in `fanout_servers`.
//!
//! # Invariants
//! A server is spoken to over the quickest way that it offers to anybody, with payloads of the same bytes as all others.

mod bun;
mod floor;
mod khala;
pub(super) mod log;
mod mqtt;
mod nats;
mod redis;
mod socketio;
mod sockudo;
mod two_nodes;
mod websocket;

use std::{fmt::Debug, net::SocketAddr};

use serde::{Deserialize, Serialize};

pub(super) use self::{khala::Publishing, sockudo::App};

/// How a server is spoken to, and where it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "protocol", rename_all = "snake_case")]
pub(super) enum Protocol {
    /// Several nodes of the same.
    TwoNodes { subscribers: Box<Self>, publisher: Box<Self> },
    /// The floor: WebSocket to subscribers; lines of text from the publisher.
    Floor { address: SocketAddr },
    /// Khala: Phoenix channels; HTTP from the publisher.
    Khala { address: SocketAddr, token: String, publishing: Publishing },
    /// MQTT over TCP.
    Mqtt { address: SocketAddr },
    /// NATS, over WebSocket to subscribers.
    Nats { subscribers: SocketAddr, publisher: SocketAddr },
    /// RESP over TCP.
    Redis { address: SocketAddr },
    /// The small server in `npm/bun.js`: WebSocket, text within.
    Bun { address: SocketAddr },
    /// Socket.IO over WebSocket.
    SocketIo { address: SocketAddr },
    /// Pusher's protocol over WebSocket, and its HTTP API from the publisher.
    Sockudo { address: SocketAddr, app: App },
}

impl Protocol {
    /// The address and a token of the Khala that subscribers are at, if it is one.
    pub(super) fn khala(&self) -> Option<(SocketAddr, &str)> {
        match self {
            Self::Khala { address, token, .. } => Some((*address, token)),
            Self::TwoNodes { subscribers, .. } => subscribers.khala(),
            _ => None,
        }
    }

    /// The bytes of it, where there are that many topics.
    pub(super) fn wire(self, topics: usize) -> Box<dyn Wire> {
        match self {
            Self::TwoNodes { subscribers, publisher } => Box::new(two_nodes::TwoNodes {
                subscribers: subscribers.wire(topics),
                publisher: publisher.wire(topics),
            }),
            Self::Floor { address } => Box::new(floor::Floor { address }),
            Self::Khala { address, token, publishing } => {
                Box::new(khala::Khala { address, token, publishing, many: topics > 1 })
            }
            Self::Mqtt { address } => Box::new(mqtt::Mqtt { address }),
            Self::Nats { subscribers, publisher } => Box::new(nats::Nats { subscribers, publisher }),
            Self::Redis { address } => Box::new(redis::Redis { address }),
            Self::Bun { address } => Box::new(bun::Bun { address }),
            Self::SocketIo { address } => Box::new(socketio::SocketIo { address }),
            Self::Sockudo { address, app } => Box::new(sockudo::Sockudo { address, app }),
        }
    }
}

/// Something to send, and the text that says that it was understood.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) send: Vec<u8>,
    pub(super) until: &'static [u8],
}

impl Step {
    pub(super) fn new(send: impl Into<Vec<u8>>, until: &'static [u8]) -> Self {
        Self { send: send.into(), until }
    }
}

/// An update that is to be published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update<'a> {
    pub(super) topic: usize,
    pub(super) payload: &'a [u8],
}

/// The bytes of one protocol. Topics are numbered from 0.
pub(super) trait Wire: Debug {
    /// Where subscribers connect.
    fn address(&self) -> SocketAddr;
    /// What a subscriber says until it follows `topic` from now on.
    fn subscribe(&self, topic: usize) -> Vec<Step>;
    /// What a subscriber says when it comes back, given the answer to its last step before, and how many updates it has
    /// had. None: this server keeps nothing to come back to.
    fn resume(&self, topic: usize, answer: &[u8], received: u32) -> Option<Vec<Step>> {
        let _ = (topic, answer, received);
        None
    }
    /// Where the publisher connects, if not where subscribers do.
    fn publisher_address(&self) -> SocketAddr {
        self.address()
    }
    /// What the publisher says before its first update.
    fn open_publisher(&self) -> Vec<Step>;
    /// How many updates go into one request, where each takes a connection of its own, which the server closes after it.
    fn updates_a_connection(&self) -> Option<usize> {
        None
    }
    /// Appends to `out` what publishes these, in their order.
    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]);
    /// The text that stands once for each update in the answers, where there are such.
    fn acknowledgement(&self) -> Option<&'static [u8]> {
        None
    }
    /// Texts that stand in answers only where something was refused.
    fn refusals(&self) -> &'static [&'static [u8]] {
        &[]
    }
}

/// What a topic is called everywhere.
fn topic_name(topic: usize) -> String {
    format!("bench:{topic}")
}
