//! What all requests and connections of a server share, and what goes on by itself.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::request::Parts;
use ipnet::IpNet;
use khala_auth::{SharedSecret, mint::Mint};
use khala_core::{
    Khala, Token,
    clock::SystemClock,
    health::{Condition, supervise},
    wire::PathPrefix,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    Compatibility, Limits, Origins, RevocationTerms, connection::ConnectionLimits, drain::Drain,
    longpoll::LongPolls, request_limits::RequestLimits, request_metrics::RequestMetrics,
    write_probe::WriteProbe,
};

type Render = Box<dyn Fn() -> String + Send + Sync>;
type Notes = Box<dyn Fn() -> Vec<&'static str> + Send + Sync>;
type TokenSource = Box<dyn Fn(&Parts) -> Option<Token> + Send + Sync>;

/// What all requests and connections share.
#[derive(Clone, Debug)]
pub(crate) struct Shared(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) khala: Khala,
    pub(crate) limits: Limits,
    pub(crate) origins: Origins,
    pub(crate) compatibility: Compatibility,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) drain: Drain,
    pub(crate) metrics: Option<Render>,
    pub(crate) notes: Option<Notes>,
    pub(crate) mint: Option<Mint>,
    pub(crate) admin: Option<SharedSecret>,
    pub(crate) token_source: Option<TokenSource>,
    pub(crate) path_prefix: Option<PathPrefix>,
    pub(crate) revocation_terms: RevocationTerms,
    /// How many upgraded connections and sessions of long polling have a task that still runs.
    pub(crate) upgraded: watch::Sender<usize>,
    pub(crate) long_polls: LongPolls,
    pub(crate) sweep_every: Option<Duration>,
    /// What goes on by itself, from the first request on.
    background: OnceLock<Vec<AbortOnDrop>>,
    pub(crate) write_probe: WriteProbe,
    pub(crate) connection_limits: ConnectionLimits,
    pub(crate) request_limits: RequestLimits,
    pub(crate) request_metrics: RequestMetrics,
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

impl Inner {
    /// With every default. `routes`: the number of routes.
    pub(crate) fn new(khala: Khala, routes: usize) -> Self {
        let limits = Limits::default();
        Self {
            khala,
            limits,
            origins: Origins::any(),
            compatibility: Compatibility::default(),
            trusted_proxies: Vec::new(),
            drain: Drain::new(Duration::ZERO, Duration::from_secs(10)),
            metrics: None,
            notes: None,
            mint: None,
            admin: None,
            token_source: None,
            path_prefix: None,
            revocation_terms: RevocationTerms::default(),
            upgraded: watch::Sender::new(0),
            long_polls: LongPolls::default(),
            sweep_every: None,
            background: OnceLock::new(),
            write_probe: WriteProbe::default(),
            connection_limits: ConnectionLimits::new(&limits),
            request_limits: RequestLimits::new(&limits),
            request_metrics: RequestMetrics::new(routes),
        }
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.connection_limits = ConnectionLimits::new(&limits);
        self.request_limits = RequestLimits::new(&limits);
    }
}

impl Shared {
    /// Starts what goes on by itself, once: keeping up with what other nodes revoke, and sweeping.
    pub(crate) fn run_background(&self) {
        self.0.background.get_or_init(|| {
            let khala = self.0.khala.clone();
            let mut tasks = vec![AbortOnDrop(tokio::spawn(async move {
                let part = khala.health().part("revocation_sync");
                supervise(&part, &SystemClock::new(), Condition::Failed, || {
                    khala.access().run_revocation_sync()
                })
                .await;
            }))];
            if let Some(every) = self.0.sweep_every {
                let khala = self.0.khala.clone();
                tasks.push(AbortOnDrop(tokio::spawn(async move {
                    let part = khala.health().part("sweeper");
                    supervise(&part, &SystemClock::new(), Condition::Degraded, || {
                        khala.retention().run_sweeper(every)
                    })
                    .await;
                })));
            }
            tasks
        });
    }
}
