//! What a store under test must offer: fresh ones, their roles, and what it declares that it can do.

use std::{any::Any, fmt, future::Future, sync::Arc};

use crate::{
    auth::Revocations, documents::Documents, journal::Journal, projection::Checkpoints, retention::Sweeps,
};

/// A store under test.
///
/// Every law gets a [`fresh`](Self::fresh) one, on a multi-threaded runtime of its own. A store that decorates
/// another can be tested by a harness that wraps the other's.
pub trait Harness: Sized + Send + Sync + 'static {
    /// What the store can do beyond the laws that hold for all.
    const CAPABILITIES: Capabilities;

    /// A new, empty store, which nothing else uses.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// Its journal.
    fn journal(&self) -> Arc<dyn Journal>;

    /// Its documents, which are those that the journal's appends write.
    fn documents(&self) -> Arc<dyn Documents>;

    /// Closes the store, so that any process may open it, and says where it is.
    ///
    /// Nobody holds its journal or documents any more.
    fn close(self) -> impl Future<Output = Place> + Send;

    /// Opens the store that was closed, or whose process was killed, at `place`.
    ///
    /// Called in another process too, with a place that has the same text and keeps nothing; never there
    /// unless the store survives being killed.
    fn open(place: Place) -> impl Future<Output = Self> + Send;
}

/// A store under test that keeps revocations too.
pub trait RevocationsHarness: Harness {
    /// Its revocations. Nobody holds them any more when it is closed.
    fn revocations(&self) -> Arc<dyn Revocations>;
}

/// A store under test that keeps who sweeps, too.
pub trait SweepsHarness: Harness {
    /// Its sweeps. Nobody holds them any more when it is closed.
    fn sweeps(&self) -> Arc<dyn Sweeps>;
}

/// A store under test that keeps checkpoints, too.
pub trait CheckpointsHarness: Harness {
    /// Its checkpoints, whose advances append to its journal. Nobody holds them any more when it is closed.
    fn checkpoints(&self) -> Arc<dyn Checkpoints>;
}

/// What a store can do. What it cannot is printed by the tests that it affects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct Capabilities {
    /// Whether what it holds is there again after [`Harness::close`] and [`Harness::open`].
    pub survives_reopening: bool,
    /// Whether what it acknowledged is there after its process was killed with SIGKILL.
    pub survives_kill: bool,
    /// Whether a lead of sweeps ends with the process that has it, so that another need not wait for its time.
    pub lease_ends_with_its_node: bool,
    /// Whether topics that have nothing to lose can be put off ([`Journal::settle`]).
    pub puts_topics_off: bool,
}

impl Capabilities {
    /// A store that forgets everything when it is closed.
    pub const fn volatile() -> Self {
        Self {
            survives_reopening: false,
            survives_kill: false,
            lease_ends_with_its_node: true,
            puts_topics_off: true,
        }
    }

    /// A store that holds what it acknowledged, whatever happens to its process.
    pub const fn durable() -> Self {
        Self {
            survives_reopening: true,
            survives_kill: true,
            lease_ends_with_its_node: false,
            puts_topics_off: true,
        }
    }
}

/// Where a closed store is: a text that any process can open it by, such as a path or an address.
#[derive(Clone)]
pub struct Place {
    text: String,
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl Place {
    /// The place that `text` names.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), kept: None }
    }

    /// Keeps `guard` for as long as anybody holds this place, such as the temporary directory that it is in.
    #[must_use]
    pub fn keeping(mut self, guard: impl Any + Send + Sync) -> Self {
        self.kept = Some(Arc::new(guard));
        self
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it keeps, if that is a `T`.
    pub fn kept<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.kept.clone()?.downcast().ok()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.text).finish()
    }
}
