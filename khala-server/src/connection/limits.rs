//! Which of the connections that come are served, and which are only told to come back.
//!
//! A connection over the limit is served one request: what is an operator's (health, metrics, administration) is answered
//! as ever, everything else is refused. There are few such connections at once, in all and of one address, and past that
//! they are closed without a word. A WebSocket is no longer counted here: it is one of `admission.connections` from then on.
//!
//! # Invariants
//! Many connections do not keep operators out, unless they come from the operators' own address, or from more addresses than
//! there is room for.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use http::StatusCode;
use khala_core::{
    admission::{Admission, AdmissionOptions, Admitted, Limited, LimitedBy},
    clock::Moment,
    telemetry,
};

use crate::{Limits, problem::Problem};

/// Connections over the limit that are answered at once.
const REFUSED_AT_ONCE: NonZeroU32 = NonZeroU32::new(64).unwrap();
/// Those of one address.
const REFUSED_OF_ADDRESS: NonZeroU32 = NonZeroU32::new(4).unwrap();
/// How long the head of their request may take.
const HEAD_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    served: Admission,
    refused: Admission,
}

/// A connection that is served, or refused; dropping it gives its place back.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    _place: Admitted,
    refusal: Option<Refusal>,
}

/// Why a connection is over the limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal(Limited);

impl ConnectionLimits {
    pub(crate) fn new(limits: &Limits) -> Self {
        let served = AdmissionOptions {
            connections: limits.http_connections,
            connections_per_address: limits.http_connections_per_address,
            ..AdmissionOptions::unlimited()
        };
        let refused = AdmissionOptions {
            connections: Some(REFUSED_AT_ONCE),
            connections_per_address: Some(REFUSED_OF_ADDRESS),
            ..AdmissionOptions::unlimited()
        };
        Self { served: Admission::new(served), refused: Admission::new(refused) }
    }

    /// Takes a connection of `peer`. None: the connection is to be closed. The connections of one address are limited, except
    /// those of a `proxy`, which has many clients.
    pub(crate) fn take(&self, peer: SocketAddr, proxy: bool, now: Moment) -> Option<ConnectionPermit> {
        let address: Option<IpAddr> = (!proxy).then_some(peer.ip());
        let limited = match self.served.connect("", address, now) {
            Ok(place) => return Some(ConnectionPermit { _place: place, refusal: None }),
            Err(limited) => limited,
        };
        let place = self.refused.connect("", address, now);
        telemetry::http_connection_refused(limited.by, place.is_ok());
        Some(ConnectionPermit { _place: place.ok()?, refusal: Some(Refusal(limited)) })
    }
}

impl ConnectionPermit {
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// How long the head of a request may take.
    pub(crate) fn head_timeout(&self, limits: &Limits) -> Duration {
        if self.refusal.is_some() { limits.header_timeout.min(HEAD_WITHIN) } else { limits.header_timeout }
    }
}

impl From<Refusal> for Problem {
    fn from(Refusal(limited): Refusal) -> Self {
        let (status, detail) = match limited.by {
            LimitedBy::Address => {
                (StatusCode::TOO_MANY_REQUESTS, "this address has as many connections over HTTP as it may")
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, "the server has as many connections over HTTP as it may"),
        };
        Self::new(status, limited.code.as_str(), detail).with_retry_after(limited.retry_after)
    }
}
