//! A whole server: accepts, serves, and stops in the order that costs clients least.
//!
//! # Invariants
//! No client can hold memory for longer than the limits say by sending half of something, and no fault of one connection, nor a
//! lack of file descriptors, ends the loop.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt as _;
use http::Request;
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Server,
    client_address::is_trusted,
    connection::{Accepted, ClientTimes, ConnectionPermit, Requests, linger},
};

/// Bytes of the head of a request.
const HEAD_BYTES: usize = 64 << 10;
/// How long to wait when the system has no file descriptor to give.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How long requests under way may take after the last WebSocket was closed.
const GRACE: Duration = Duration::from_secs(5);

/// Serves `server` on `listener` until `shutdown` is ready, and then stops gracefully: turns readiness off, has every
/// WebSocket told and closed within the unready and the drain time, stops to accept, lets requests under way finish, and
/// returns.
///
/// Until the last WebSocket is closed it goes on accepting and answering: a health check that connects anew is told that
/// the server is not ready, and publishers notice nothing.
///
/// Dropping the future stops at once and closes what it can without a word.
pub async fn serve(listener: TcpListener, server: Server, shutdown: impl Future<Output = ()> + Send) {
    let (stop, stopped) = watch::channel(());
    let mut serving = Serving { listener, server: server.clone(), stopped, connections: JoinSet::new() };
    server.shared.run_background();
    serving.until(shutdown).await;
    serving.until(server.shut_down()).await;
    let Serving { listener, mut connections, .. } = serving;
    drop((listener, stop));
    let finished = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, finished).await.is_err() {
        tracing::warn!("some requests were still under way at the end");
    }
}

/// A server that accepts.
struct Serving {
    listener: TcpListener,
    server: Server,
    stopped: watch::Receiver<()>,
    connections: JoinSet<()>,
}

impl Serving {
    /// Accepts and serves until `end` is ready. What was accepted is served on.
    async fn until<T>(&mut self, end: impl Future<Output = T> + Send) -> T {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                ended = &mut end => return ended,
                Some(_) = self.connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        let (server, stopped) = (self.server.clone(), self.stopped.clone());
                        // One that is not taken is closed here.
                        if let Some(permit) = server.take(address) {
                            self.connections.spawn(connection(stream, address, permit, server, stopped));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    permit: ConnectionPermit,
    server: Server,
    mut stopped: watch::Receiver<()>,
) {
    // Updates are small and wanted now.
    let _ = stream.set_nodelay(true);
    let limits = server.shared.0.limits;
    if let Some(bytes) = limits.send_buffer_bytes
        && let Err(error) = SockRef::from(&stream).set_send_buffer_size(bytes)
    {
        tracing::debug!(peer = %address, %error, "the system buffers as much as it likes");
    }
    let (requests, (back, handed_back)) = (Requests::default(), oneshot::channel());
    let refusal = permit.refusal();
    let times = ClientTimes {
        head: permit.head_timeout(&limits),
        rest: limits.keep_alive_timeout,
        stall: limits.stall_timeout,
    };
    let stream = Accepted::new(stream, times, requests.clone(), back);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let requests = requests.clone();
        requests.begun();
        request.extensions_mut().insert(address);
        if let Some(refusal) = refusal {
            request.extensions_mut().insert(refusal);
        }
        server
            .handle(request)
            .map(|answer| Ok::<_, Infallible>(answer.map(|body| Counted { body, requests })))
    });
    {
        let connection = http1::Builder::new()
            // The socket judges it.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES)
            .keep_alive(refusal.is_none())
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            _ = stopped.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        if let Err(error) = served {
            tracing::debug!(peer = %address, %error, "a connection broke");
        }
    }
    if let Ok(stream) = handed_back.await {
        linger(stream).await;
    }
}

impl Server {
    /// Takes a connection, to serve it or to refuse what it asks for; none if it is to be closed.
    fn take(&self, peer: SocketAddr) -> Option<ConnectionPermit> {
        let proxy = is_trusted(&self.shared.0.trusted_proxies, peer.ip());
        self.shared.0.connection_limits.take(peer, proxy, self.shared.0.khala.moment())
    }
}

/// The body of an answer, which says when it is over.
struct Counted {
    body: Body,
    requests: Requests,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.requests.answered();
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
