//! A server on a free port, and clients for it.

use std::{
    fmt::Debug,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, future::BoxFuture, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper_util::rt::TokioIo;
use khala_auth::{JwtIssuer, JwtOptions, JwtVerifier};
use khala_core::admission::Rate;
use khala_core::class::{Classes, Tier, TopicClass, TopicPattern};
use khala_core::{
    Append, Batch, Bounds, DocKey, Error, ErrorKind, Khala, KhalaBuilder, Kind, MemoryStore, NewUpdate,
    Payload, Roles, Timestamp, Topic, Update,
    auth::{Access, TokenClaims},
    clock::{Clock, Moment, SystemClock},
    documents::{Documents, Snapshot, SnapshotFrom},
    journal::{DueAfter, DuePage, Journal, Keep, ReadFrom, ReadLimit, Replay, Settled, TopicPage, Trimmed},
    session::SessionOptions,
};
use khala_server::{Limits, Server, ServerBuilder, serve};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest as _, protocol::CloseFrame},
};

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// Longer than anything takes that happens at all.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// A journal in memory that can be told to fail, and to wait.
#[derive(Debug, Default)]
pub(crate) struct Store {
    journal: MemoryStore,
    fault: Mutex<Option<ErrorKind>>,
    unwritable: Mutex<Option<ErrorKind>>,
    corrupt: Mutex<Option<Topic>>,
    held: watch::Sender<bool>,
    asked: AtomicU64,
}

impl Store {
    pub(crate) fn fail(&self, kind: Option<ErrorKind>) {
        *self.fault.lock().unwrap() = kind;
    }

    /// Lets the writer fail, and nothing else.
    pub(crate) fn fail_writes(&self, kind: Option<ErrorKind>) {
        *self.unwritable.lock().unwrap() = kind;
    }

    /// Lets every trim of that topic fail.
    pub(crate) fn corrupt(&self, topic: Topic) {
        *self.corrupt.lock().unwrap() = Some(topic);
    }

    /// Lets appends wait, or go on.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// How many appends came so far.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn check(&self) -> Result<(), Error> {
        match *self.fault.lock().unwrap() {
            Some(kind) => Err(Error::new(kind, "test", "the file /secret/path is to blame")),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Journal for Store {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        self.check()?;
        self.journal.append(topic, batch, now).await
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        self.check()?;
        self.journal.read(topic, start, limit).await
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.check()?;
        let fault = *self.unwritable.lock().unwrap();
        fault.map_or(Ok(()), |kind| Err(Error::new(kind, "test", "it cannot be written")))
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        self.check()?;
        self.journal.bounds(topic).await
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.check()?;
        if self.corrupt.lock().unwrap().as_ref() == Some(topic) {
            return Err(Error::new(ErrorKind::Corrupt, "test", "its floor is past its head"));
        }
        self.journal.trim(topic, keep, now).await
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.check()?;
        self.journal.plan_trim(topic, keep, now).await
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        self.check()?;
        self.journal.topics(prefix, after, limit).await
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        self.check()?;
        self.journal.due(rules, after, until, limit).await
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        self.check()?;
        self.journal.settle(rules, settled).await
    }
}

#[async_trait]
impl Documents for Store {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        self.check()?;
        self.journal.document(topic, key).await
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        self.check()?;
        self.journal.snapshot(topic, from, limit).await
    }
}

/// A running server.
pub(crate) struct Running {
    pub(crate) address: String,
    pub(crate) khala: Khala,
    pub(crate) store: Arc<Store>,
    pub(crate) server: Server,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of<B: Body<Data = Bytes, Error: Debug>>(response: Response<B>) -> Self {
        let (head, body) = response.into_parts();
        let body = timeout(LONG, body.collect()).await.expect("a whole body in time").unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Self { status: head.status, headers: head.headers, text }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that it is a problem of that status and code, and gives its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["status"], status, "{self:?}");
        assert!(problem["detail"].is_string() && problem["title"].is_string(), "{self:?}");
        assert!(!self.text.contains("/secret/path"), "{self:?}");
        problem
    }
}

pub(crate) fn token(scopes: &[Access], ttl: Duration) -> String {
    token_of("ada", scopes, ttl)
}

