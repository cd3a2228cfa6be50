//! The server as an application has it: how it is made, and what it is mounted by.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{BoxError, Router, body::Body, response::Response};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, request::Parts};
use ipnet::IpNet;
use khala_auth::{SharedSecret, mint::Mint};
use khala_core::{Khala, Token, wire::PathPrefix};
use tower::Service;

use crate::{
    Compatibility, Limits, Origins, RevocationTerms, router,
    shared::{Inner, Shared},
};

/// The server: a [`tower` service](Service), and an [`axum::Router`] to mount in an application. Cloning it gives another handle to
/// the same.
#[derive(Clone)]
pub struct Server {
    pub(crate) shared: Shared,
    router: Router,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

/// Makes a [`Server`]. A builder and not options, because most of it is roles to put in place, which are no data.
#[derive(Debug)]
pub struct ServerBuilder(Inner);

impl ServerBuilder {
    /// Bounds what clients may send.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.0.set_limits(limits);
        self
    }

    /// Serves pages of these origins alone, over HTTP and over the WebSocket alike: another `Origin` is refused (403
    /// `origin_not_allowed`), and these may read the answers (CORS).
    ///
    /// Without it, pages of any origin are served, over both: a browser sends no bearer token by itself, so a page that
    /// has none gets nothing. Where tokens come from [cookies](Self::with_token_source), only pages of the server's own
    /// origin are served by default.
    #[must_use]
    pub fn with_origins(mut self, origins: Origins) -> Self {
        self.0.origins = origins;
        self
    }

    /// Refuses a WebSocket to clients that are too old or too new. Without it, none is.
    #[must_use]
    pub fn with_compatibility(mut self, compatibility: Compatibility) -> Self {
        self.0.compatibility = compatibility;
        self
    }

    /// Believes the `X-Forwarded-For` of peers in these networks: the right-most address in it that is in none of
    /// them is the client's, for limits per address and in the access log. Without it, the header is not looked at.
    #[must_use]
    pub fn with_trusted_proxies(mut self, networks: Vec<IpNet>) -> Self {
        self.0.trusted_proxies = networks;
        self
    }

    /// Spreads the closing of connections over that much time when the server stops. Default: 10 s.
    #[must_use]
    pub fn with_drain(mut self, over: Duration) -> Self {
        self.0.drain.over = over;
        self
    }

    /// Before that, goes on for so long with readiness turned off alone, so that load balancers notice first.
    /// Default: not at all.
    #[must_use]
    pub fn with_readiness_grace(mut self, before: Duration) -> Self {
        self.0.drain.unready = before;
        self
    }

    /// Answers `/metrics` with what `render` gives, in the Prometheus text format. Without it, the route is
    /// not found: an application that mounts Khala has metrics of its own.
    #[must_use]
    pub fn with_metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.0.metrics = Some(Box::new(render));
        self
    }

    /// Has `/readyz` mention what `notes` gives: what the server does without just now and is no less ready for, as a
    /// fanout that does not hear.
    #[must_use]
    pub fn with_notes(mut self, notes: impl Fn() -> Vec<&'static str> + Send + Sync + 'static) -> Self {
        self.0.notes = Some(Box::new(notes));
        self
    }

    /// Makes tokens by `mint` at `/v1/token`. Without it, the route is not found.
    #[must_use]
    pub fn with_mint(mut self, mint: Mint) -> Self {
        self.0.mint = Some(mint);
        self
    }

    /// Takes the token of a request that has no `Authorization` header from elsewhere, as from a cookie of the
    /// application's. `source` is given the head of the request, WebSocket handshakes too; what it gives is verified as
    /// any token is.
    ///
    /// Without [`with_origins`](Self::with_origins), pages of other origins are then refused: browsers send cookies
    /// with their requests too.
    ///
    /// ```
    /// # use http::{header, request::Parts};
    /// # use khala_core::{Khala, MemoryStore, Token};
    /// # use khala_server::Server;
    /// fn session(head: &Parts) -> Option<Token> {
    ///     let cookies = head.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    ///     let mut pairs = cookies.flat_map(|cookies| cookies.split("; "));
    ///     pairs.find_map(|pair| pair.strip_prefix("session=")).map(Token::new)
    /// }
    ///
    /// # let khala = Khala::builder(MemoryStore::new()).build();
    /// let server = Server::builder(khala).with_token_source(session).build();
    /// ```
    #[must_use]
    pub fn with_token_source(
        mut self,
        source: impl Fn(&Parts) -> Option<Token> + Send + Sync + 'static,
    ) -> Self {
        self.0.token_source = Some(Box::new(source));
        self
    }

    /// Puts `prefix` before each link in an answer: `next` of a page, and `snapshot` of a stale cursor's. It is the path under which
    /// clients reach this server, by an application that [nests](Router::nest) it, by a proxy, or by both. It moves no
    /// route: that is what the application or the proxy does. Without it, clients reach the server at `/`.
    ///
    /// ```
    /// # use axum::Router;
    /// # use khala_core::{Khala, MemoryStore, wire::PathPrefix};
    /// # use khala_server::Server;
    /// # let khala = Khala::builder(MemoryStore::new()).build();
    /// let server = Server::builder(khala).with_path_prefix(PathPrefix::parse("/realtime")?).build();
    /// let app = Router::new().nest("/realtime", server.router());
    /// # let _: Router = app;
    /// # Ok::<_, khala_core::TextError>(())
    /// ```
    #[must_use]
    pub fn with_path_prefix(mut self, prefix: PathPrefix) -> Self {
        self.0.path_prefix = Some(prefix);
        self
    }

    /// Opens the routes under `/internal/v1/khala/` for those who know `token`. Without it, they are not found.
    #[must_use]
    pub fn with_admin_token(mut self, token: SharedSecret) -> Self {
        self.0.admin = Some(token);
        self
    }

    /// Keeps what the admin route revokes for as long as tokens of these terms may be valid. Without it, those of
    /// [`RevocationTerms::default`] are taken.
    #[must_use]
    pub fn with_revocation_terms(mut self, terms: RevocationTerms) -> Self {
        self.0.revocation_terms = terms;
        self
    }

    /// Takes away history that is no longer kept about that often, as `Sweeper::run_sweeper` does, from the first
    /// request on. Without it, that is the application's to do.
    #[must_use]
    pub fn with_sweep_every(mut self, interval: Duration) -> Self {
        self.0.sweep_every = Some(interval);
        self
    }

    /// The service.
    pub fn build(self) -> Server {
        let mut inner = self.0;
        // A token that browsers send by themselves, as in a cookie, comes with the requests of other sites' pages too.
        if inner.token_source.is_some() && inner.origins.is_any() {
            inner.origins = Origins::same();
        }
        let shared = Shared(Arc::new(inner));
        Server { router: router::of(&shared), shared }
    }
}

