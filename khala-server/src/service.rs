//! One request, one answer: finds the route, checks origin and token, and notes in log and metrics what came of it.
//!
//! # Invariants
//! The query string is in neither, because a token may be in it; and no metric has a label of unbounded range.

use std::{
    error::Error as StdError,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::body::Body;
use khala_core::{
    Grant, Topic,
    auth::Access,
    telemetry::{self, Surface},
    update::TraceField,
};
use serde::Serialize;

use crate::{
    Server, admin, body, documents, history,
    mint::mint,
    operations, origins,
    problem::Problem,
    proxies,
    publish::publish,
    response::{Holds, ResponseBody},
    route::{Route, doc_key, topic},
    sockets::Refusal,
    stream,
    upgrade::upgrade,
};

/// The header by which a request is found again in logs.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// Longer paths are cut off in the log.
const LOGGED_PATH: usize = 512;

/// A response of JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response<Full<Bytes>>, Problem> {
    let body = serde_json::to_vec(body).expect("a response has a JSON form");
    let mut response = json_bytes(body);
    *response.status_mut() = status;
    Ok(response)
}

/// A response of text that is JSON already.
pub(crate) fn json_bytes(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Server {
    /// Answers a request, and takes over its connection if it is a WebSocket's.
    ///
    /// It never fails: what is wrong is answered. For the WebSocket, the connection must be served with upgrades,
    /// on a tokio runtime. How long the head of a request may take, and how long a client may take nothing of an
    /// answer, is left to the caller that serves the connection, as [`serve`](crate::serve()) does. So is telling who the peer is,
    /// by a [`SocketAddr`] among the request's extensions: without it nothing is limited per address. Dropping the
    /// future leaves a publish stored or not, as [`Khala::publish`](khala_core::Khala::publish) does. A stream of updates
    /// goes on by itself while its answer is read, on the tokio runtime.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.keep();
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let request_id = request_id(&head.headers);
        let peer = peer(&head);
        let client = self.client(&head);
        let route = Route::of(&path);
        let origins = self.0.origins.as_ref().filter(|_| route.is_some_and(Route::takes_token));
        let page = origins.map(|origins| origins.check(&head.headers));
        let answer = match (&page, route) {
            (Some(Err(denied)), _) => Err(denied.clone().into()),
            (Some(Ok(Some(_))), Some(route)) if origins::is_preflight(route, &head) => {
                Ok(origins::preflight(route).map(ResponseBody::from))
            }
            _ => self.respond(route, head, body, &request_id, client).await,
        };
        let (mut response, code) = match answer {
            Ok(response) => (response, None),
            Err(problem) => {
                let code = problem.code();
                telemetry::refused(code, route.map_or(Surface::Http, Route::surface));
                (problem.into_response().map(ResponseBody::from), Some(code))
            }
        };
        let headers = response.headers_mut();
        if let Some(page) = page {
            origins::share(headers, page.ok().flatten());
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(request_id) = HeaderValue::from_str(&request_id) {
            headers.insert(REQUEST_ID, request_id);
        }
        let (peer, client) = (peer.map(tracing::field::display), client.map(tracing::field::display));
        let (status, elapsed) = (response.status(), started.elapsed());
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let end = path.floor_char_boundary(LOGGED_PATH);
        tracing::info!(
            target: "khala_server::access",
            request_id, %method, path = &path[..end], status = status.as_u16(), ms, peer, client, code, "request"
        );
        self.0.request_metrics.answered(route, &method, status, elapsed);
        response
    }

    async fn respond<B>(
        &self,
        route: Option<Route<'_>>,
        head: Parts,
        body: B,
        request_id: &str,
        client: Option<IpAddr>,
    ) -> Result<Response<ResponseBody>, Problem>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let mut holds = Holds::default();
        if !route.is_some_and(Route::is_for_operators) {
            if let Some(refusal) = head.extensions.get::<Refusal>() {
                return Err((*refusal).into());
            }
            holds.of_address = Some(self.0.requests.of_address(client, self.0.khala.moment())?);
        }
        let Some(route) = route else {
            return Err(Problem::not_found(
                "unknown_route",
                "there is nothing here; /openapi.json lists the routes",
            ));
        };
        if !route.allows(&head.method) {
            let detail = format!("{} takes {}", route.pattern(), route.allow());
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
                .with_header(header::ALLOW, HeaderValue::from_static(route.allow())));
        }
        let query = head.uri.query();
        let headers = &head.headers;
        if head.method == Method::POST {
            body::check_encoding(headers)?;
        }
        let whole = match route {
            Route::AdminConnections => {
                admin::admit(self, headers)?;
                admin::connections(self, query)
            }
            Route::AdminDrain => {
                admin::admit(self, headers)?;
                admin::drain(self, &head, body, request_id).await
            }
            Route::AdminFanoutHooks => {
                admin::admit(self, headers)?;
                admin::fanout::hooks(self, query)
            }
            Route::AdminFanoutMetrics => {
                admin::admit(self, headers)?;
                admin::fanout::metrics(self, query).await
            }
            Route::AdminRetention => {
                admin::admit(self, headers)?;
                if head.method == Method::POST {
                    Box::pin(admin::retention::sweep(self, &head, body, request_id)).await
                } else {
                    admin::retention::status(self, query).await
                }
            }
            Route::AdminRevocations => {
                admin::admit(self, headers)?;
                if head.method == Method::POST {
                    Box::pin(admin::revoke(self, &head, body, request_id)).await
                } else {
                    admin::revocations(self, query).await
                }
            }
            Route::Bounds { topic: name } => {
                history::bounds(self, &self.opened(headers, name, Access::Read, &mut holds).await?, query)
                    .await
            }
            Route::Document { topic: name, doc_key: key } => {
                let topic = self.opened(headers, name, Access::Read, &mut holds).await?;
                documents::document(self, &topic, &doc_key(key)?, query, &mut holds).await
            }
            Route::Health => operations::health(),
            Route::Metrics => operations::metrics(self),
            // Boxed: a connection moves the future of each of its requests, and this one is the largest.
            Route::Mint { .. } => Box::pin(mint(self, &head, body, request_id, client)).await,
            Route::OpenApi => Ok(operations::openapi()),
            Route::Ready => Box::pin(operations::ready(self)).await,
            Route::Snapshot { topic: name } => {
                let (grant, topic) = self.granted(headers, name, Access::Read, &mut holds).await?;
                documents::snapshot(self, &grant, &topic, query, &mut holds).await
            }
            Route::Topics => {
                let grant = self.grant(headers, &mut holds).await?;
                history::topics(self, &grant, query, &mut holds).await
            }
            Route::Updates { topic: name } if head.method == Method::POST => {
                let grant = self.grant(headers, &mut holds).await?;
                let permit = self.0.khala.publish_permit(&grant, &topic(name)?).await?;
                let holds = Arc::new(holds);
                if stream::is_asked_for(headers) {
                    return stream::publish(self, grant, Some(permit), headers, body, request_id, holds)
                        .await;
                }
                let answer = publish(self, &permit, &head, body, &holds).await?;
                return Ok(answer.map(|body| ResponseBody::from(body).with(holds)));
            }
            Route::Updates { topic: name } => {
                let (grant, topic) = self.granted(headers, name, Access::Read, &mut holds).await?;
                history::updates(self, &grant, &topic, query, &mut holds).await
            }
            Route::UpdatesOfMany => {
                let grant = self.grant(headers, &mut holds).await?;
                if stream::is_asked_for(headers) {
                    let holds = Arc::new(holds);
                    return stream::publish(self, grant, None, headers, body, request_id, holds).await;
                }
                Err(stream::unsupported())
            }
            Route::WebSocket => upgrade(self, head, request_id, client).await,
        };
        whole.map(|response| {
            // What was taken before was a guess.
            if let Some((memory, bytes)) = holds.memory.as_mut().zip(response.body().size_hint().exact()) {
                memory.hold(bytes);
            }
            response.map(|body| ResponseBody::from(body).with(Arc::new(holds)))
        })
    }

    /// Who sent the request, as far as that is known.
    fn client(&self, head: &Parts) -> Option<IpAddr> {
        let peer = peer(head)?;
        Some(proxies::client(&self.0.trusted_proxies, peer.ip(), &head.headers))
    }

    /// What the request's token proves; the request is one of its subject's from then on.
    async fn grant(&self, headers: &HeaderMap, holds: &mut Holds) -> Result<Grant, Problem> {
        let grant = self.0.khala.access().verify(&khala_auth::bearer_token(headers)?).await?;
        holds.of_subject = Some(self.0.requests.of_subject(grant.subject(), self.0.khala.moment())?);
        Ok(grant)
    }

    /// The topic that a part of a path names, if it is open to the subject of the request's token.
    async fn opened(
        &self,
        headers: &HeaderMap,
        name: &str,
        access: Access,
        holds: &mut Holds,
    ) -> Result<Topic, Problem> {
        self.granted(headers, name, access, holds).await.map(|(_, topic)| topic)
    }

    /// That, and what the token proves.
    async fn granted(
        &self,
        headers: &HeaderMap,
        name: &str,
        access: Access,
        holds: &mut Holds,
    ) -> Result<(Grant, Topic), Problem> {
        let grant = self.grant(headers, holds).await?;
        let topic = topic(name)?;
        self.0.khala.access().authorize(&grant, &topic, access).await?;
        Ok((grant, topic))
    }
}

/// The other end of the connection, as `serve` or the application says.
pub(crate) fn peer(head: &Parts) -> Option<SocketAddr> {
    head.extensions.get::<SocketAddr>().copied()
}

/// The client's own id for the request, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match sent.and_then(|text| TraceField::parse(text).ok()) {
        Some(sent) => sent.as_str().to_owned(),
        None => {
            // Its keys are random, and asking the system for more each time would cost a call of it.
            static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
            static COUNT: AtomicU64 = AtomicU64::new(0);
            format!("{:016x}", KEYS.hash_one(COUNT.fetch_add(1, Ordering::Relaxed)))
        }
    }
}
