//! The questions of a session that are being answered, and the answers that it was not told yet.

use futures::{future::BoxFuture, stream::FuturesUnordered};

use crate::{
    auth::{Denied, Grant},
    error::Error,
    fanout::Watch,
    follower::Answer,
    session::ChannelId,
    snapshots::SharedSnapshot,
    tail::FollowResult,
    topic::Topic,
};

/// What the session is told.
#[derive(Debug)]
pub(super) enum Told {
    Answer(ChannelId, Result<Answer, Error>),
    Verified(Result<Grant, Denied>),
    /// None if the fanout did not answer in time.
    Watched(ChannelId, Topic, Option<Result<Watch, Error>>),
}

/// The questions that are under way. They are driven on while a write waits, so that a client that takes nothing
/// cannot make a store wait for it.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) asked: FuturesUnordered<BoxFuture<'static, Told>>,
    /// Answered during a write; at most as many as a session asks at once.
    pub(super) answered: Vec<Told>,
}

impl Questions {
    /// What the pages that were answered during a write take in memory, roughly.
    pub(super) fn answered_bytes(&self) -> u64 {
        let bytes = |told: &Told| match told {
            Told::Answer(_, Ok(Answer::Read(FollowResult::Page { page, .. }))) => page.bytes(),
            Told::Answer(_, Ok(Answer::Snapshot(SharedSnapshot::Page(page)))) => page.bytes(),
            _ => 0,
        };
        self.answered.iter().map(bytes).sum::<usize>() as u64
    }
}
