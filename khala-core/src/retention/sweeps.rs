//! The sweeper lease of a shared journal, and the newest records of sweeps.
//!
//! The lease saves work and nothing else: trimming twice has the same effect as trimming once, so nodes whose clocks disagree by
//! more than a lease lasts cost time and no update.
//!
//! # Invariants
//! Two nodes whose clocks agree never hold the lease at once.

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::record::SweepRecord;
use crate::{error::Error, node::NodeId, update::Timestamp};

/// How many records of sweeps are kept.
pub const SWEEPS_KEPT: usize = 1_000;

/// Who holds the sweeper lease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle both")]
pub enum Lease {
    /// The node that asked holds it.
    Held,
    /// Another node holds it.
    HeldBy {
        /// Which.
        node: NodeId,
        /// Until when, unless it renews.
        until: Timestamp,
    },
}

/// Keeps who sweeps, and the records of sweeps.
///
/// The laws, each a test of the same name in [`conformance`](crate::conformance):
/// S1 one node leads at a time · S2 a lead that has ended can be taken, and one that has not cannot · S3 who leads
/// renews it, and gives it up, by asking again · S4 records come newest first, the newest [`SWEEPS_KEPT`] are kept,
/// and no others · S5 the records survive reopening, and the lead does or ends with its node, as the store says.
#[async_trait]
pub trait Sweeps: fmt::Debug + Send + Sync + 'static {
    /// Gives `node` the lease until `until`, unless another node holds it at `now`: a lease has ended at its `until` itself.
    ///
    /// A node that holds it already gets its end moved, forward or back; with `now` as the end it gives the lease up.
    ///
    /// # Cancellation
    /// A dropped future may have taken it or not.
    ///
    /// # Errors
    /// An [`Error`] when it is not known which node holds it.
    async fn try_acquire(&self, node: &NodeId, now: Timestamp, until: Timestamp) -> Result<Lease, Error>;

    /// Stores the record of a run, and forgets the oldest past those that are kept.
    ///
    /// A dropped future may have stored it or not.
    ///
    /// # Errors
    /// An [`Error`] when it is not stored, or when that is not known.
    async fn record(&self, record: &SweepRecord) -> Result<(), Error>;

    /// The records, newest first, at most `limit`.
    ///
    /// # Errors
    /// An [`Error`] when they cannot be read now.
    async fn records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error>;
}

/// Lease and records in memory, forgotten with the process: for tests, and for a journal that one process has.
#[derive(Debug, Default)]
pub struct MemorySweeps(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    lead: Option<(NodeId, Timestamp)>,
    /// Oldest first.
    records: VecDeque<SweepRecord>,
}

impl MemorySweeps {
    /// Nobody leads, and nothing is recorded.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Sweeps for MemorySweeps {
    async fn try_acquire(&self, node: &NodeId, now: Timestamp, until: Timestamp) -> Result<Lease, Error> {
        let mut state = self.lock();
        match &state.lead {
            Some((other, ends)) if other != node && *ends > now => {
                Ok(Lease::HeldBy { node: other.clone(), until: *ends })
            }
            _ => {
                state.lead = Some((node.clone(), until));
                Ok(Lease::Held)
            }
        }
    }

    async fn record(&self, record: &SweepRecord) -> Result<(), Error> {
        let mut state = self.lock();
        state.records.push_back(record.clone());
        if state.records.len() > SWEEPS_KEPT {
            state.records.pop_front();
        }
        Ok(())
    }

    async fn records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error> {
        Ok(self.lock().records.iter().rev().take(limit.get()).cloned().collect())
    }
}
