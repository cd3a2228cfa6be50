//! Which path is answered by what, and what all answers have in common: an id, a log line, metrics, limits, and origins.
//!
//! Paths are split before they are percent-decoded, so a `/` within a topic or a key is written `%2F`, and a path that is
//! written so says exactly what it means. Many proxies decode the paths that they pass on. A path with more parts than
//! its route has is therefore read from its end: [`Decoded::of`] has the rule.
//!
//! # Invariants
//! The query string is in neither log nor metrics, because a token may be in it; and no metric has a label of unbounded range.

use std::{convert::Infallible, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, any, get, post},
};
use futures::FutureExt as _;
use http::{HeaderValue, Method, StatusCode, header};
use khala_core::telemetry::{self, Surface};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::{
    connection::Refusal,
    document::openapi_document,
    longpoll,
    problem::{Problem, ProblemCode},
    request::{Context, Decoded, REQUEST_ID, check_encoding},
    routes,
    shared::{Inner, Shared},
    websocket,
};

/// Longer paths are cut off in the log.
const LOGGED_PATH: usize = 512;

/// A route: where it is, who it is for, and what answers.
#[derive(Debug)]
pub(crate) struct Route {
    /// The path as it is in the OpenAPI document and in metrics.
    pub(crate) pattern: &'static str,
    /// What `Allow` says.
    pub(crate) allow: &'static str,
    audience: Audience,
    /// What is refused when something is refused here.
    surface: Surface,
    methods: fn() -> MethodRouter<Shared>,
}

/// Who a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// Those who have a token: the origin of pages counts, and so do limits.
    Clients,
    /// Those who have the admin token: the origin of pages counts. They are answered also where nobody else is.
    Admins,
    /// The operators' machines, which are answered also where nobody else is.
    Machines,
    /// Everybody.
    Everybody,
}

impl Audience {
    fn is_limited(self) -> bool {
        matches!(self, Self::Clients | Self::Everybody)
    }

    fn has_origins(self) -> bool {
        matches!(self, Self::Clients | Self::Admins)
    }
}

const fn route(
    pattern: &'static str,
    allow: &'static str,
    audience: Audience,
    surface: Surface,
    methods: fn() -> MethodRouter<Shared>,
) -> Route {
    Route { pattern, allow, audience, surface, methods }
}

use Audience::{Admins, Clients, Everybody, Machines};
use Surface::{Http, Mint, Upgrade};

const GET: &str = "GET, HEAD";
const GET_ALONE: &str = "GET";
const GET_AND_POST: &str = "GET, POST";
const GET_OR_POST: &str = "GET, HEAD, POST";
const POST: &str = "POST";

/// All routes.
#[rustfmt::skip]
pub(crate) static ROUTES: [Route; 22] = [
    route(UPDATES, GET_OR_POST, Clients, Http, || get(routes::updates).post(routes::publish)),
    route(BOUNDS, GET, Clients, Http, || get(routes::bounds)),
    route(SNAPSHOT, GET, Clients, Http, || get(routes::snapshot)),
    route(DOCUMENT, GET, Clients, Http, || get(routes::document)),
    route("/v1/topics", GET, Clients, Http, || get(routes::topics)),
    route("/v1/updates", POST, Clients, Http, || post(routes::publish_stream)),
    route("/sync/v1/websocket", GET_ALONE, Clients, Upgrade, || get(websocket::upgrade)),
    route(LONG_POLL, GET_AND_POST, Clients, Upgrade, || get(longpoll::poll).post(longpoll::post)),
    route("/realtime/v1/websocket", GET_ALONE, Clients, Upgrade, || get(websocket::upgrade_realtime)),
    route("/v1/token", POST, Clients, Mint, || post(routes::mint)),
    route("/api/khala/token", POST, Clients, Mint, || post(routes::mint)),
    route("/api/sync/token", POST, Clients, Mint, || post(routes::mint)),
    route("/healthz", GET, Machines, Http, || get(routes::health)),
    route("/readyz", GET, Machines, Http, || get(routes::ready)),
    route("/metrics", GET, Machines, Http, || get(routes::metrics)),
    route("/openapi.json", GET, Everybody, Http, || get(openapi_document)),
    route("/internal/v1/khala/connections", GET, Admins, Http, || get(routes::connections)),
    route("/internal/v1/khala/drain", POST, Admins, Http, || post(routes::drain)),
    route("/internal/v1/khala/fanout/hooks", GET, Admins, Http, || get(routes::fanout_hooks)),
    route("/internal/v1/khala/fanout/metrics", GET, Admins, Http, || get(routes::fanout_metrics)),
    route("/internal/v1/khala/retention", GET_OR_POST, Admins, Http, || get(routes::retention).post(routes::sweep)),
    route("/internal/v1/khala/revocations", GET_OR_POST, Admins, Http, || get(routes::revocations).post(routes::revoke)),
];

