//! A socket that was accepted, with the time that its client has: to send the head of a request once it has begun one, to rest
//! between two requests, and to take some of an answer.
//!
//! A WebSocket is taken out of it, and judged by its session instead, which says why it ends it.
//!
//! # Invariants
//! - A client that takes nothing of an answer, does not finish the head of a request, or asks for nothing, is given up in time.
//! - A socket that was not taken out is handed back when hyper is done with it, so that it can be closed without losing what is
//!   under way.
//! - Between requests whose heads come at once, the timer is set anew once a part at most.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
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

/// How many requests of a connection have begun and how many were answered, in all; its clones share that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<AtomicU32>);

impl Requests {
    /// The head of a request is there.
    pub(crate) fn begun(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer has been handed over to hyper. The client may still have to take it.
    pub(crate) fn answered(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn moment(&self) -> Between {
        Between(self.0.load(Ordering::Relaxed))
    }
}

/// What a connection is between: a request and its answer, or an answer and the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Between(u32);

impl Between {
    fn is_request_under_way(self) -> bool {
        self.0 % 2 == 1
    }
}

/// What a client is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The rest of a head.
    Head,
    /// A request.
    Request,
}

/// How long the client of a connection may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientTimes {
    /// For the head of a request, from its first byte; on a new connection from its start.
    pub(crate) head: Duration,
    /// Between two requests: so long at least, and a quarter longer at most.
    pub(crate) rest: Duration,
    /// Until it takes some of an answer.
    pub(crate) stall: Duration,
}

#[derive(Debug)]
pub(crate) struct Accepted {
    /// Until it is taken out or handed back.
    stream: Option<TcpStream>,
    times: ClientTimes,
    requests: Requests,
    /// Set while the client takes nothing.
    patience: Option<Pin<Box<InParts>>>,
    /// Where some of a head was read or, at the start, is expected. A socket knows no requests: what comes of a body after its refusal
    /// counts as a head, and half a head that came with the request before it does not.
    head_at: Between,
    awaited: Awaited,
    /// How long `awaited` is waited for, since `waits_at` or the part in which that was.
    wait: InParts,
    waits_at: Between,
    /// Whether some of an answer was written, or was to be, since the wait was looked at.
    wrote: bool,
    back: Option<oneshot::Sender<TcpStream>>,
}

impl Accepted {
    /// The socket is handed to `back` when this is dropped.
    pub(crate) fn new(
        stream: TcpStream,
        times: ClientTimes,
        requests: Requests,
        back: oneshot::Sender<TcpStream>,
    ) -> Self {
        let start = requests.moment();
        Self {
            stream: Some(stream),
            times,
            requests,
            patience: None,
            head_at: start,
            awaited: Awaited::Head,
            wait: InParts::new(times.head),
            waits_at: start,
            wrote: false,
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
        self.wrote = true;
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(InParts::new(self.times.stall)));
        patience.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ready once a client that has sent nothing has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.requests.moment();
        let awaited = if self.head_at == now { Awaited::Head } else { Awaited::Request };
        // Each head has its own time, and the time between two requests goes on where it was.
        if awaited != self.awaited || (awaited == Awaited::Head && now != self.waits_at) {
            (self.awaited, self.waits_at, self.wrote) = (awaited, now, false);
            self.wait.restart(match awaited {
                Awaited::Head => self.times.head,
                Awaited::Request => self.times.rest,
            });
        }
        loop {
            let left = ready!(self.wait.poll_part(cx));
            // hyper lets go of an answer before its client has taken it: that is judged by `patience` alone.
            let answers = std::mem::take(&mut self.wrote) || self.patience.is_some();
            if answers || now.is_request_under_way() || now != self.waits_at {
                self.waits_at = now;
                self.wait.extend();
            } else if left == 0 {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Poll::Ready(read) = self.io().poll_read(cx, buffer) else {
            return self.poll_late(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        };
        let now = self.requests.moment();
        if !now.is_request_under_way() && buffer.filled().len() > before {
            self.head_at = now;
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
