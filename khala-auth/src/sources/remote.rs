//! Keys from an address (JWKS): fetched in the background, and once more when a token names an unknown key.
//!
//! The transport is the host's: it implements [`FetchKeySet`] with the HTTP client that it has, or takes `JwksAddress`.
//!
//! # Invariants
//! - Tokens cannot cause more fetches than the options allow.
//! - A fetch is a task of its own, so a waiting caller that goes away delays nobody.

use std::{
    error::Error as StdError,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt as _;
use khala_core::{
    Error, ErrorKind, Timestamp,
    config::seconds,
    health::{Health, panic_message},
    single_flight::{Flight, SingleFlight},
    text::without_byte_order_mark,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::state::{AbortOnDrop, MAX_BYTES, SourceState, run_reader};
use crate::{key_error::KeyError, key_set::KeySet, key_source::KeySource};

/// Fetches a JWK Set from its address.
///
/// An attacker who changes the keys in transit can sign for anybody: an implementation uses TLS, or stays on this machine,
/// and follows no redirect to elsewhere. The feature `jwks` has one for HTTPS, `JwksAddress`.
///
/// ```
/// # use async_trait::async_trait;
/// # use khala_auth::sources::FetchKeySet;
/// # #[derive(Debug)] struct Client;
/// # impl Client { async fn get(&self, _: &str, _: usize) -> std::io::Result<Vec<u8>> { Ok(Vec::new()) } }
/// /// The application's own HTTP client.
/// #[derive(Debug)]
/// struct FromProvider(Client);
///
/// #[async_trait]
/// impl FetchKeySet for FromProvider {
///     fn name(&self) -> String {
///         "https://login.example/keys".to_owned()
///     }
///
///     async fn fetch(&self, max_bytes: usize) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
///         Ok(self.0.get("https://login.example/keys", max_bytes).await?)
///     }
/// }
/// ```
#[async_trait]
pub trait FetchKeySet: fmt::Debug + Send + Sync + 'static {
    /// The address, for the log: without what is meant for its host alone, as a query or a password.
    fn name(&self) -> String;

    /// The document that is at the address now. It has at most `max_bytes`, and arrives in bounded time.
    ///
    /// # Errors
    /// What is wrong, in one line. Causes are not logged.
    async fn fetch(&self, max_bytes: usize) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>>;
}

/// How often the metric of the set's age is updated.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How often an address is fetched, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct RemoteKeysOptions {
    /// How often the keys are fetched from the address. Default: 300 s.
    #[serde(rename = "refresh_interval_seconds", with = "seconds")]
    pub refresh_interval: Duration,
    /// The shortest time between two fetches that tokens with an unknown `kid` cause, and before the next fetch
    /// after a failed one. It is at least a second. Default: 10 s.
    #[serde(rename = "min_refresh_interval_seconds", with = "seconds")]
    pub min_refresh_interval: Duration,
    /// Whether the keys check the credentials of a mint: the metrics call this source `credential` then, otherwise `jwks`.
    #[serde(skip)]
    pub for_credentials: bool,
}

impl Default for RemoteKeysOptions {
    fn default() -> Self {
        Self {
            refresh_interval: Duration::from_secs(300),
            min_refresh_interval: Duration::from_secs(10),
            for_credentials: false,
        }
    }
}

/// The keys of a JWK Set at an address. Cloning it gives another handle to the same.
///
/// A set has at most 256 KiB. Keys of a kind that is not supported are left out (RFC 7517, section 5). While the address
/// is down, or its set is wrong or holds no usable key, the earlier keys stay, and a token that names another key is
/// neither accepted nor refused. Dropping the last handle ends the fetching.
#[derive(Clone, Debug)]
pub struct RemoteKeys {
    shared: Arc<Shared>,
    _reader: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct Shared {
    address: Box<dyn FetchKeySet>,
    options: RemoteKeysOptions,
    state: SourceState,
    /// The fetch that is running.
    fetch: SingleFlight<(), ()>,
    /// When a token last caused a fetch.
    demanded_at: Mutex<Option<Instant>>,
    /// The document of the last good fetch.
    content: Mutex<Vec<u8>>,
}

impl RemoteKeys {
    /// Starts to fetch the set at `address`. Until that has worked once, there are no keys, and tokens are neither accepted
    /// nor refused.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(address: impl FetchKeySet, options: RemoteKeysOptions) -> Self {
        let label = if options.for_credentials { "credential" } else { "jwks" };
        let state = SourceState::new(label, address.name());
        let shared = Arc::new(Shared {
            address: Box::new(address),
            options,
            state,
            fetch: SingleFlight::default(),
            demanded_at: Mutex::default(),
            content: Mutex::default(),
        });
        // Now, so that a token that comes at once waits for this fetch and causes no other.
        let mut first = Some(shared.start());
        let refreshed = Arc::clone(&shared);
        let reader = tokio::spawn(run_reader(move || {
            let refreshed = Arc::clone(&refreshed);
            let mut fetch = first.take().unwrap_or_else(|| refreshed.start());
            async move {
                loop {
                    fetch.await;
                    let until = Instant::now() + refreshed.next();
                    while Instant::now() < until {
                        sleep(REPORT_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
                        refreshed.state.report_age();
                    }
                    fetch = refreshed.start();
                }
            }
        }));
        Self { shared, _reader: Arc::new(AbortOnDrop(reader)) }
    }

