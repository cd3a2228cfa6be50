//! What a driver needs of a transport: frames in, frames out, and a count of what the network has taken.
//!
//! Types only.
//!
//! # Invariants
//! `Debug` never prints the text of a frame, which may hold a token.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{Sink, Stream};

use crate::wire::{Close, Encoded};

/// What comes in from a client. The end of the stream means that the client is gone.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a transport maps everything it can receive to these")]
pub enum Received {
    /// A binary frame.
    Binary,
    /// The client broke the transport's rules, and is to be closed with this code.
    Fault(Close),
    /// That many frames came beside the text and binary ones: pings, pongs, and fragments but for the last of each message. They cost what
    /// a text frame costs.
    Frames(u32),
    /// A text frame.
    Text(String),
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Binary => f.write_str("Binary"),
            Self::Fault(close) => f.debug_tuple("Fault").field(close).finish(),
            Self::Frames(frames) => f.debug_tuple("Frames").field(frames).finish(),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

/// What goes out to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a transport must be able to send all of these")]
pub enum Sent {
    /// The end, with its code.
    Close(Close),
    /// A text frame, which is UTF-8.
    Text(Encoded),
}

/// A way to one client: frames in, frames out, and how many bytes the network has taken.
pub trait Transport: Stream<Item = Received> + Sink<Sent> + Unpin + Send {
    /// Counts the bytes that the network has taken so far, by which a slow client is told from a stuck one.
    fn progress(&self) -> Progress;
}

/// A count of bytes that its clones share.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// A count of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts more bytes.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The count.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
