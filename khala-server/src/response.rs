//! The body of an answer: whole from the start, or handed over piece by piece.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use khala_core::{Admitted, MemoryBudget, MemoryPart, MemoryShare};
use tokio::sync::mpsc;

use crate::{body::no_memory, problem::Problem};

/// What [`Server::handle`](crate::Server::handle) answers with: an [`http_body`](hyper::body::Body) that never fails.
///
/// Nearly all are whole. The answer to a stream of updates comes while the request still does; dropping it ends the
/// stream.
#[derive(Debug)]
pub struct ResponseBody(Inner, Option<Box<Holds>>);

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
    pub(crate) fn with(mut self, holds: Holds) -> Self {
        self.1 = Some(Box::new(holds));
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
        match &mut self.get_mut().0 {
            Inner::Pieces(pieces) => {
                pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
            }
            Inner::Whole(body) => Pin::new(body).poll_frame(cx),
        }
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