    /// Fetches now. Dropping the future does not stop the fetch.
    pub async fn reload(&self) {
        self.shared.start().await;
    }

    /// Reports to `health` while the address cannot be read. The earlier keys stay meanwhile.
    pub fn report_to(&self, health: &Health) {
        self.state().report_to(health, false);
    }

    pub(super) fn state(&self) -> &SourceState {
        &self.shared.state
    }
}

#[async_trait]
impl KeySource for RemoteKeys {
    async fn keys(&self, wanted: Option<&str>, _: Timestamp) -> Result<Arc<KeySet>, Error> {
        let state = self.state();
        let known = |set: &Arc<KeySet>| wanted.is_none() || set.key(wanted).is_some();
        if let Some(set) = state.set().filter(known) {
            return Ok(set);
        }
        if let Some(running) = self.shared.demand() {
            running.await;
        }
        match (state.set(), state.fault()) {
            (Some(set), None) => Ok(set),
            (Some(set), Some(_)) if known(&set) => Ok(set),
            (_, fault) => {
                let fault = fault.unwrap_or_else(|| "it has not answered yet".to_owned());
                Err(Error::new(
                    ErrorKind::Unavailable,
                    "jwks",
                    format!("{}: {fault}", self.shared.address.name()),
                ))
            }
        }
    }
}

impl Shared {
    /// The fetch that is running; a new one if there is none.
    fn start(self: &Arc<Self>) -> Flight<()> {
        let mut is_new = false;
        let fetch = self.fetch.share((), || {
            is_new = true;
            let fetching = Arc::clone(self);
            let fetch = async move {
                if let Err(panic) = AssertUnwindSafe(fetching.refresh()).catch_unwind().await {
                    tracing::error!(message = panic_message(&*panic), "fetching the keys panicked");
                    fetching.state.failed("fetching the keys panicked".to_owned());
                }
            };
            fetch.boxed()
        });
        if is_new {
            tokio::spawn(fetch.clone());
        }
        fetch
    }

    /// The same for a token, if tokens may cause a fetch now.
    fn demand(self: &Arc<Self>) -> Option<Flight<()>> {
        let mut demanded_at = self.demanded_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = self.fetch.join(&()) {
            return Some(running);
        }
        if demanded_at.is_some_and(|at| at.elapsed() < self.options.min_refresh_interval) {
            return None;
        }
        *demanded_at = Some(Instant::now());
        Some(self.start())
    }

    async fn refresh(&self) {
        let content = match self.address.fetch(MAX_BYTES).await {
            Ok(content) if content.len() > MAX_BYTES => {
                return self.state.failed(format!("it is larger than {MAX_BYTES} bytes"));
            }
            Ok(content) => content,
            Err(fault) => return self.state.failed(fault.to_string()),
        };
        let is_known = *self.content.lock().unwrap_or_else(PoisonError::into_inner) == content;
        if is_known && self.state.set().is_some() {
            return self.state.unchanged();
        }
        match parse(&content) {
            Ok((set, left_out)) => {
                for fault in left_out {
                    tracing::warn!(source = self.address.name(), %fault, "a key cannot be used and is left out");
                }
                self.state.loaded(set);
                *self.content.lock().unwrap_or_else(PoisonError::into_inner) = content;
            }
            Err(fault) => self.state.failed(fault),
        }
    }

    /// How long until the next fetch in the background.
    fn next(&self) -> Duration {
        let RemoteKeysOptions { refresh_interval, min_refresh_interval, .. } = self.options;
        let next = match self.state.fault() {
            Some(_) => refresh_interval.min(min_refresh_interval),
            None => refresh_interval,
        };
        next.max(Duration::from_secs(1))
    }
}

fn parse(content: &[u8]) -> Result<(KeySet, Vec<KeyError>), String> {
    let text = str::from_utf8(without_byte_order_mark(content)).map_err(|_| "it is not UTF-8".to_owned())?;
    let (set, left_out) = KeySet::from_foreign_jwks(text).map_err(|fault| fault.to_string())?;
    match left_out.first() {
        _ if !set.is_empty() => Ok((set, left_out)),
        Some(fault) => Err(format!("it holds no key that can be used: {fault}")),
        None => Err("it holds no key".to_owned()),
    }
}
