//! Durable, resumable real-time sync over WebSocket and HTTP: a service to mount in a hyper or axum application, and [`serve`] for a
//! whole server.
//!
//! It is thin: order, resuming, limits and access are those of [`khala_core`]. This crate has sockets, routes, and the answers to requests
//! that are malformed or refused.
//!
//! # Invariants
//! - Nothing that a client sends can stop the server or touch another client.
//! - No token reaches a log.
//!
//! ```
//! # use std::{convert::Infallible, sync::Arc};
//! # use hyper::service::service_fn;
//! # use khala_auth::{JwtOptions, JwtVerifier};
//! # use khala_core::{Khala, MemoryStore};
//! # use khala_server::Server;
//! # async fn mount(io: hyper_util::rt::TokioIo<tokio::net::TcpStream>) -> Result<(), Box<dyn std::error::Error>> {
//! let verifier = JwtVerifier::hs256(b"thirty-two bytes that are secret", JwtOptions::default())?;
//! let khala = Khala::builder(MemoryStore::new()).with_verifier(Arc::new(verifier)).build();
//! let server = Server::builder(khala).build();
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
mod admin;
mod body;
mod compatibility;
mod documents;
mod drain;
mod history;
mod lines;
mod logs;
mod mint;
mod operations;
mod origins;
mod outgoing;
mod patience;
mod problem;
mod proxies;
mod publish;
mod query;
mod request_metrics;
mod response;
mod route;
mod serve;
mod service;
mod sockets;
mod stream;
mod token;
mod transport;
mod upgrade;

use std::{
    fmt,
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ipnet::IpNet;
use khala_auth::{SharedSecret, mint::Mint};
use khala_core::{
    Khala,
    clock::SystemClock,
    config::{or_none, seconds},
    health::{Condition, supervise},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};

pub use self::{
    admin::RevocationTerms,
    compatibility::{BuildError, ClientBuild, Compatibility, EmptyWindow, Window},
    logs::may_be_logged,
    origins::{OriginError, Origins},
    response::ResponseBody,
    serve::serve,
};
use self::{drain::Drain, request_metrics::RequestMetrics};

/// The OpenAPI 3.1 document that `/openapi.json` answers with.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// What clients may send, and how long they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct Limits {
    /// Bytes of a request body; of a stream of updates, of a line. Default: 8 MiB.
    pub body_bytes: usize,
    /// How long a request body may take to arrive; of a stream of updates, the next line. Default: 30 s.
    #[serde(rename = "body_timeout_seconds", with = "seconds")]
    pub body_timeout: Duration,
    /// Bytes of a WebSocket message, and of each of its frames. Default: 64 KiB.
    pub frame_bytes: usize,
    /// Connections that [`serve`] serves at once, but for WebSockets. Default: no limit.
    #[serde(with = "or_none")]
    pub http_connections: Option<NonZeroU32>,
    /// Those of one address, but for those of trusted proxies, behind which are many. Default: no limit.
    #[serde(with = "or_none")]
    pub http_connections_per_address: Option<NonZeroU32>,
    /// Requests that the subject of a token may have under way at once; a stream of updates is one. Default: no limit.
    #[serde(with = "or_none")]
    pub requests_per_principal: Option<NonZeroU32>,
    /// Requests that one address may have under way at once. Default: no limit.
    #[serde(with = "or_none")]
    pub requests_per_address: Option<NonZeroU32>,
    /// How long [`serve`] waits for the head of a request: from the start of a connection, and from the first byte of
    /// each other head. Default: 10 s.
    #[serde(rename = "header_timeout_seconds", with = "seconds")]
    pub header_timeout: Duration,
    /// How long [`serve`] keeps a connection open that rests between two requests. Default: 75 s, which is more than load
    /// balancers do: they should be the ones to close it, for they know whether they are about to use it.
    #[serde(rename = "keep_alive_timeout_seconds", with = "seconds")]
    pub keep_alive_timeout: Duration,
    /// Bytes that [`serve`] lets the system buffer for one client. None: as many as it likes. Default: 256 KiB.
    ///
    /// The system takes from the server in steps of about a third of its buffer. With megabytes of it a client that reads
    /// slowly, but reads, would be taken for one that takes nothing; and that memory is bounded by nothing else.
    #[serde(with = "or_none")]
    pub send_buffer: Option<usize>,
    /// How long [`serve`] lets a client take nothing of an answer over HTTP. Default: 30 s.
    #[serde(rename = "stall_timeout_seconds", with = "seconds")]
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            body_timeout: Duration::from_secs(30),
            frame_bytes: 64 << 10,
            http_connections: None,
            http_connections_per_address: None,
            requests_per_principal: None,
            requests_per_address: None,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            send_buffer: Some(256 << 10),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

type Render = Box<dyn Fn() -> String + Send + Sync>;
type Notes = Box<dyn Fn() -> Vec<&'static str> + Send + Sync>;

/// The service. Cloning it gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Server(Arc<Inner>);

struct Inner {
    khala: Khala,
    limits: Limits,
    origins: Option<Origins>,
    compatibility: Compatibility,
    trusted_proxies: Vec<IpNet>,
    drain: Drain,
    metrics: Option<Render>,
    notes: Option<Notes>,
    mint: Option<Mint>,
    admin: Option<SharedSecret>,
    revocation_terms: RevocationTerms,
    /// How many upgraded connections have a task that still runs.
    upgraded: watch::Sender<usize>,
    sweep_every: Option<Duration>,
    /// What goes on by itself, from the first request on.
    keepers: OnceLock<Vec<AbortOnDrop>>,
    writes: operations::WriteProbe,
    sockets: sockets::Sockets,
    requests: sockets::RequestCounts,
    request_metrics: RequestMetrics,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { khala, limits, origins, compatibility, trusted_proxies, drain, .. } = self;
        f.debug_struct("Server")
            .field("khala", khala)
            .field("limits", limits)
            .field("origins", origins)
            .field("compatibility", compatibility)
            .field("trusted_proxies", trusted_proxies)
            .field("drain", drain)
            .finish_non_exhaustive()
    }
}

