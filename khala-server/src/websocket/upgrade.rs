//! From a request to a WebSocket: everything is checked before the upgrade, so that a refusal is an HTTP answer
//! that a person can read.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderValue, StatusCode, header, request::Parts};
use hyper::upgrade::{OnUpgrade, Parts as Taken};
use hyper_util::rt::TokioIo;
use khala_core::{
    Grant, Token,
    auth::Denied,
    connection::{Connection, Ended},
    wire::Serializer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::Instrument as _;

use super::{token, transport::WebSocket};
use crate::{
    compatibility::ClientOfQuery, connection::Accepted, openapi, problem::Problem, request::Context,
    shared::Shared,
};

/// Opens a WebSocket that speaks Phoenix Channels.
///
/// The token comes in the Authorization header, in a subprotocol or in the query. Other query parameters are the client's own.
/// PROTOCOL.md describes what is spoken. A request that is no handshake is checked as one: a page learns nothing of why its
/// handshake was refused, and asks here without one. 426 `websocket_required` then says that nothing else was wrong, but for limits
/// on connections, which such a question neither checks nor uses up.
#[utoipa::path(
    get, path = "/sync/v1/websocket", operation_id = "connect", tag = "sync", security(("token" = []), ()),
    params(openapi::WebSocketQuery, ClientOfQuery),
    responses((status = 101, description = "It is open."), openapi::HandshakeRefusals),
)]
pub(crate) async fn upgrade(
    State(shared): State<Shared>,
    context: Context,
    request: Request,
) -> Result<Response, Problem> {
    open(shared, context, request, Names::Plain).await
}

/// Opens a WebSocket for clients of Supabase's Realtime.
///
/// It is `/sync/v1/websocket` with the names that these clients have: `realtime:` stands before each topic, an event of the server is
/// within a `broadcast`, and the token may also come as `apikey` in the query. PROTOCOL.md describes it.
#[utoipa::path(
    get, path = "/realtime/v1/websocket", operation_id = "connectRealtime", tag = "sync", security(("token" = []), ()),
    params(openapi::RealtimeQuery, ClientOfQuery),
    responses((status = 101, description = "It is open."), openapi::HandshakeRefusals),
)]
pub(crate) async fn upgrade_realtime(
    State(shared): State<Shared>,
    context: Context,
    request: Request,
) -> Result<Response, Problem> {
    open(shared, context, request, Names::Realtime).await
}

/// By which names a client knows topics and its token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Plain,
    Realtime,
}

async fn open(
    shared: Shared,
    Context { request_id, peer, client, .. }: Context,
    request: Request,
    names: Names,
) -> Result<Response, Problem> {
    let (head, _) = request.into_parts();
    let serializer = match names {
        Names::Plain => serializer(head.uri.query())?,
        Names::Realtime => serializer(head.uri.query())?.into_realtime(),
    };
    let accept = if is_handshake(&head) { Some(accept_key(&head)?) } else { None };
    shared.0.compatibility.check(&head.headers, head.uri.query())?;
    let grant = verified(&shared, &head, names, client, accept.is_some()).await?;
    // Counted before it is looked whether the server stops: so it is let in and waited for, or neither.
    let open = Open::new(&shared.0.upgraded);
    if shared.0.drain.has_begun() {
        return Err(Problem::unavailable("draining", "the server is shutting down"));
    }

    let Some(accept) = accept else { return Err(websocket_required()) };
    let connection = shared.0.khala.connect(grant.clone(), client, serializer)?;
    let connection = connection.with_path_prefix(shared.0.path_prefix.clone());

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if token::subprotocols(&head.headers).any(|protocol| protocol == token::PHOENIX) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(token::PHOENIX));
    }
    let upgrade = hyper::upgrade::on(http::Request::from_parts(head, ()));
    let opened = Opened {
        shared: shared.clone(),
        connection,
        grant,
        request_id: Arc::clone(&request_id),
        peer,
        client,
        _open: open,
    };
    // What the session logs is found by the request's id.
    let span = tracing::info_span!("connection", request_id = &*request_id);
    tokio::spawn(opened.run(upgrade).instrument(span));
    Ok(response)
}

/// What the token of a handshake proves, or of a request that is none.
async fn verified(
    shared: &Shared,
    head: &Parts,
    names: Names,
    client: Option<IpAddr>,
    handshake: bool,
) -> Result<Grant, Problem> {
    let parameters: &[&str] = match names {
        Names::Plain => &["token"],
        Names::Realtime => &["token", "apikey"],
    };
    let token = match token::of_websocket(&head.headers, head.uri.query(), parameters) {
        Err(Denied::MissingToken) => shared.token_of_source(head).ok_or(Denied::MissingToken),
        token => token,
    };
    verify(shared, token, client, handshake).await
}

