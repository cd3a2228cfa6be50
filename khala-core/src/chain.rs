//! A chain of batches: several that a publisher sends to one topic without waiting for the answers in between.
//!
//! # Invariants
//! What is stored of a chain is a prefix of what was handed over: once a batch of it was not stored because of an error, none
//! behind it is. A conflict is an answer and no error; it breaks nothing.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::error::{Error, ErrorKind};

/// What the batches of one chain have in common. Cloning it gives another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Chain(Arc<AtomicBool>);

impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Chain {}

impl Chain {
    /// A chain of which nothing was handed over yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch of it was not stored, and so none that comes later may be.
    ///
    /// For implementers of journals: before the batches that wait behind it are looked at.
    pub fn break_off(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether a batch of it was not stored.
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The error of a batch that is not attempted because of that.
    pub fn error(backend: &'static str) -> Error {
        let why =
            "not attempted: an update that was handed over before it, to the same topic, was not stored";
        Error::new(ErrorKind::Unavailable, backend, why)
    }
}
