//! The body of an answer: whole from the start, or handed over piece by piece.
//!
//! # Invariants
//! What a request holds is given back when the last byte of its answer is dropped, and not before: hyper drops a body as
//! soon as its bytes are in a queue, where they stay until the client takes them.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use khala_core::{
    admission::Admitted,
    budget::{MemoryBudget, MemoryPart, MemoryShare},
};
use tokio::sync::mpsc;

use crate::{body::no_memory, problem::Problem};

/// What [`Server::handle`](crate::Server::handle) answers with: an [`http_body`](hyper::body::Body) that never fails.
///
/// Nearly all are whole. The answer to a stream of updates comes while the request still does; dropping it ends the
/// stream.
#[derive(Debug)]
pub struct ResponseBody(Inner, Option<Arc<Holds>>);

/// What a request holds until its answer is taken, or its client is gone.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    pub(crate) memory: Option<MemoryShare>,
    pub(crate) of_address: Option<Admitted>,
    pub(crate) of_subject: Option<Admitted>,
}

impl Holds {
    /// Takes memory for an answer of about `bytes`, if there is room.
    pub(crate) fn take_memory(&mut self, memory: &MemoryBudget, bytes: u64) -> Result<(), Problem> {
        let mut share = memory.share(MemoryPart::Answers);
        share.grow(bytes).map_err(|_| no_memory(MemoryPart::Answers))?;
        self.memory = Some(share);
        Ok(())
    }
}

/// Bytes of an answer, and what its request holds until they are taken.
struct Held {
    bytes: Bytes,
    _holds: Arc<Holds>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[derive(Debug)]
enum Inner {
    Pieces(mpsc::Receiver<Bytes>),
    Whole(Full<Bytes>),
}

impl ResponseBody {
    pub(crate) fn pieces(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self(Inner::Pieces(pieces), None)
    }
}

impl From<Full<Bytes>> for ResponseBody {
    fn from(body: Full<Bytes>) -> Self {
        Self(Inner::Whole(body), None)
    }
}

impl ResponseBody {
    pub(crate) fn with(mut self, holds: Arc<Holds>) -> Self {
        self.1 = Some(holds);
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self(inner, holds) = self.get_mut();
        let frame = match inner {
            Inner::Pieces(pieces) => {
                pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
            }
            Inner::Whole(body) => Pin::new(body).poll_frame(cx),
        };
        let Some(holds) = holds else { return frame };
        let held = |bytes| Bytes::from_owner(Held { bytes, _holds: Arc::clone(holds) });
        frame.map_ok(|frame| frame.map_data(held))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Pieces(_) => false,
            Inner::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Pieces(_) => SizeHint::default(),
            Inner::Whole(body) => body.size_hint(),
        }
    }
}
