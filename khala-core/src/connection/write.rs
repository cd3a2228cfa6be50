//! How long a write may take: as long as the client takes something now and then, and its grant holds.
//!
//! While it waits, what is held for the client is counted, and the questions that are under way are driven on.
//!
//! # Invariants
//! A client that makes progress is never given up, and one that makes none is, by its limit.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::Fuse, select_biased};

use super::{questions::Questions, transport::Progress};
use crate::{
    access::AccessControl,
    auth::{Denied, Grant},
    clock::Clock,
    registry::{ConnectionEntry, ConnectionGuard},
    stats::Stats,
    wake::WakeReasons,
    wire::Close,
};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "it ends from either side")]
pub enum Ended {
    /// The server closed it.
    Closed(Close),
    /// The client left, or the network failed.
    Gone,
}

/// How often a connection that takes nothing is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a connection may take nothing while all connections together hold too much: longer than a busy machine keeps a
/// client waiting that reads.
const STALL_LIMIT_UNDER_PRESSURE: Duration = Duration::from_secs(5);

/// What was handed to the transport and not taken by the network yet, in bytes.
///
/// It is counted in the figures while a write waits, and only then: nearly every write is done at once.
#[derive(Debug)]
pub(super) struct Outbox {
    stats: Arc<Stats>,
    entry: Arc<ConnectionEntry>,
    /// What was handed over since the transport was last empty, and what the network had taken then.
    fed: u64,
    taken: u64,
    counted: u64,
}

impl Outbox {
    pub(super) fn new(stats: Arc<Stats>, entry: Arc<ConnectionEntry>) -> Self {
        Self { stats, entry, fed: 0, taken: 0, counted: 0 }
    }

    pub(super) fn fed(&mut self, bytes: usize) {
        self.fed += bytes as u64;
    }

    pub(super) fn emptied(&mut self, progress: &Progress) {
        (self.fed, self.taken) = (0, progress.bytes());
    }

    /// Counts what is held now, the pages that were answered meanwhile too; says how much all connections hold.
    fn count(&mut self, progress: &Progress, questions: &Questions) -> u64 {
        let held = self.fed.saturating_sub(progress.bytes() - self.taken);
        self.set(held + questions.answered_bytes())
    }

    /// What was counted last.
    pub(super) fn held(&self) -> u64 {
        self.counted
    }

    /// What all connections hold.
    pub(super) fn held_by_all(&self) -> u64 {
        self.stats.connections_hold(0)
    }

    fn set(&mut self, held: u64) -> u64 {
        let change = held.cast_signed() - self.counted.cast_signed();
        self.counted = held;
        self.entry.set_held_bytes(held);
        self.stats.connections_hold(change)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The grant that a connection serves under, and what says that it has ended.
#[derive(Clone, Copy)]
pub(super) struct GrantWatch<'a> {
    pub(super) grant: &'a Grant,
    pub(super) guard: &'a ConnectionGuard,
    pub(super) access: &'a AccessControl,
}

impl GrantWatch<'_> {
    /// The close that the grant's end asks for, if it was taken back.
    pub(super) fn close(&self) -> Option<Close> {
        match self.access.check_revoked_here(self.grant) {
            Ok(()) => None,
            Err(Denied::UnknownKid) => Some(Close::KeyWithdrawn),
            Err(_) => Some(Close::TokenRevoked),
        }
    }
}

/// How long a write may take: as long as the client takes something now and then, and its grant holds.
pub(super) struct WriteDeadline {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) progress: Progress,
    /// Bytes that all connections may hold before those that make no progress are given up sooner.
    pub(super) outbox_bytes: Option<u64>,
}

impl WriteDeadline {
    /// Waits for a write that was not done at once. The client may take nothing for `limit`.
    pub(super) async fn wait_for_write<E>(
        &self,
        mut write: Pin<&mut Fuse<impl Future<Output = Result<(), E>> + Send>>,
        limit: Duration,
        watch: GrantWatch<'_>,
        questions: &mut Questions,
        outbox: &mut Outbox,
    ) -> Result<(), Ended> {
        let mut stalled = Duration::ZERO;
        let mut before = self.progress.bytes();
        loop {
            let held = outbox.count(&self.progress, questions);
            let pressed = self.outbox_bytes.is_some_and(|most| held > most) || outbox.stats.has_no_memory();
            let limit = if pressed { limit.min(STALL_LIMIT_UNDER_PRESSURE) } else { limit };
            if stalled >= limit {
                return Err(Ended::Closed(Close::SlowConsumer));
            }
            // Two looks at least: at the first one after a pause nothing may have been taken yet.
            let slice = LOOK_EVERY.min(limit / 2).min(limit - stalled).max(Duration::from_millis(1));
            watch.guard.entry().set_stalled_for(stalled);
            match self.wait(write.as_mut(), slice, watch, questions).await {
                Ok(Some(written)) => {
                    watch.guard.entry().set_stalled_for(Duration::ZERO);
                    outbox.set(0);
                    return written.map_err(|_| Ended::Gone);
                }
                Ok(None) if self.progress.bytes() == before => stalled += slice,
                Ok(None) => (stalled, before) = (Duration::ZERO, self.progress.bytes()),
                Err(close) => return Err(Ended::Closed(close)),
            }
        }
    }

    /// Waits for `work` as long as the grant stands; gives none if it is not done within `limit`, of which a pause uses up a
    /// second at most.
    pub(super) async fn wait<T>(
        &self,
        mut work: Pin<&mut Fuse<impl Future<Output = T> + Send>>,
        limit: Duration,
        watch: GrantWatch<'_>,
        questions: &mut Questions,
    ) -> Result<Option<T>, Close> {
        let mut left = limit;
        loop {
            let part = LOOK_EVERY.min(left).min(watch.grant.expires_at().since(self.clock.now()));
            left -= part;
            let mut sleep = self.clock.sleep(part).fuse();
            loop {
                let mut woken = pin!(watch.guard.waker().wait_for(WakeReasons::GRANT).fuse());
                // The end of the grant comes before whatever has become possible at the same moment.
                select_biased! {
                    () = woken => if let Some(close) = watch.close() {
                        return Err(close);
                    },
                    () = sleep => break,
                    done = work => return Ok(Some(done)),
                    answered = questions.asked.select_next_some() => questions.answered.push(answered),
                }
            }
            if watch.grant.expires_at() <= self.clock.now() {
                return Err(Close::TokenExpired);
            }
            if left.is_zero() {
                return Ok(work.now_or_never());
            }
        }
    }
}