/// The route whose client reads no HTTP status.
const LONG_POLL: &str = "/sync/v1/longpoll";

/// The routes of a topic, which are also found in a decoded path.
const UPDATES: &str = "/v1/topics/{topic}/updates";
const BOUNDS: &str = "/v1/topics/{topic}";
const SNAPSHOT: &str = "/v1/topics/{topic}/snapshot";
const DOCUMENT: &str = "/v1/topics/{topic}/documents/{doc_key}";

impl Decoded {
    /// What a path names in which the `/` of a topic or a document key is not escaped any more, and the pattern of its route.
    ///
    /// A path that ends in `/updates` or `/snapshot` is that of the topic before it. Else what follows the last
    /// `/documents/` is a document key. Else the whole is a topic. Empty parts are a mistake: proxies merge slashes.
    fn of(path: &str) -> Option<(Self, &'static str)> {
        let rest = path.strip_prefix("/v1/topics/")?;
        if rest.split('/').any(str::is_empty) {
            return None;
        }
        let (topic, doc_key, pattern) = if let Some(topic) = rest.strip_suffix("/updates") {
            (topic, None, UPDATES)
        } else if let Some(topic) = rest.strip_suffix("/snapshot") {
            (topic, None, SNAPSHOT)
        } else if let Some((topic, doc_key)) = rest.rsplit_once("/documents/") {
            (topic, Some(doc_key), DOCUMENT)
        } else {
            (rest, None, BOUNDS)
        };
        Some((Self { topic: topic.to_owned(), doc_key: doc_key.map(str::to_owned) }, pattern))
    }
}

/// The router of a server.
pub(crate) fn of(shared: &Shared) -> Router {
    let routes = ROUTES
        .iter()
        .fold(Router::new(), |router, route| router.route(route.pattern, served(shared, Some(route))));
    routes.fallback(unmatched).with_state(shared.clone())
}

/// What answers on `route`, or where there is none, with what all answers have in common.
fn served(shared: &Shared, route: Option<&'static Route>) -> MethodRouter<Shared> {
    let methods = match route {
        Some(route) => {
            let refuse = move || async move { method_not_allowed(route) };
            let methods = (route.methods)().fallback(refuse);
            // axum answers HEAD wherever it answers GET.
            if route.allow.contains("HEAD") { methods } else { methods.head(refuse) }
        }
        None => any(unknown_route),
    };
    methods.layer(from_fn_with_state(Served { shared: shared.clone(), route }, common))
}

async fn common(State(served): State<Served>, request: Request, next: Next) -> Response {
    served.with_common(request, |request| next.run(request)).await
}

/// What is answered where the router finds nothing.
async fn unmatched(State(shared): State<Shared>, mut request: Request) -> Response {
    let decoded = Decoded::of(request.uri().path());
    let route = decoded.and_then(|(decoded, pattern)| {
        request.extensions_mut().insert(decoded);
        ROUTES.iter().find(|route| route.pattern == pattern)
    });
    let Ok(response) = served(&shared, route).with_state(shared).oneshot(request).await;
    response
}

