//! The sweeper's lease: taken before a sweep, renewed while it goes on, and lost where that cannot be done in time.
//!
//! # Invariants
//! - One sweep at a time in this process.
//! - A sweep ends when another node may sweep.

use std::{
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::sweeps::{Lease, Sweeps};
use crate::{
    clock::{Clock, Moment, within},
    error::{Error, ErrorKind},
    node::NodeId,
    update::Timestamp,
};

/// No lease is taken for longer than this at once, unless this node's own are.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// The lease of one node.
#[derive(Debug)]
pub(super) struct SweeperLease {
    node: NodeId,
    sweeps: Arc<dyn Sweeps>,
    clock: Arc<dyn Clock>,
    duration: Duration,
    /// Until when this node has the lease, while a sweep of its own is under way.
    until: Mutex<Option<Timestamp>>,
}

/// The turn to sweep, of one sweep in this process, however it ends.
pub(super) struct Turn<'a>(&'a SweeperLease);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

impl SweeperLease {
    pub(super) fn new(
        node: NodeId,
        sweeps: Arc<dyn Sweeps>,
        clock: Arc<dyn Clock>,
        duration: Duration,
    ) -> Self {
        Self { node, sweeps, clock, duration, until: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn node(&self) -> &NodeId {
        &self.node
    }

    pub(super) fn duration(&self) -> Duration {
        self.duration
    }

    /// Until when this node has the lease, while a sweep of its own is under way.
    pub(super) fn until(&self) -> Option<Timestamp> {
        *self.lock()
    }

    /// The turn to sweep. While a sweep is under way, the moment until which that sweep has the lease.
    pub(super) fn turn(&self, until: Timestamp) -> Result<Turn<'_>, Timestamp> {
        let mut held = self.lock();
        match *held {
            Some(until) => Err(until),
            None => {
                *held = Some(until);
                Ok(Turn(self))
            }
        }
    }

    /// Takes the lease. One that lasts longer than any does was taken by a clock that was ahead, and is over.
    pub(super) async fn take(&self, now: Timestamp, until: Timestamp) -> Result<Lease, Error> {
        let Self { node, sweeps, .. } = self;
        match sweeps.try_acquire(node, now, until).await? {
            Lease::HeldBy { until: theirs, .. } if theirs > now.plus(LONGEST.max(2 * self.duration)) => {
                tracing::warn!("a lease of the sweeper lasts longer than any does: it is taken over");
                sweeps.try_acquire(node, theirs, until).await
            }
            lease => Ok(lease),
        }
    }

    /// Renews the lease for as long as it can; ready, with the reason, when it is lost.
    ///
    /// Whether it holds is judged here by how much time has passed since it was asked for, so that a step of this node's
    /// wall clock neither ends nor lengthens it. What the store has is a date, for the clocks of others: whichever of them is
    /// ahead takes a lease sooner, which costs a second sweep and nothing else.
    pub(super) async fn keep(&self, mut until: Moment) -> Error {
        let Self { node, sweeps, duration, .. } = self;
        let lost = |why: &dyn Display| {
            Error::new(ErrorKind::Unavailable, "sweep", format!("the lease was lost: {why}"))
        };
        let third = (*duration / 3).max(Duration::from_millis(1));
        loop {
            self.clock.sleep(third).await;
            let now = self.clock.read();
            let date = now.wall.plus(*duration);
            let Some(led) = within(&*self.clock, third, sweeps.try_acquire(node, now.wall, date)).await
            else {
                return lost(&"it could not be renewed in time");
            };
            match led {
                Ok(Lease::Held) => {
                    until = now.steady.plus(*duration);
                    *self.lock() = Some(date);
                }
                Ok(Lease::HeldBy { node, .. }) => return lost(&format!("{node} has it")),
                // It still holds; the next third may do better.
                Err(error) if self.clock.moment().plus(third) < until => {
                    tracing::debug!(%error, "the lease was not renewed")
                }
                Err(error) => return lost(&error),
            }
        }
    }

    /// Gives the lease up.
    pub(super) async fn give_up(&self, now: Timestamp) {
        // Until long ago, by whatever clock another node goes.
        if let Err(error) = self.sweeps.try_acquire(&self.node, now, Timestamp::default()).await {
            tracing::debug!(%error, "the lease of a sweep was not given up; it ends by itself");
        }
    }
}
