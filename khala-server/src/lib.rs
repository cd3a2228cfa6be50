//! Khala over HTTP and WebSocket: a service to mount in any hyper or axum application, and [`serve`] for those
//! that want a whole server.
//!
//! It is thin. Order, resuming and limits of a session are the core's; here are sockets, routes, and what is
//! answered to those who send something else. What must stay true: nothing that a client sends can stop the
//! server or touch another client, and no token reaches a log.
//!
//! ```
//! # use std::{convert::Infallible, sync::Arc};
//! # use hyper::service::service_fn;
//! # use khala_core::{JwtOptions, JwtVerifier, Khala, MemoryJournal};
//! # use khala_server::Server;
//! # async fn mount(io: hyper_util::rt::TokioIo<tokio::net::TcpStream>) -> Result<(), Box<dyn std::error::Error>> {
//! let khala = Khala::builder(Arc::new(MemoryJournal::new())).build();
//! let verifier = JwtVerifier::hs256(b"thirty-two bytes that are secret", JwtOptions::default())?;
//! let server = Server::builder(khala, Arc::new(verifier)).build();
//!
//! // In a hyper service of one's own: what is not the application's goes to Khala.
//! let service = service_fn(move |request| {
//!     let server = server.clone();
//!     async move { Ok::<_, Infallible>(server.handle(request).await) }
//! });
//! hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await?;
//! # Ok(())
//! # }
//! ```

mod accepted;
mod documents;
mod history;
mod operations;
mod outgoing;
mod problem;
mod publish;
mod query;
mod route;
mod serve;
mod service;
mod token;
mod transport;
mod upgrade;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use khala_core::{Khala, Verifier};
use tokio::sync::watch;

pub use self::serve::serve;

/// The OpenAPI 3.1 document that `/openapi.json` answers with.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// What clients may send, and how long they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a request body. Default: 8 MiB.
    pub body_bytes: usize,
    /// How long a request body may take to arrive. Default: 30 s.
    pub body_timeout: Duration,
    /// Bytes of a WebSocket message, and of each of its frames. Default: 64 KiB.
    pub frame_bytes: usize,
    /// How long [`serve`] waits for the head of a request, also of the next one on a connection that is kept
    /// alive. Default: 10 s.
    pub header_timeout: Duration,
    /// Bytes of an update's payload. Default: 256 KiB.
    pub payload_bytes: usize,
    /// How long [`serve`] lets a client take nothing of an answer over HTTP. Default: 30 s.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            body_timeout: Duration::from_secs(30),
            frame_bytes: 64 << 10,
            header_timeout: Duration::from_secs(10),
            payload_bytes: 256 << 10,
            stall_timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// Takes request bodies of at most that many bytes.
    #[must_use]
    pub fn with_body_bytes(mut self, bytes: usize) -> Self {
        self.body_bytes = bytes;
        self
    }

    /// Lets a request body take that long to arrive.
    #[must_use]
    pub fn with_body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Takes WebSocket messages of at most that many bytes.
    #[must_use]
    pub fn with_frame_bytes(mut self, bytes: usize) -> Self {
        self.frame_bytes = bytes;
        self
    }

    /// Lets the head of a request take that long to arrive.
    #[must_use]
    pub fn with_header_timeout(mut self, timeout: Duration) -> Self {
        self.header_timeout = timeout;
        self
    }

    /// Takes payloads of at most that many bytes.
    #[must_use]
    pub fn with_payload_bytes(mut self, bytes: usize) -> Self {
        self.payload_bytes = bytes;
        self
    }

    /// Lets a client take nothing of an answer for that long.
    #[must_use]
    pub fn with_stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }
}

type Render = Box<dyn Fn() -> String + Send + Sync>;

/// The service. Cloning it gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Server(Arc<Inner>);

struct Inner {
    khala: Khala,
    verifier: Arc<dyn Verifier>,
    limits: Limits,
    drain: Duration,
    metrics: Option<Render>,
    draining: AtomicBool,
    /// How many upgraded connections have a task that still runs.
    upgraded: watch::Sender<usize>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { khala, verifier, limits, drain, .. } = self;
        f.debug_struct("Server")
            .field("khala", khala)
            .field("verifier", verifier)
            .field("limits", limits)
            .field("drain", drain)
            .finish_non_exhaustive()
    }
}

/// Makes a [`Server`].
pub struct ServerBuilder {
    khala: Khala,
    verifier: Arc<dyn Verifier>,
    limits: Limits,
    drain: Duration,
    metrics: Option<Render>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { khala, verifier, limits, drain, .. } = self;
        f.debug_struct("ServerBuilder")
            .field("khala", khala)
            .field("verifier", verifier)
            .field("limits", limits)
            .field("drain", drain)
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
    /// Bounds what clients may send.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Spreads the closing of connections over that much time when the server stops. Default: 10 s.
    #[must_use]
    pub fn with_drain(mut self, over: Duration) -> Self {
        self.drain = over;
        self
    }

    /// Answers `/metrics` with what `render` gives, in the Prometheus text format. Without it, the route is
    /// not found: an application that mounts Khala has metrics of its own.
    #[must_use]
    pub fn with_metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(Box::new(render));
        self
    }

    /// The service.
    pub fn build(self) -> Server {
        let Self { khala, verifier, limits, drain, metrics } = self;
        let (draining, upgraded) = (AtomicBool::new(false), watch::Sender::new(0));
        Server(Arc::new(Inner { khala, verifier, limits, drain, metrics, draining, upgraded }))
    }
}

impl Server {
    /// Starts to make a service that gives access to `khala` to those whose token `verifier` accepts.
    pub fn builder(khala: Khala, verifier: Arc<dyn Verifier>) -> ServerBuilder {
        ServerBuilder {
            khala,
            verifier,
            limits: Limits::default(),
            drain: Duration::from_secs(10),
            metrics: None,
        }
    }

    /// The handle that this service gives access to.
    pub fn khala(&self) -> &Khala {
        &self.0.khala
    }

    /// Turns readiness off, and has every WebSocket told and closed within the drain time.
    ///
    /// Returns at once. [`serve`] does it by itself; an application that mounts the service calls it, and then
    /// waits for [`drained`](Self::drained), before it exits.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.khala.drain(self.0.drain);
    }

    /// Waits until no WebSocket of this service is open. Cancel safe.
    pub async fn drained(&self) {
        // The sender is in `self`, so it cannot be gone.
        let _ = self.0.upgraded.subscribe().wait_for(|open| *open == 0).await;
    }

    fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }
}