/// The topic of a publish, if `request` is one and names its topic as the router would find it.
pub(crate) fn published_to(request: &Request) -> Option<Decoded> {
    let topic = request.uri().path().strip_prefix("/v1/topics/")?.strip_suffix("/updates")?;
    let is_one = request.method() == Method::POST && !topic.is_empty() && !topic.contains('/');
    is_one.then(|| Decoded { topic: topic.to_owned(), doc_key: None })
}

/// Answers a publish past the router.
///
/// A router makes boxes for each request, and a publish costs more by them. What all answers have in common is the same here.
pub(crate) fn publish(
    shared: &Shared,
    topic: Decoded,
    request: Request,
) -> impl Future<Output = Response> + Send + use<> {
    let served =
        Served { shared: shared.clone(), route: ROUTES.iter().find(|route| route.pattern == UPDATES) };
    let shared = shared.clone();
    served.with_common(request, |request| routes::publish_to(shared, topic, request))
}

async fn unknown_route() -> Problem {
    Problem::not_found("unknown_route", "there is nothing here; /openapi.json lists the routes")
}

fn method_not_allowed(Route { pattern, allow, .. }: &'static Route) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("{pattern} takes {allow}"))
        .with_header(header::ALLOW, HeaderValue::from_static(allow))
}

/// A route of a server, or `None` for the paths that are no route.
#[derive(Clone)]
struct Served {
    shared: Shared,
    route: Option<&'static Route>,
}

impl Served {
    /// Answers by `route`, and adds what all answers have in common: an id, a log line, metrics.
    async fn with_common<F>(self, mut request: Request, route: impl FnOnce(Request) -> F + Send) -> Response
    where
        F: Future<Output = Response> + Send,
    {
        self.shared.run_background();
        let started = Instant::now();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let context = Context::new(&self.shared, &request);
        request.extensions_mut().insert(context.clone());
        let of = self.route.filter(|route| route.audience.has_origins());
        let refusal = of.and_then(|of| self.refuse_origin(of, &request));
        // What it says to a page that may not ask, nobody reads.
        let polls = (refusal.is_none() && self.is_of_long_poll(&method))
            .then(|| request.headers().get(header::ACCEPT).cloned());
        let is_page = refusal.is_none() && of.is_some() && request.headers().contains_key(header::ORIGIN);
        let mut response = match (refusal, of) {
            (Some(refusal), _) => refusal,
            // Boxed: what is for everybody would be so much larger.
            (None, Some(of)) if is_page => self.to_page(of, &context, request, route).boxed().await,
            (None, _) => match self.check(&context, &request) {
                Ok(()) => context.held(route(request).await),
                Err(problem) => problem.into_response(),
            },
        };
        let Inner { origins, token_source, .. } = &*self.shared.0;
        if !is_page && of.is_some() && origins.vary(token_source.is_some()) {
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
        }
        let Context { request_id, peer, client, .. } = &context;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(request_id) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, request_id);
        }
        let code = response.extensions().get::<ProblemCode>().map(|code| code.0);
        if let Some(accept) = polls.filter(|_| code.is_some()) {
            response = longpoll::refuse(response, accept.as_ref()).boxed().await;
        }
        if let Some(code) = code {
            telemetry::refused(code, self.route.map_or(Http, |route| route.surface));
        }
        let (peer, client) = (peer.map(tracing::field::display), client.map(tracing::field::display));
        let (status, elapsed) = (response.status(), started.elapsed());
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let end = path.floor_char_boundary(LOGGED_PATH);
        tracing::info!(
            target: "khala_server::access",
            request_id = &**request_id, %method, path = &path[..end], status = status.as_u16(), ms, peer, client,
            code, "request"
        );
        let place = self
            .route
            .and_then(|route| Some((ROUTES.iter().position(|one| std::ptr::eq(one, route))?, route.pattern)));
        self.shared.0.request_metrics.answered(place, &method, status, elapsed);
        response
    }

    /// Whether its client reads no HTTP status.
    fn is_of_long_poll(&self, method: &Method) -> bool {
        let reads = matches!(*method, Method::GET | Method::POST);
        reads && self.route.is_some_and(|route| route.pattern == LONG_POLL)
    }

    /// The refusal of a page of an unknown origin, and of a question about what pages may send that is none.
    fn refuse_origin(&self, of: &'static Route, request: &Request) -> Option<Response> {
        match self.shared.0.origins.check(request.headers(), request.uri()) {
            Err(denied) => Some(Problem::from(denied).into_response()),
            Ok(()) if request.method() != Method::OPTIONS || is_preflight(request) => None,
            Ok(()) => Some(method_not_allowed(of).into_response()),
        }
    }

    /// Answers a page by `route` within its limits, with the headers of CORS.
    async fn to_page<F>(
        &self,
        of: &'static Route,
        context: &Context,
        request: Request,
        route: impl FnOnce(Request) -> F + Send,
    ) -> Response
    where
        F: Future<Output = Response> + Send,
    {
        let Inner { origins, token_source, .. } = &*self.shared.0;
        let cors = origins.cors(of.allow, token_source.is_some());
        let asks = request.method() == Method::OPTIONS;
        let mut route = Some(route);
        let page = cors.layer(service_fn(move |request| {
            let route = route.take().expect("a request is answered once");
            async move {
                Ok::<_, Infallible>(match self.check(context, &request) {
                    Ok(()) => context.held(route(request).await),
                    Err(problem) => problem.into_response(),
                })
            }
        }));
        let Ok(mut response) = page.oneshot(request).await;
        if asks {
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        response
    }

    /// Refuses an encoded body, and a request more than its connection or its address may have.
    fn check(&self, context: &Context, request: &Request) -> Result<(), Problem> {
        let Self { shared, route } = self;
        if route.is_none_or(|route| route.audience.is_limited()) {
            if let Some(refusal) = request.extensions().get::<Refusal>() {
                return Err((*refusal).into());
            }
            context.hold_address(shared)?;
        }
        if request.method() == Method::POST && route.is_some_and(|route| route.allow.contains(POST)) {
            check_encoding(request.headers())?;
        }
        Ok(())
    }
}

