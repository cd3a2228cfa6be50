//! What is asked about a topic that is followed, and what is answered. Values only.

use crate::{
    admission::Limited,
    auth::{Denied, Grant},
    clock::Moment,
    documents::SnapshotFrom,
    position::{Bounds, Cursor},
    snapshots::SharedSnapshot,
    tail::{FollowResult, Freshness},
    update::Timestamp,
};

/// A question about one topic.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must answer every question")]
pub enum Question {
    /// May the subject of the grant read it? A session asks this before anything else.
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
    /// What follows the cursor that a subscriber starts from? It may be put off.
    Resume {
        /// Where to read from.
        cursor: Cursor,
        /// How sure "nothing" has to be.
        wanted: Freshness,
        /// How far behind the head the cursor may be.
        budget: Option<u64>,
        /// When the last update that the cursor covers was published, if the subscriber says: another update in its
        /// place makes the cursor stale.
        published_at: Option<Timestamp>,
    },
    /// Which documents are there? The first page may be put off.
    Snapshot(SnapshotFrom),
}

/// The answer to a [`Question`] of the same name; that to `Resume` is `Read`.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a follower handles every answer")]
pub enum Answer {
    /// Whether the subject may read it.
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