/// What `token` proves. An address with too many failed tries is refused before its token is checked. What does not `count` is no
/// try: any page may have a browser ask without a handshake, as for a picture.
pub(crate) async fn verify(
    shared: &Shared,
    token: Result<Token, Denied>,
    client: Option<IpAddr>,
    counts: bool,
) -> Result<Grant, Problem> {
    let khala = &shared.0.khala;
    khala.access().check_connect_rate(client)?;
    let verified = match token {
        Ok(token) => khala.access().verify(&token).await,
        Err(denied) => Err(denied),
    };
    if counts && verified.as_ref().is_err_and(|denied| !matches!(denied, Denied::Unavailable(_))) {
        khala.access().failed(client);
    }
    Ok(verified?)
}

/// Whether the request asks for a WebSocket.
fn is_handshake(head: &Parts) -> bool {
    let names = |name, wanted: &str| {
        let values = head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let mut tokens = values.flat_map(|value| value.split(',')).map(str::trim);
        tokens.any(|token| token.eq_ignore_ascii_case(wanted))
    };
    names(header::UPGRADE, "websocket") && names(header::CONNECTION, "upgrade")
}

fn websocket_required() -> Problem {
    let detail = "this is a WebSocket: it takes `Connection: Upgrade` and `Upgrade: websocket`";
    Problem::new(StatusCode::UPGRADE_REQUIRED, "websocket_required", detail)
        .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
        .with_header(header::CONNECTION, HeaderValue::from_static("upgrade"))
}

/// Checks the handshake's headers (RFC 6455, section 4.2.1); gives the answer to its key.
fn accept_key(head: &Parts) -> Result<HeaderValue, Problem> {
    let invalid = |detail: &str| Problem::invalid("invalid_upgrade", detail);
    if head.headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(invalid("Sec-WebSocket-Version is not 13, which is the one spoken here")
            .with_header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
    }
    let key = head.headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let accept = key.filter(|key| key.len() == 24).map(derive_accept_key);
    accept
        .and_then(|accept| HeaderValue::try_from(accept).ok())
        .ok_or_else(|| invalid("Sec-WebSocket-Key is missing or not 16 bytes in base64"))
}

/// The serializer that the query's `vsn` asks for, and V1 without one, as Phoenix has it. Other parameters are the client's own.
pub(crate) fn serializer(query: Option<&str>) -> Result<Serializer, Problem> {
    let mut parameters = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let vsn = parameters.find(|(name, _)| name == "vsn").map(|(_, vsn)| vsn);
    let Some(vsn) = vsn else { return Ok(Serializer::V1) };
    Serializer::of_version(&vsn).ok_or_else(|| {
        let detail = "the server speaks vsn 2.0.x and 1.0.x, and the query asks for another one";
        Problem::invalid("unsupported_vsn", detail).with("supported", vec!["2.0.x", "1.0.x"])
    })
}

/// Counts an upgraded connection, or a session of long polling, until its task is done.
pub(crate) struct Open(watch::Sender<usize>);

impl Open {
    pub(crate) fn new(open: &watch::Sender<usize>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// A connection that was let in.
struct Opened {
    shared: Shared,
    connection: Connection,
    grant: Grant,
    request_id: Arc<str>,
    peer: Option<SocketAddr>,
    client: Option<IpAddr>,
    _open: Open,
}

impl Opened {
    /// Waits for the WebSocket, and serves it.
    ///
    /// What serving takes is put aside: as a part of this future it would take its room twice.
    async fn run(self, upgrade: OnUpgrade) {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                let request_id = &*self.request_id;
                tracing::debug!(request_id, %error, "the client was gone before its WebSocket was open");
                return;
            }
        };
        // Our own socket is served as it is; that of a host who serves connections by himself, as hyper hands it over.
        let serving = match upgraded.downcast::<TokioIo<Accepted>>() {
            Ok(Taken { io, read_buf, .. }) => self.serve(io.into_inner().into_stream(), read_buf).boxed(),
            Err(upgraded) => self.serve(TokioIo::new(upgraded), Bytes::new()).boxed(),
        };
        serving.await;
    }

    async fn serve<S>(self, io: S, read: Bytes)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { shared, connection, grant, request_id, peer, client, _open } = self;
        let mut transport = WebSocket::new(io, read, shared.0.limits.frame_bytes).boxed().await;
        let opened = shared.0.khala.moment();
        let (peer, client) = (peer.map(tracing::field::display), client.map(tracing::field::display));
        let (request_id, subject) = (&*request_id, grant.subject());
        tracing::info!(target: "khala_server::access", request_id, subject, peer, client, "websocket opened");
        let ended = connection.run(&mut transport).await;
        let (by, code, reason) = match ended {
            Ended::Closed(close) => ("server", Some(close.code()), close.reason()),
            Ended::Gone => ("client", transport.client_code(), "gone"),
        };
        let ms = shared.0.khala.moment().since(opened).as_millis() as u64;
        tracing::info!(target: "khala_server::access", request_id, subject, peer, client, by, code, reason, ms, "websocket closed");
        transport.finish().boxed().await;
    }
}