/// Whether a browser asks what a page may send, rather than the page for something.
fn is_preflight(request: &Request) -> bool {
    let headers = request.headers();
    headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoded_path_is_read_from_its_end() {
        for (path, topic, doc_key, pattern) in [
            ("a/b", "a/b", None, BOUNDS),
            ("a/b/c/d/e/f/g/h", "a/b/c/d/e/f/g/h", None, BOUNDS),
            ("a/b/updates", "a/b", None, UPDATES),
            ("a/b/c/d/e/f/updates", "a/b/c/d/e/f", None, UPDATES),
            ("a/updates/updates", "a/updates", None, UPDATES),
            ("a/b/snapshot", "a/b", None, SNAPSHOT),
            ("a/b/documents/k", "a/b", Some("k"), DOCUMENT),
            ("a/b/documents/k/l", "a/b", Some("k/l"), DOCUMENT),
            ("a/documents/b/documents/k", "a/documents/b", Some("k"), DOCUMENT),
            ("documents/k/l", "documents/k/l", None, BOUNDS),
        ] {
            let (found, found_pattern) = Decoded::of(&format!("/v1/topics/{path}")).unwrap();
            assert_eq!(
                (&*found.topic, found.doc_key.as_deref(), found_pattern),
                (topic, doc_key, pattern),
                "{path}"
            );
        }
        for path in ["a//b", "a/b/", "a/b//updates", "/a/b", "a/b/documents/"] {
            assert!(Decoded::of(&format!("/v1/topics/{path}")).is_none(), "{path}");
        }
    }

    #[test]
    fn no_pattern_stands_twice() {
        let mut patterns: Vec<_> = ROUTES.iter().map(|route| route.pattern).collect();
        patterns.sort_unstable();
        patterns.dedup();
        assert_eq!(patterns.len(), ROUTES.len());
    }
}
