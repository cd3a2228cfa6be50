//! What an application is told about the connection of a subscription.

use std::time::Duration;

use khala_core::{
    Cursor, Update, Watermark,
    wire::{Head, Joined, StaleCursor},
};

use crate::error::Error;

/// One event of a subscription's connection.
///
/// An application that keeps state applies [`Updates`](Self::Updates) and [`Snapshot`](Self::Snapshot), keeps the
/// cursor that comes with them, and acts on [`Stale`](Self::Stale); the rest is for logs and status lines.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// A quiet topic stands here; a growing age means that the server has lost sight of its journal.
    Head(Head),
    /// The server answered a join: the first one, or one after the connection was lost.
    Joined {
        /// The answer.
        joined: Joined,
        /// Whether it goes on from a cursor, with nothing lost in between.
        resumed: bool,
    },
    /// The connection or the channel was lost; the client tries again by itself.
    Reconnecting {
        /// Why.
        error: Error,
        /// How often it failed since anything last arrived.
        failures: u32,
        /// How long it waits before it tries.
        wait: Duration,
    },
    /// Documents of a snapshot. The log follows when all pages have come.
    Snapshot(Snapshot),
    /// The cursor cannot be resumed from, and the subscription did not ask for a snapshot in that case. Nothing
    /// follows: subscribe anew, from a snapshot, the floor or the head.
    Stale(Box<StaleCursor>),
    /// The next updates, in order.
    Updates(Arrived),
}

/// Updates that follow one another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arrived {
    /// The updates; never empty.
    pub updates: Vec<Update>,
    /// What to keep once they are applied, and to bring back after a restart: with the `published_at` of the last of them
    /// ([`JoinRequest::published_at`](khala_core::wire::JoinRequest)), a server that was restored since notices.
    pub cursor: Cursor,
    /// The newest update that the server knew of when it sent them.
    pub head: Watermark,
    /// Whether the replay of this join ends with these updates or ended before: they reach the head that [`ConnectionEvent::Joined`]
    /// named.
    pub complete: bool,
}

/// Some documents of a snapshot.
///
/// A snapshot that was cut off starts again, perhaps at another cursor: `first` says to drop what came of the
/// one before. A document that came twice is the same or newer: apply the one with the higher seq.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Which snapshot it is, and what to keep once all of its pages are applied (not before).
    pub at: Cursor,
    /// Whether a snapshot starts here: whatever was there before goes.
    pub first: bool,
    /// The newest update of each document.
    pub documents: Vec<Update>,
    /// Whether it is the last page.
    pub complete: bool,
}
