//! Keys from an address (JWKS): fetched in the background, and once more when a token names one that is not there.
//!
//! What must stay true: tokens cannot make it ask more often than its options say. Fetching is a task of its own, so
//! that whoever waits for it and goes away holds nobody up.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use khala_core::{
    Error, ErrorKind, KeySet, KeySource, Timestamp,
    health::{Health, panic_message},
    without_byte_order_mark,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    KeysError,
    fetch::Address,
    held::{AbortOnDrop, Held, keep_looking},
};

/// How often the metrics are told how old the set is.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How often an address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwksOptions {
    /// How often it is asked by itself. Default: 300 s.
    pub refresh_every: Duration,
    /// How long after one time that tokens made it ask they cannot again; and how long after it failed it is asked
    /// again by itself, a second at least. Default: 10 s.
    pub refresh_at_most_every: Duration,
    label: &'static str,
}

impl Default for JwksOptions {
    fn default() -> Self {
        let (refresh_every, refresh_at_most_every) = (Duration::from_secs(300), Duration::from_secs(10));
        Self { refresh_every, refresh_at_most_every, label: "jwks" }
    }
}

impl JwksOptions {
    /// Asks that often by itself.
    #[must_use]
    pub fn with_refresh_every(mut self, time: Duration) -> Self {
        self.refresh_every = time;
        self
    }

    /// Lets tokens make it ask that often at most.
    #[must_use]
    pub fn with_refresh_at_most_every(mut self, time: Duration) -> Self {
        self.refresh_at_most_every = time;
        self
    }

    /// Is `credential` in the metrics: for what the minting of tokens trusts.
    #[must_use]
    pub fn for_credentials(mut self) -> Self {
        self.label = "credential";
        self
    }
}

/// The keys of a JWK Set at an address. Cloning it gives another handle to the same.
///
/// `https` only, or `http` on this machine; at most 256 KiB within 5 s, no redirects. Keys of a kind that is not
/// supported are left out (RFC 7517, section 5). While the address is down, or what is there is wrong or holds no key
/// that can be used, the keys of before hold, and a token that names another is neither accepted nor refused. Dropping
/// the last handle ends it.
#[derive(Clone, Debug)]
pub struct JwksKeys {
    shared: Arc<Shared>,
    _refresher: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct Shared {
    address: Address,
    options: JwksOptions,
    held: Held,
    flight: Mutex<Flight>,
    /// What was last found there.
    content: Mutex<Bytes>,
}

#[derive(Debug, Default)]
struct Flight {
    /// Closed when the fetch under way is done.
    running: Option<watch::Receiver<()>>,
    /// When tokens last made it ask.
    demanded_at: Option<Instant>,
}

impl JwksKeys {
    /// Starts to fetch what is at `url`. Until that has worked once, there are no keys and it is not known which.
    ///
    /// # Errors
    /// A [`KeysError`] for an address that is none, or where TLS is not to be had.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(url: &str, options: JwksOptions) -> Result<Self, KeysError> {
        let address = Address::parse(url)?;
        let held = Held::new(options.label, address.name());
        let (flight, content) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { address, options, held, flight, content });
        // Now, so that a token that comes at once waits for this and makes it ask nothing.
        shared.start();
        let refreshed = Arc::clone(&shared);
        let refresher = tokio::spawn(keep_looking(move || {
            let refreshed = Arc::clone(&refreshed);
            async move {
                loop {
                    done(refreshed.start()).await;
                    let next = refreshed.next();
                    let until = Instant::now() + next;
                    while Instant::now() < until {
                        sleep(REPORT_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
                        refreshed.held.report_age();
                    }
                }
            }
        }));
        Ok(Self { shared, _refresher: Arc::new(AbortOnDrop(refresher)) })
    }

    /// Fetches now. Dropping the future does not stop that.
    pub async fn reload(&self) {
        done(self.shared.start()).await;
    }

