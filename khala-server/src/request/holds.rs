//! What a request holds until its answer is taken: its place among those of its address and its subject, and memory.
//!
//! # Invariants
//! It is given back when the last byte of the answer is dropped, and not before: hyper drops a body as soon as its bytes
//! are in a queue, where they stay until the client takes them.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use khala_core::{
    admission::Admitted,
    budget::{MemoryBudget, MemoryPart, MemoryShare},
};

use super::body::no_memory;
use crate::problem::Problem;

/// What a request holds until its answer is taken, or its client is gone.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    memory: Mutex<Option<MemoryShare>>,
    of_address: OnceLock<Admitted>,
    of_subject: OnceLock<Admitted>,
}

impl Holds {
    pub(super) fn set_address(&self, admitted: Admitted) {
        let _ = self.of_address.set(admitted);
    }

    pub(super) fn set_subject(&self, admitted: Admitted) {
        let _ = self.of_subject.set(admitted);
    }

    /// Takes memory for an answer of about `bytes`, if there is room.
    pub(crate) fn take_memory(&self, memory: &MemoryBudget, bytes: u64) -> Result<(), Problem> {
        let mut share = memory.share(MemoryPart::Answers);
        share.grow(bytes).map_err(|_| no_memory(MemoryPart::Answers))?;
        *self.memory() = Some(share);
        Ok(())
    }

    pub(crate) fn has_memory(&self) -> bool {
        self.memory().is_some()
    }

    /// Gives that memory back: a read that waits takes none from others.
    pub(crate) fn release_memory(&self) {
        *self.memory() = None;
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Option<MemoryShare>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that keeps what its request holds.
    pub(crate) fn held(self: Arc<Self>, body: Body) -> Held {
        // What was taken before was a guess.
        if let Some((memory, bytes)) = self.memory().as_mut().zip(body.size_hint().exact()) {
            memory.hold(bytes);
        }
        Held { body, holds: self }
    }
}

/// The body of an answer, and what its request holds.
#[derive(Debug)]
pub(crate) struct Held {
    body: Body,
    holds: Arc<Holds>,
}

/// Bytes of an answer, and what its request holds until they are taken.
struct HeldBytes {
    bytes: Bytes,
    _holds: Arc<Holds>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, holds } = self.get_mut();
        let held = |bytes| Bytes::from_owner(HeldBytes { bytes, _holds: Arc::clone(holds) });
        Pin::new(body).poll_frame(cx).map_ok(|frame| frame.map_data(held))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