/// Makes a [`Server`]. A builder and not options, because most of it is roles to put in place, which are no data.
pub struct ServerBuilder {
    khala: Khala,
    limits: Limits,
    origins: Option<Origins>,
    compatibility: Compatibility,
    trusted_proxies: Vec<IpNet>,
    drain: Duration,
    unready: Duration,
    metrics: Option<Render>,
    notes: Option<Notes>,
    mint: Option<Mint>,
    admin: Option<SharedSecret>,
    revocation_terms: RevocationTerms,
    sweep_every: Option<Duration>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { khala, limits, origins, compatibility, trusted_proxies, drain, .. } = self;
        f.debug_struct("ServerBuilder")
            .field("khala", khala)
            .field("limits", limits)
            .field("origins", origins)
            .field("compatibility", compatibility)
            .field("trusted_proxies", trusted_proxies)
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

    /// Serves pages of these origins alone: another `Origin` is refused, and these may read the answers (CORS).
    ///
    /// Without it, any origin will do and no page of another may read an answer over HTTP: a browser sends no token on
    /// its own, so a page that has none gets nothing.
    #[must_use]
    pub fn with_origins(mut self, origins: Origins) -> Self {
        self.origins = Some(origins);
        self
    }

    /// Refuses a WebSocket to clients that are too old or too new. Without it, none is.
    #[must_use]
    pub fn with_compatibility(mut self, compatibility: Compatibility) -> Self {
        self.compatibility = compatibility;
        self
    }

    /// Believes the `X-Forwarded-For` of peers in these networks: the right-most address in it that is in none of
    /// them is the client's, for limits per address and in the access log. Without it, the header is not looked at.
    #[must_use]
    pub fn with_trusted_proxies(mut self, networks: Vec<IpNet>) -> Self {
        self.trusted_proxies = networks;
        self
    }

    /// Spreads the closing of connections over that much time when the server stops. Default: 10 s.
    #[must_use]
    pub fn with_drain(mut self, over: Duration) -> Self {
        self.drain = over;
        self
    }

    /// Before that, goes on for so long with readiness turned off alone, so that load balancers notice first.
    /// Default: not at all.
    #[must_use]
    pub fn with_unready(mut self, before: Duration) -> Self {
        self.unready = before;
        self
    }

