//! Reads of the journal that are under way for one topic, each shared by all callers that want the same.
//!
//! Any of those who wait for a read drives it, so one who stops waiting holds nobody up.
//!
//! # Invariants
//! A read is shared only until it is done. It may have begun before somebody asked, so each says when it began, and who needs a
//! later one asks again. Reads and appends that are not shared are numbered with them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{FutureExt as _, future::BoxFuture};

use super::page::SharedPage;
use crate::{
    clock::Moment,
    error::Error,
    position::{Bounds, Cursor, Stale},
    single_flight::{Flight, SingleFlight},
};

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Bounds,
    PageAfter(Cursor),
    UpdateAfter(Cursor),
}

/// What the journal answered.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Bounds(Bounds),
    /// A read of what is new found another update than the one that was known, in a topic that holds this; `evidence` is
    /// that of a journal which went back, as it was when this read began.
    Other {
        bounds: Bounds,
        evidence: u64,
    },
    /// Pages, one right after the other, of one moment; at least one.
    Pages(Arc<[Arc<SharedPage>]>),
    Stale(Stale),
}

/// A read that is done.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) found: Found,
    /// Which read of this topic it was: those that began later have higher numbers.
    pub(super) number: u64,
    /// The time of the one who began it.
    pub(super) began_at: Moment,
}

/// A read that everybody who has it may drive.
pub(super) type SharedRead = Flight<Result<Done, Error>>;

#[derive(Debug, Default)]
pub(super) struct Reads {
    /// How many have begun, of those that are shared and those that are not.
    begun: AtomicU64,
    under_way: SingleFlight<Target, Result<Done, Error>>,
}

impl Reads {
    /// How many have begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// The number of one that begins now.
    pub(super) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The read of `target` that is under way, or the one that `begin` begins `now`.
    pub(super) fn share(
        &self,
        target: Target,
        now: Moment,
        begin: impl FnOnce() -> BoxFuture<'static, Result<Found, Error>>,
    ) -> SharedRead {
        self.under_way.share(target, || {
            let (number, read) = (self.begin(), begin());
            let done =
                move |found: Result<Found, Error>| found.map(|found| Done { found, number, began_at: now });
            read.map(done).boxed()
        })
    }
}
