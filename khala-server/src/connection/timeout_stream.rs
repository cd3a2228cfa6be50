//! A socket that was accepted, with the time that its client has: to send the head of a request once it has begun one, and
//! to take some of an answer.
//!
//! How long a connection may rest between two requests is hyper's to judge, which knows of requests and not of bytes.
//! A WebSocket is taken out of it, and judged by its session instead, which says why it ends it.
//!
//! # Invariants
//! A client that takes nothing of an answer, or does not finish the head of a request, is given up in time. A socket that
//! was not taken out is handed back when hyper is done with it, so that it can be closed without losing what is under way.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};

use crate::timeouts::InParts;

/// How long a closed connection is still read from.
const LINGER: Duration = Duration::from_millis(500);
/// How many bytes are read from it.
const LINGER_BYTES: usize = 64 << 10;

/// Whether a connection is between two requests; its clones share that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<AtomicBool>);

impl Requests {
    /// The head of a request is there.
    pub(crate) fn begun(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Its answer has been handed over.
    pub(crate) fn answered(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn under_way(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct Accepted {
    /// Until it is taken out or handed back.
    stream: Option<TcpStream>,
    stall_timeout: Duration,
    head_timeout: Duration,
    requests: Requests,
    /// Set while the client takes nothing.
    patience: Option<Pin<Box<InParts>>>,
    /// Set while a head is expected: from the start, and from the first byte of each other one.
    head: Option<Pin<Box<InParts>>>,
    back: Option<oneshot::Sender<TcpStream>>,
}

impl Accepted {
    /// The socket is handed to `back` when this is dropped.
    pub(crate) fn new(
        stream: TcpStream,
        head_timeout: Duration,
        stall_timeout: Duration,
        requests: Requests,
        back: oneshot::Sender<TcpStream>,
    ) -> Self {
        Self {
            stream: Some(stream),
            stall_timeout,
            head_timeout,
            requests,
            patience: None,
            head: Some(Box::pin(InParts::new(head_timeout))),
            back: Some(back),
        }
    }

    /// The socket alone, for callers that have other ways to judge its client.
    pub(crate) fn into_stream(mut self) -> TcpStream {
        self.stream.take().expect("it is there until now")
    }

    fn io(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("it is there until it is taken out or dropped"))
    }

    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(InParts::new(self.stall_timeout)));
        patience.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.requests.under_way() {
            self.head = None;
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = self.io().poll_read(cx, buffer) else {
            if let Some(head) = &mut self.head {
                ready!(head.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        };
        if self.head.is_none() && !self.requests.under_way() && buffer.filled().len() > before {
            self.head = Some(Box::pin(InParts::new(self.head_timeout)));
        }
        Poll::Ready(read)
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some((stream, back)) = self.stream.take().zip(self.back.take()) {
            // Nobody waits for it where the connection was given up.
            let _ = back.send(stream);
        }
    }
}

/// Reads a closed connection on for a moment: what its client has sent meanwhile would make the network reset it, and that
/// may take the last answer away, or make a request that met the close look like one that was begun.
pub(crate) async fn linger(mut stream: TcpStream) {
    let rest = async {
        let (mut buffer, mut left) = ([0; 1_024], LINGER_BYTES);
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
    };
    // However it ends, it is over.
    let _ = timeout(LINGER, rest).await;
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.io().poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.io().poll_write_vectored(cx, slices);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
