//! Reads of the journal that are under way for one topic, each shared by whoever wants the same.
//!
//! Any of those who wait for a read drives it, so one who stops waiting holds nobody up. What must stay true: a
//! read is shared only until it is done. It may have begun before somebody asked, so each says when it began, and
//! who needs a later one asks again. Reads and appends that are not shared are numbered with them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

use super::page::SharedPage;
use crate::{
    clock::Moment,
    error::Error,
    position::{Bounds, Cursor, Stale},
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

type Read = BoxFuture<'static, Result<Done, Error>>;
/// A read that whoever has it may drive.
pub(super) type SharedRead = Shared<Read>;

type UnderWay = HashMap<Target, WeakShared<Read>>;

#[derive(Debug, Default)]
pub(super) struct Reads {
    /// How many have begun, of those that are shared and those that are not.
    begun: AtomicU64,
    under_way: Mutex<UnderWay>,
}

impl Reads {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        self: &Arc<Self>,
        target: Target,
        now: Moment,
        begin: impl FnOnce() -> BoxFuture<'static, Result<Found, Error>>,
    ) -> SharedRead {
        let mut under_way = self.lock();
        if let Some(read) = under_way.get(&target).and_then(WeakShared::upgrade) {
            return read;
        }
        // Those that nobody waits for any more were given up unfinished.
        under_way.retain(|_, read| read.upgrade().is_some());
        let (number, reads, read) = (self.begin(), Arc::clone(self), begin());
        let read = async move {
            let found = read.await;
            reads.lock().remove(&target);
            found.map(|found| Done { found, number, began_at: now })
        };
        let read = read.boxed().shared();
        under_way.extend(read.downgrade().map(|read| (target, read)));
        read
    }
}
