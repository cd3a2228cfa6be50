//! What an answer leads to. Values only.

use std::{sync::Arc, time::Duration};

use crate::{
    admission::Limited,
    clock::Now,
    error::Error,
    position::{Cursor, Stale, Watermark},
    snapshots::SharedSnapshotPage,
    stats::Stats,
    tail::SharedPage,
};

/// What a follower has to know of the one who drives it.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) stats: &'a Arc<Stats>,
    /// Who follows.
    pub(crate) subject: &'a str,
    /// How long to wait before what could not be read is read again.
    pub(crate) retry_after: Duration,
    /// The longest wait.
    pub(crate) poll_interval: Duration,
    pub(crate) now: Now,
}

/// What an answer leads to: the subscriber is told where it starts, then something is delivered, then comes `next`.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) opened: Option<Opened>,
    pub(crate) delivery: Option<Delivery>,
    /// A snapshot takes the place of a log that could not be continued.
    pub(crate) fell_back: bool,
    pub(crate) next: Next,
}

impl Step {
    pub(super) fn next(next: Next) -> Self {
        Self { opened: None, delivery: None, fell_back: false, next }
    }
}

/// Where a subscriber starts.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The cursor: all that is delivered comes after it, or is the snapshot of it.
    pub(crate) at: Cursor,
    /// The head of that moment, where the replay ends.
    pub(crate) head: Watermark,
    pub(crate) floor: Watermark,
    /// Why it starts with a snapshot that was not asked for.
    pub(crate) stale: Option<Box<Stale>>,
}

/// What is handed to the subscriber.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// The updates that follow; `complete` once the replay has ended.
    Updates { page: Arc<SharedPage>, complete: bool },
    /// Some documents; with the `first` ones a snapshot starts, and `stale` says why, if it was not asked for.
    Documents { page: Arc<SharedSnapshotPage>, first: bool, stale: Option<Box<Stale>> },
}

/// What the driver does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Asks the next question.
    Ask,
    /// Asks nothing until a head is announced or it is time to poll.
    Rest,
    /// Asks again after that long, or when a head is announced.
    Wait(Duration),
    /// It was put off. It asks again when there is room, or is refused where it is not opened yet.
    Deferred(Limited),
    /// A read failed. Where it goes on, it waits that long.
    Failed { error: Error, wait: Duration },
    /// The log cannot be continued. This is the end.
    Stale(Stale),
}