impl Server {
    /// Starts to make a service that gives access to `khala` to those whose token its verifier accepts.
    pub fn builder(khala: Khala) -> ServerBuilder {
        ServerBuilder(Inner::new(khala, router::ROUTES.len()))
    }

    /// The handle that this service gives access to.
    pub fn khala(&self) -> &Khala {
        &self.shared.0.khala
    }

    /// All routes, to merge with an application's own, or to [nest](Router::nest) under a [prefix](ServerBuilder::with_path_prefix).
    ///
    /// A route of one's own, which reads what the server serves:
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use khala_core::{Khala, MemoryStore};
    /// # use khala_server::Server;
    /// # let server = Server::builder(Khala::builder(MemoryStore::new()).build()).build();
    /// let khala = server.khala().clone();
    /// let app = server.router().route(
    ///     "/orders/{id}/head",
    ///     get(async move |axum::extract::Path(id): axum::extract::Path<u64>| {
    ///         let topic = khala.topic(format!("orders:{id}")).map_err(|error| error.to_string())?;
    ///         let bounds = topic.bounds().await.map_err(|error| error.to_string())?;
    ///         Ok::<_, String>(bounds.head.to_string())
    ///     }),
    /// );
    /// # let _: Router = app;
    /// ```
    ///
    /// Paths that are no route are answered by Khala too: 404 `unknown_route`, or a topic whose `/` a proxy decoded. An
    /// application with a [fallback](Router::fallback) of its own merges `server.router().reset_fallback()`.
    ///
    /// Limits per address and the access log need the peer's address: [`serve`](crate::serve()) says it, and so does
    /// [`into_make_service_with_connect_info`](Router::into_make_service_with_connect_info) of axum with a
    /// [`SocketAddr`](std::net::SocketAddr). A listener of one's own puts a `SocketAddr` among the request's extensions.
    ///
    /// A publish by this router costs more than by the server itself, which answers it without a router's boxes. An application
    /// with many publishes over HTTP mounts the server: by [`fallback_service(server)`](Router::fallback_service), or under a
    /// prefix by [`nest_service(prefix, server)`](Router::nest_service).
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Answers a request, and takes over its connection if it is a WebSocket's.
    ///
    /// It never fails: what is wrong is answered. For the WebSocket, the connection must be served with upgrades,
    /// on a tokio runtime. How long the head of a request may take, and how long a client may take nothing of an
    /// answer, is left to the caller that serves the connection, as [`serve`](crate::serve()) does.
    ///
    /// # Cancellation
    /// Dropping the future leaves a publish stored or not, as [`Khala::publish`](khala_core::Khala::publish) does. A
    /// stream of updates goes on by itself while its answer is read, on the tokio runtime.
    pub fn handle<B>(&self, request: Request<B>) -> impl Future<Output = Response> + Send + use<B>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let request = request.map(Body::new);
        match router::published_to(&request) {
            Some(topic) => router::publish(&self.shared, topic, request).left_future(),
            None => self.router.clone().call(request).map(|Ok(response)| response).right_future(),
        }
    }
}

impl<B> Service<Request<B>> for Server
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.handle(request).map(Ok).boxed()
    }
}
