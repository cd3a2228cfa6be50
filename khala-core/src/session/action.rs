//! What a session wants done, what it asks, and what it is told.
//!
//! Values only. What must stay true: whoever drives a session can carry out every action, and answer every question, with
//! nothing but what stands in it.

use super::by_channel::ChannelId;
use crate::{
    admission::Limited,
    auth::{Denied, Grant, Token},
    clock::Moment,
    documents::SnapshotFrom,
    position::{Bounds, Cursor},
    snapshots::SharedSnapshot,
    tail::{FollowResult, Freshness},
    topic::Topic,
    update::Timestamp,
    wire::{Close, Encoded},
};

/// What a session wants done.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must carry out every action")]
pub enum Action {
    /// Answer this question with [`Session::handle_answer`](super::Session::handle_answer). One at a time per channel.
    Ask {
        /// Whose question it is.
        channel: ChannelId,
        /// The topic that it is about.
        topic: Topic,
        /// The question.
        question: Question,
    },
    /// Close the connection. Nothing follows.
    Close(Close),
    /// Send this text frame.
    Send(Encoded),
    /// Stop watching for this channel.
    Unwatch(ChannelId),
    /// Verify this token, and report with [`Session::handle_verified`](super::Session::handle_verified). One at a time.
    Verify(Token),
    /// Watch the topic for this channel, before any question that follows is answered, and report with
    /// [`Session::handle_moved`](super::Session::handle_moved). Where that fails, report with
    /// [`Session::handle_unwatched`](super::Session::handle_unwatched): it comes again, and then nothing need wait for it.
    Watch {
        /// Who watches.
        channel: ChannelId,
        /// What is watched.
        topic: Topic,
    },
}

/// A question about one topic.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must answer every question")]
pub enum Question {
    /// May the holder of the grant read it?
    Access(Grant),
    /// What did it hold at this moment or later?
    Bounds {
        /// The moment.
        not_older_than: Moment,
    },
    /// What follows the cursor?
    Read {
        /// Where to read from.
        cursor: Cursor,
        /// How sure "nothing" has to be.
        wanted: Freshness,
    },
    /// What follows the cursor that a join starts from? It may be put off.
    Resume {
        /// Where to read from.
        cursor: Cursor,
        /// How sure "nothing" has to be.
        wanted: Freshness,
        /// How far behind the head the cursor may be.
        budget: Option<u64>,
        /// When the last update that the cursor covers was published, if the client says: another update in its place
        /// makes the cursor stale.
        published_at: Option<Timestamp>,
    },
    /// Which documents are there? The first page may be put off.
    Snapshot(SnapshotFrom),
}

/// The answer to a [`Question`] of the same name; that to `Resume` is `Read`.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a session handles every answer")]
pub enum Answer {
    /// Whether the holder may read it.
    Access(Result<(), Denied>),
    /// What it holds, and when the journal last confirmed it.
    Bounds(Bounds, Moment),
    /// It is put off: too much is read from the journal as it is.
    Deferred(Limited),
    /// What follows.
    Read(FollowResult),
    /// Documents.
    Snapshot(SharedSnapshot),
}
