//! What a subscriber that follows a topic asks of the tail, and what it is told.

use std::sync::Arc;

use super::page::SharedPage;
use crate::{
    clock::Moment,
    error::{Error, ErrorKind},
    position::{Bounds, Cursor, Stale},
    topic::Topic,
};

/// What a subscriber that follows a topic wants to know.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a question of exactly two parts")]
pub struct Freshness {
    /// The head that it has heard of.
    pub head: Option<Cursor>,
    /// "Nothing new" must have been true at this moment or later.
    pub not_older_than: Moment,
}

/// The answer to a subscriber that follows a topic.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum FollowResult {
    /// There is nothing after the cursor.
    CaughtUp {
        /// What the topic held.
        bounds: Bounds,
        /// When the journal last confirmed it.
        confirmed_at: Moment,
    },
    /// What follows the cursor; never empty.
    Page {
        /// The page.
        page: Arc<SharedPage>,
        /// What the topic held, as far as the tail knows: the page may be older, and there may be more.
        bounds: Bounds,
        /// When the journal last confirmed the head.
        confirmed_at: Moment,
        /// It lies behind what the tail holds: the follower reads history.
        behind: bool,
    },
    /// The cursor cannot be resumed from.
    Stale(Stale),
}

/// What the tail has in memory for a subscriber that follows a topic.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum CacheLookup {
    /// The answer.
    Hit(FollowResult),
    /// Nothing yet: it takes a read of the topic's newest updates, which all its followers share.
    MissAtHead,
    /// Nothing: it takes a read behind the tail.
    MissBehind,
}

/// The error of a question that the journal did not answer in as many looks as it gets.
pub(crate) fn inconclusive(topic: &Topic) -> Error {
    let message = format!("what the journal answers about topic {topic} does not agree");
    Error::new(ErrorKind::Unavailable, "tail", message)
}