    /// Tells `health` while the address cannot be read: the node goes on with the keys of before, or with others.
    pub fn report_to(&self, health: &Health) {
        self.held().report_to(health, false);
    }

    pub(super) fn held(&self) -> &Held {
        &self.shared.held
    }
}

#[async_trait]
impl KeySource for JwksKeys {
    async fn keys(&self, wanted: Option<&str>, _: Timestamp) -> Result<Arc<KeySet>, Error> {
        let held = self.held();
        let known = |set: &Arc<KeySet>| wanted.is_none() || set.key(wanted).is_some();
        if let Some(set) = held.set().filter(known) {
            return Ok(set);
        }
        if let Some(running) = self.shared.demand() {
            done(running).await;
        }
        match (held.set(), held.fault()) {
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
    /// The fetch under way; a new one if there is none.
    fn start(self: &Arc<Self>) -> watch::Receiver<()> {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        flight.running.get_or_insert_with(|| self.launch()).clone()
    }

    /// The same for a token, if it may have one now.
    fn demand(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if flight.running.is_none() {
            let at_most_every = self.options.refresh_at_most_every;
            if flight.demanded_at.is_some_and(|at| at.elapsed() < at_most_every) {
                return None;
            }
            flight.demanded_at = Some(Instant::now());
            flight.running = Some(self.launch());
        }
        flight.running.clone()
    }

    fn launch(self: &Arc<Self>) -> watch::Receiver<()> {
        let (landed, running) = watch::channel(());
        let fetching = Arc::clone(self);
        tokio::spawn(async move {
            // Also when what follows panics: nobody waits for ever.
            let landing = Landing(fetching, Some(landed));
            if let Err(panic) = AssertUnwindSafe(landing.0.refresh()).catch_unwind().await {
                tracing::error!(message = panic_message(&*panic), "asking for the keys panicked");
                landing.0.held.failed("asking for the keys panicked".to_owned());
            }
        });
        running
    }

    async fn refresh(&self) {
        let content = match self.address.fetch().await {
            Ok(content) => content,
            Err(fault) => return self.held.failed(fault),
        };
        let is_known = *self.content.lock().unwrap_or_else(PoisonError::into_inner) == content;
        if is_known && self.held.set().is_some() {
            return self.held.unchanged();
        }
        match parse(&content) {
            Ok((set, left_out)) => {
                for fault in left_out {
                    tracing::warn!(source = self.address.name(), %fault, "a key cannot be used and is left out");
                }
                self.held.loaded(set);
                *self.content.lock().unwrap_or_else(PoisonError::into_inner) = content;
            }
            Err(fault) => self.held.failed(fault),
        }
    }

    /// How long until it is asked again by itself.
    fn next(&self) -> Duration {
        let JwksOptions { refresh_every, refresh_at_most_every, .. } = self.options;
        let next = match self.held.fault() {
            Some(_) => refresh_every.min(refresh_at_most_every),
            None => refresh_every,
        };
        next.max(Duration::from_secs(1))
    }
}

/// Ends a flight.
struct Landing(Arc<Shared>, Option<watch::Sender<()>>);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.flight.lock().unwrap_or_else(PoisonError::into_inner).running = None;
        self.1 = None;
    }
}

async fn done(mut running: watch::Receiver<()>) {
    // Nothing is ever sent.
    let _ = running.changed().await;
}

fn parse(content: &[u8]) -> Result<(KeySet, Vec<khala_core::KeyError>), String> {
    let text = str::from_utf8(without_byte_order_mark(content)).map_err(|_| "it is not UTF-8".to_owned())?;
    let (set, left_out) = KeySet::from_foreign_jwks(text).map_err(|fault| fault.to_string())?;
    match left_out.first() {
        _ if !set.is_empty() => Ok((set, left_out)),
        Some(fault) => Err(format!("it holds no key that can be used: {fault}")),
        None => Err("it holds no key".to_owned()),
    }
}
