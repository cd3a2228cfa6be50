//! The metrics of HTTP requests: how many, and how long until their answer began.
//!
//! # Invariants
//! The recorder is asked once for each series, when the first request of it was answered. Labels are patterns, methods and
//! classes of statuses, and never what a client chose.

use std::{fmt, sync::OnceLock, time::Duration};

use http::{Method, StatusCode};
use khala_core::telemetry;
use metrics::{Counter, Histogram, counter, histogram};

const METHODS: [&str; 5] = ["GET", "HEAD", "OPTIONS", "POST", "other"];
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The label of what is no route.
const UNKNOWN: &str = "unknown";

/// The metrics of requests, by route; the last is that of what is no route.
pub(crate) struct RequestMetrics(Box<[OfRoute]>);

impl fmt::Debug for RequestMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestMetrics").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct OfRoute {
    seconds: OnceLock<Histogram>,
    /// By method, then by the class of the status.
    answered: [[OnceLock<Counter>; STATUSES.len()]; METHODS.len()],
}

impl RequestMetrics {
    pub(crate) fn new(routes: usize) -> Self {
        Self((0..=routes).map(|_| OfRoute::default()).collect())
    }

    /// The answer to a request began, so long after the request's head. `route`: its place among the routes, and its pattern.
    pub(crate) fn answered(
        &self,
        route: Option<(usize, &'static str)>,
        method: &Method,
        status: StatusCode,
        elapsed: Duration,
    ) {
        let (place, pattern) = route.unwrap_or((self.0.len() - 1, UNKNOWN));
        let of_route = &self.0[place];
        let method = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::OPTIONS => 2,
            Method::POST => 3,
            _ => 4,
        };
        let class = usize::from(status.as_u16() / 100).clamp(1, STATUSES.len()) - 1;
        let answered = of_route.answered[method][class].get_or_init(|| {
            let (method, status) = (METHODS[method], STATUSES[class]);
            counter!(telemetry::HTTP_REQUESTS, "route" => pattern, "method" => method, "status" => status)
        });
        answered.increment(1);
        let seconds =
            of_route.seconds.get_or_init(|| histogram!(telemetry::HTTP_SECONDS, "route" => pattern));
        seconds.record(elapsed.as_secs_f64());
    }
}