    /// Answers `/metrics` with what `render` gives, in the Prometheus text format. Without it, the route is
    /// not found: an application that mounts Khala has metrics of its own.
    #[must_use]
    pub fn with_metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(Box::new(render));
        self
    }

    /// Has `/readyz` mention what `notes` gives: what the server does without just now and is no less ready for, as a
    /// fanout that does not hear.
    #[must_use]
    pub fn with_notes(mut self, notes: impl Fn() -> Vec<&'static str> + Send + Sync + 'static) -> Self {
        self.notes = Some(Box::new(notes));
        self
    }

    /// Makes tokens by `mint` at `/v1/token`. Without it, the route is not found.
    #[must_use]
    pub fn with_mint(mut self, mint: Mint) -> Self {
        self.mint = Some(mint);
        self
    }

    /// Opens the routes under `/internal/v1/khala/` for whoever knows `token`. Without it, they are not found.
    #[must_use]
    pub fn with_admin_token(mut self, token: SharedSecret) -> Self {
        self.admin = Some(token);
        self
    }

    /// Keeps what the admin route revokes for as long as tokens of these terms may be valid. Without it, those of
    /// [`RevocationTerms::default`] are taken.
    #[must_use]
    pub fn with_revocation_terms(mut self, terms: RevocationTerms) -> Self {
        self.revocation_terms = terms;
        self
    }

    /// Takes away history that is no longer kept about that often, as `Sweeper::run_sweeper` does, from the first
    /// request on. Without it, that is the application's to do.
    #[must_use]
    pub fn with_sweep_every(mut self, interval: Duration) -> Self {
        self.sweep_every = Some(interval);
        self
    }

    /// The service.
    pub fn build(self) -> Server {
        let Self {
            khala,
            limits,
            origins,
            compatibility,
            trusted_proxies,
            drain,
            unready,
            metrics,
            notes,
            mint,
            admin,
            revocation_terms,
            sweep_every,
        } = self;
        Server(Arc::new(Inner {
            request_metrics: RequestMetrics::new(),
            khala,
            limits,
            origins,
            compatibility,
            trusted_proxies,
            drain: Drain::new(unready, drain),
            metrics,
            notes,
            mint,
            admin,
            revocation_terms,
            upgraded: watch::Sender::new(0),
            sweep_every,
            keepers: OnceLock::new(),
            writes: operations::WriteProbe::default(),
            sockets: sockets::Sockets::new(&limits),
            requests: sockets::RequestCounts::new(&limits),
        }))
    }
}

impl Server {
    /// Starts to make a service that gives access to `khala` to those whose token its verifier accepts.
    pub fn builder(khala: Khala) -> ServerBuilder {
        ServerBuilder {
            khala,
            limits: Limits::default(),
            origins: None,
            compatibility: Compatibility::default(),
            trusted_proxies: Vec::new(),
            drain: Duration::from_secs(10),
            unready: Duration::ZERO,
            metrics: None,
            notes: None,
            mint: None,
            admin: None,
            revocation_terms: RevocationTerms::default(),
            sweep_every: None,
        }
    }

    /// The handle that this service gives access to.
    pub fn khala(&self) -> &Khala {
        &self.0.khala
    }

    /// Starts what goes on by itself, once: keeping up with what other nodes revoke, and sweeping.
    pub(crate) fn keep(&self) {
        self.0.keepers.get_or_init(|| {
            let khala = self.0.khala.clone();
            let mut keepers = vec![AbortOnDrop(tokio::spawn(async move {
                let part = khala.health().part("revocation_sync");
                supervise(&part, &SystemClock::new(), Condition::Failed, || {
                    khala.access().run_revocation_sync()
                })
                .await;
            }))];
            if let Some(every) = self.0.sweep_every {
                let khala = self.0.khala.clone();
                keepers.push(AbortOnDrop(tokio::spawn(async move {
                    let part = khala.health().part("sweeper");
                    supervise(&part, &SystemClock::new(), Condition::Degraded, || {
                        khala.retention().run_sweeper(every)
                    })
                    .await;
                })));
            }
            keepers
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        let of = |text: &str| {
            serde_json::from_str::<Limits>(text).map(|options| serde_json::to_value(options).unwrap())
        };
        let defaults = serde_json::to_value(Limits::default()).unwrap();
        assert_eq!(of("{}").unwrap(), defaults);
        assert_eq!(of(&defaults.to_string()).unwrap(), defaults);
        assert!(of(r#"{"body_seconds": 1}"#).unwrap_err().to_string().contains("unknown field"));
    }
}
