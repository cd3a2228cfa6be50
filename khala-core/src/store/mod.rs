//! The store: every role that a [`Khala`](crate::Khala) stands on, as one argument.
//!
//! # Invariants
//! No role can be forgotten: [`Store`] has no default method, and a [`Roles`] has no field that may be left out.

pub mod group_commit;
pub mod page;
pub mod rows;
pub mod trim;

use std::sync::Arc;

use crate::{
    auth::Revocations, documents::Documents, fanout::Fanout, journal::Journal, projection::Checkpoints,
    retention::Sweeps,
};

/// A store with every role: journal, documents, checkpoints, revocations, sweeper leases, and the fanout that belongs to it.
///
/// `SqliteStore`, `PostgresStore` and [`MemoryStore`](crate::MemoryStore) are stores.
pub trait Store: Journal + Documents + Checkpoints + Revocations + Sweeps {
    /// Carries announcements between all processes that have this store open.
    fn fanout(&self) -> Arc<dyn Fanout>;
}

/// The roles of a store, each of which may be kept by something of its own.
///
/// Most applications hand a [`Store`] to [`Khala::open`](crate::Khala::open) and never see this. It is for roles that live
/// in different places:
///
/// ```
/// # use std::sync::Arc;
/// # use khala_core::{Khala, MemoryStore, Roles, auth::MemoryRevocations};
/// let roles = Roles { revocations: Arc::new(MemoryRevocations::new()), ..MemoryStore::new().into() };
/// let khala = Khala::open(roles);
/// ```
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a new role must not be forgotten by who names them all")]
pub struct Roles {
    /// The log.
    pub journal: Arc<dyn Journal>,
    /// The documents that the journal's appends write.
    pub documents: Arc<dyn Documents>,
    /// How far projections were folded.
    pub checkpoints: Arc<dyn Checkpoints>,
    /// Which grants were taken back.
    pub revocations: Arc<dyn Revocations>,
    /// Which process sweeps, and the records of sweeps.
    pub sweeps: Arc<dyn Sweeps>,
    /// Carries announcements.
    pub fanout: Arc<dyn Fanout>,
}

impl<S: Store> From<Arc<S>> for Roles {
    fn from(store: Arc<S>) -> Self {
        Self {
            fanout: store.fanout(),
            journal: Arc::<S>::clone(&store),
            documents: Arc::<S>::clone(&store),
            checkpoints: Arc::<S>::clone(&store),
            revocations: Arc::<S>::clone(&store),
            sweeps: store,
        }
    }
}

impl<S: Store> From<S> for Roles {
    fn from(store: S) -> Self {
        Arc::new(store).into()
    }
}
