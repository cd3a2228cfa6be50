//! What the generator says to servers that keep what they are given: how to append an update so that it is acknowledged,
//! and how to read it again. All else about a server is in `log_servers`.
//!
//! # Invariants
//! A reader knows an update by its mark alone, asks for what comes next by how many it has had, and asks for no more at once than
//! clients of that server do.

mod jetstream;
mod khala;
mod redis;

use std::{fmt::Debug, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::Step;

/// How a server that keeps updates is spoken to, and where it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "protocol", rename_all = "snake_case")]
pub(in crate::comparison) enum Protocol {
    /// JetStream: its own protocol to append, the same within WebSocket to read.
    JetStream { appenders: SocketAddr, readers: SocketAddr },
    /// Khala: HTTP to append, WebSocket to read. The epoch is that of the topic which is read.
    Khala { address: SocketAddr, token: String, epoch: Option<String>, stream: bool },
    /// Redis Streams: RESP over TCP.
    Redis { address: SocketAddr },
}

impl Protocol {
    /// The same with appenders that stream, where that is another way.
    pub(in crate::comparison) fn streaming(mut self) -> Self {
        if let Self::Khala { stream, .. } = &mut self {
            *stream = true;
        }
        self
    }

    pub(in crate::comparison) fn log(self) -> Box<dyn Log> {
        match self {
            Self::JetStream { appenders, readers } => Box::new(jetstream::JetStream { appenders, readers }),
            Self::Khala { address, token, epoch, stream } => {
                Box::new(khala::Khala { address, token, epoch, stream })
            }
            Self::Redis { address } => Box::new(redis::Redis { address }),
        }
    }
}

/// A reader's request: the updates of a topic from the one with the number `first` (counted from 0) to the end, of which it
/// has had `received`.
#[derive(Clone, Copy, Debug)]
pub(in crate::comparison) struct Request {
    /// The number of its connection.
    pub(in crate::comparison) reader: usize,
    /// How often it has read all before.
    pub(in crate::comparison) round: u32,
    pub(in crate::comparison) topic: usize,
    pub(in crate::comparison) first: u64,
    pub(in crate::comparison) received: u64,
}

/// The bytes of one protocol.
pub(in crate::comparison) trait Log: Debug {
    /// Where appenders connect.
    fn appenders(&self) -> SocketAddr;
    /// What an appender says first. It makes the topic, if that has to be made.
    fn open_appender(&self, appender: usize, topic: usize) -> Vec<Step>;
    /// Appends to `out` what appends one update.
    fn append(&self, out: &mut Vec<u8>, appender: usize, topic: usize, payload: &[u8]);
    /// The text that stands once in the answer to each update that was stored.
    fn acknowledgement(&self) -> &'static [u8];
    /// Texts that stand in answers only where something was refused.
    fn refusals(&self) -> &'static [&'static [u8]];
    /// Where readers connect.
    fn readers(&self) -> SocketAddr;
    /// What a reader says before it reads.
    fn open_reader(&self) -> Vec<Step>;
    /// Appends to `out` what asks for what comes next.
    fn read(&self, out: &mut Vec<u8>, request: Request);
    /// How many updates one request gives. None: all that there are.
    fn page(&self) -> Option<u64>;
}