pub(crate) fn token_of(subject: &str, scopes: &[Access], ttl: Duration) -> String {
    let claims = TokenClaims::new(subject, scopes.iter().map(|access| access.scope()));
    let issuer = JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap();
    issuer.sign(&claims, SystemClock::new().now(), ttl).unwrap().token.reveal().to_owned()
}

/// A token that has ended, by any leeway of a few seconds.
pub(crate) fn expired_token(scopes: &[Access]) -> String {
    let claims = TokenClaims::new("ada", scopes.iter().map(|access| access.scope()));
    let issuer = JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap();
    let then = SystemClock::new().now().minus(LONG * 100);
    issuer.sign(&claims, then, LONG).unwrap().token.reveal().to_owned()
}

/// A token for everything.
pub(crate) fn good_token() -> String {
    token(&[Access::Publish, Access::Read], LONG * 100)
}

/// A clock that stands still but for whoever holds it.
#[derive(Debug)]
pub(crate) struct Hand(AtomicU64);

impl Hand {
    /// On a whole second, and ahead of every token that is made during a test.
    pub(crate) fn new() -> Arc<Self> {
        let seconds = SystemClock::new().now().as_millis() / 1_000 + 60;
        Arc::new(Self(AtomicU64::new(seconds * 1_000)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn moment(&self) -> Moment {
        Moment::from_millis(self.0.load(Ordering::SeqCst))
    }

    async fn sleep(&self, _: Duration) {
        std::future::pending().await
    }

    fn finish(&self, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }
}

/// A request whose body waits: what happens between that and this is up to the test.
pub(crate) struct Begun {
    go: oneshot::Sender<()>,
    answer: JoinHandle<Answer>,
}

impl Begun {
    /// Sends `request` without its body. Ready when the server waits for that.
    pub(crate) async fn new(server: &Server, request: http::request::Builder, body: &'static str) -> Self {
        let ((go, gone), (ask, asked)) = (oneshot::channel::<()>(), oneshot::channel::<()>());
        let body = StreamBody::new(Box::pin(stream::once(async move {
            ask.send(()).unwrap();
            let _ = gone.await;
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(body.as_bytes())))
        })));
        let (server, request) = (server.clone(), request.body(body).unwrap());
        let answer = tokio::spawn(async move { Answer::of(server.handle(request).await).await });
        timeout(LONG, asked).await.expect("it asks for the body").unwrap();
        Self { go, answer }
    }

    /// Sends the body.
    pub(crate) async fn end(self) -> Answer {
        self.go.send(()).unwrap();
        timeout(LONG, self.answer).await.expect("an answer in time").unwrap()
    }
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

pub(crate) async fn running() -> Running {
    running_with(|builder| builder).await
}

pub(crate) async fn running_with(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Running {
    running_on(|khala| khala, set).await
}

pub(crate) async fn running_as(
    sessions: SessionOptions,
    set: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> Running {
    running_on(|khala| khala.with_sessions(sessions), set).await
}

/// A class with limits of its own, and one with narrow limits for all other topics.
fn classes() -> Classes {
    let class = |name, pattern| {
        TopicClass::new(name, TopicPattern::parse(pattern).unwrap())
            .with_read([Access::Read.scope()])
            .with_publish([Access::Publish.scope()])
    };
    let rate = |updates| NonZeroU32::new(updates).map(|updates| Rate::new(updates, updates));
    let runs = TopicClass {
        replay_budget: Some(20_000),
        publish_rate: rate(240),
        payload_bytes: Some(256 << 10),
        ..class("run_events", "run:{run_id}:events")
    };
    let others = TopicClass {
        tier: Tier::Cold,
        replay_budget: Some(500),
        publish_rate: rate(90),
        payload_bytes: Some(64 << 10),
        ..class("fallback", "**")
    };
    Classes::new(vec![runs, others]).unwrap()
}

pub(crate) async fn running_on(
    khala_with: impl FnOnce(KhalaBuilder) -> KhalaBuilder,
    set: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> Running {
    let store = Arc::new(Store::default());
    let verifier = JwtVerifier::hs256(SECRET, JwtOptions::default()).unwrap();
    let roles = Roles {
        journal: Arc::<Store>::clone(&store),
        documents: Arc::<Store>::clone(&store),
        ..MemoryStore::new().into()
    };
    let khala = Khala::builder(roles).with_classes(classes()).with_verifier(Arc::new(verifier));
    let khala = khala_with(khala).build();
    let limits = Limits { body_bytes: 256 << 10, ..Limits::default() };
    let builder = Server::builder(khala.clone())
        .with_limits(limits)
        .with_drain(Duration::from_millis(200))
        .with_metrics(|| "khala_test 1\n".to_owned());
    let server = set(builder).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(serve(listener, server.clone(), async {
        let _ = stopped.await;
    }));
    Running { address, khala, store, server, stop: Some(stop), served }
}

impl Running {
    /// Asks the server to stop.
    pub(crate) fn begin_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until it has.
    pub(crate) async fn stopped(self) {
        timeout(LONG, self.served).await.expect("it stops in time").unwrap();
    }

    /// One request over a connection of its own.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let response = timeout(LONG, sender.send_request(request)).await.expect("an answer in time").unwrap();
        let answer = Answer::of(response).await;
        connection.abort();
        answer
    }

    /// A request with a token that is good for everything.
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("authorization", format!("Bearer {}", good_token()))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Full::default()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub(crate) async fn post_with(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.request(Method::POST, path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::from(body.to_owned())).unwrap()).await
    }

    /// Appends an update in the process.
    pub(crate) async fn publish(&self, name: &str, payload: &str) {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse(payload).unwrap());
        let answer = self.khala.publish(&topic(name), Batch::new(vec![update]).unwrap()).await.unwrap();
        assert!(matches!(answer, Append::Written(_)));
    }

    /// A WebSocket handshake with these headers.
    pub(crate) async fn handshake(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Socket, HeaderMap), Answer> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(&self.address).await.unwrap();
        match timeout(LONG, client_async(request, stream)).await.expect("an answer in time") {
            Ok((socket, response)) => Ok((socket, response.headers().clone())),
            Err(WsError::Http(response)) => {
                let (head, body) = response.into_parts();
                let text = String::from_utf8(body.unwrap_or_default()).unwrap();
                Err(Answer { status: head.status, headers: head.headers, text })
            }
            Err(other) => panic!("{other}"),
        }
    }

    pub(crate) async fn connect(&self) -> Socket {
        let authorization = format!("Bearer {}", good_token());
        self.handshake("/sync/v1/websocket?vsn=2.0.0", &[("authorization", &authorization)]).await.unwrap().0
    }
}

pub(crate) async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

/// The next text frame.
pub(crate) async fn hear(socket: &mut Socket) -> Value {
    loop {
        match timeout(LONG, socket.next()).await.expect("a frame in time").expect("a frame").unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until the server closes the connection; gives its code and reason.
pub(crate) async fn closed(socket: &mut Socket) -> (u16, String) {
    loop {
        match timeout(LONG, socket.next()).await.expect("a close in time") {
            Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                return (code.into(), reason.to_string());
            }
            Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until `done`, which something else brings about.
pub(crate) async fn until(done: impl Fn() -> bool + Send + Sync) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, wait).await.expect("it comes about in time");
}

/// Joins a topic, and gives the answer.
pub(crate) async fn join(socket: &mut Socket, topic: &str, payload: Value) -> Value {
    say(socket, json!(["1", "1", topic, "phx_join", payload])).await;
    hear(socket).await
}

/// A client that does everything right, and notices whether it still gets everything.
pub(crate) struct Witness {
    socket: Socket,
    seen: u64,
}

impl Witness {
    pub(crate) async fn new(running: &Running) -> Self {
        let mut socket = running.connect().await;
        let answer = join(&mut socket, "witness", json!({})).await;
        assert_eq!(answer[4]["status"], "ok", "{answer}");
        Self { socket, seen: 0 }
    }

    /// Publishes an update and expects it, in order.
    pub(crate) async fn check(&mut self, running: &Running) {
        running.publish("witness", "1").await;
        self.seen += 1;
        let batch = hear(&mut self.socket).await;
        assert_eq!(batch[3], "sync:update_batch", "{batch}");
        assert_eq!(batch[4]["after"], self.seen - 1, "{batch}");
        assert_eq!(batch[4]["updates"][0]["seq"], self.seen, "{batch}");
    }
}
