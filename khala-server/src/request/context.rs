//! Where a request comes from, and by which id it is found again in logs.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    body::Body,
    extract::{ConnectInfo, FromRequestParts, Request},
    response::Response,
};
use http::{HeaderMap, request::Parts};
use khala_core::update::TraceField;

use super::Holds;
use crate::{client_address, problem::Problem, shared::Shared};

/// The header by which a request is found again in logs.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// What is known of a request before it is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The client's own id for the request, or a new one.
    pub(crate) request_id: Arc<str>,
    /// The other end of the connection, as `serve` or the application says.
    pub(crate) peer: Option<SocketAddr>,
    /// Who sent the request, as far as that is known: behind a trusted proxy, who that says it is.
    pub(crate) client: Option<IpAddr>,
    /// What the request holds until its answer is taken.
    pub(crate) holds: Arc<Holds>,
}

impl Context {
    pub(crate) fn new(shared: &Shared, request: &Request) -> Self {
        let (headers, extensions) = (request.headers(), request.extensions());
        let connected = || extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
        let peer = extensions.get::<SocketAddr>().copied().or_else(connected);
        let client = peer.map(|peer| client_address::client(&shared.0.trusted_proxies, peer.ip(), headers));
        Self { request_id: request_id(headers), peer, client, holds: Arc::default() }
    }

    /// The answer, which keeps what its request holds until it is taken.
    pub(crate) fn held(&self, answer: Response) -> Response {
        answer.map(|body| Body::new(Arc::clone(&self.holds).held(body)))
    }

    /// Counts the request as one of its address, until its answer is taken.
    pub(crate) fn hold_address(&self, shared: &Shared) -> Result<(), Problem> {
        let admitted = shared.0.request_limits.of_address(self.client, shared.0.khala.moment())?;
        self.holds.set_address(admitted);
        Ok(())
    }

    /// Counts the request as one of `subject`, until its answer is taken.
    pub(super) fn hold_subject(&self, shared: &Shared, subject: &str) -> Result<(), Problem> {
        let admitted = shared.0.request_limits.of_subject(subject, shared.0.khala.moment())?;
        self.holds.set_subject(admitted);
        Ok(())
    }

    pub(super) fn of(parts: &Parts) -> &Self {
        parts.extensions.get().expect("the router gives each request its context")
    }
}

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::of(parts).clone())
    }
}

fn request_id(headers: &HeaderMap) -> Arc<str> {
    let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match sent.and_then(|text| TraceField::parse(text).ok()) {
        Some(sent) => sent.as_str().into(),
        None => {
            // Its keys are random, and asking the system for more each time would cost a call of it.
            static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
            static COUNT: AtomicU64 = AtomicU64::new(0);
            format!("{:016x}", KEYS.hash_one(COUNT.fetch_add(1, Ordering::Relaxed))).into()
        }
    }
}
