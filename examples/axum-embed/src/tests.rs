//! What a user of the application sees: notes arrive, a stranger gets none, logging out ends what it opened. And what nobody sees:
//! the secret of a login.

mod browser;

use std::io::Write;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::*;

const LONG: Duration = Duration::from_secs(20);
const SOCKET: &str = "/sync/v1/websocket?vsn=2.0.0";
const HISTORY: &str = "/v1/topics/notes:ada/updates";

/// The application under test.
struct Running {
    address: String,
    server: Server,
    folder: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

async fn start() -> Running {
    start_with(|router| router).await
}

/// The application with what the test puts around it.
async fn start_with(around: impl FnOnce(Router) -> Router) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let (router, server) = application(&folder.path().join("notes.db")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel();
    let stopped = async {
        let _ = stopped.await;
    };
    let serving = tokio::spawn(serve(listener, (around(router), server.clone()), stopped));
    Running { address, server, folder, stop, serving }
}

struct Answer {
    status: u16,
    set_cookie: Option<String>,
    /// All other headers, and the body.
    text: String,
    body: String,
}

/// Sends a request over a connection of its own.
async fn send(address: &str, method: &str, path: &str, cookie: &str, body: &str) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = axum::http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address)
        .header("content-type", "application/json")
        .header("cookie", format!("theme=dark; {cookie}"))
        .body(Full::<Bytes>::from(body.to_owned()))
        .unwrap();
    let mut response = timeout(LONG, sender.send_request(request)).await.unwrap().unwrap();
    let status = response.status().as_u16();
    let set_cookie =
        response.headers_mut().remove("set-cookie").map(|value| value.to_str().unwrap().to_owned());
    let headers = format!("{:?}", response.headers());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Answer { status, set_cookie, text: headers + &body, body }
}

struct User {
    address: String,
    cookie: String,
    socket: WebSocketStream<TcpStream>,
}

impl User {
    /// Logs in, and connects with the cookie.
    async fn log_in(address: &str, user: &str) -> Self {
        let answer = send(address, "POST", "/login", "", &json!({"user": user}).to_string()).await;
        assert_eq!((answer.status, &*answer.body), (200, ""));
        let cookie = answer.set_cookie.unwrap().split(';').next().unwrap().to_owned();
        let mut request = format!("ws://{address}{SOCKET}").into_client_request().unwrap();
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        request.headers_mut().insert("origin", format!("http://{address}").parse().unwrap());
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, _) = timeout(LONG, client_async(request, stream)).await.unwrap().unwrap();
        Self { address: address.to_owned(), cookie, socket }
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        send(&self.address, method, path, &self.cookie, body).await
    }

    async fn hear(&mut self) -> Message {
        timeout(LONG, self.socket.next()).await.unwrap().unwrap().unwrap()
    }

    async fn frame(&mut self) -> Value {
        serde_json::from_str(self.hear().await.to_text().unwrap()).unwrap()
    }

    /// Joins a topic; what was answered.
    async fn join(&mut self, topic: &str) -> Value {
        let join = json!(["1", "1", topic, "phx_join", {"from": "floor"}]);
        self.socket.send(Message::text(join.to_string())).await.unwrap();
        self.frame().await[4].take()
    }

    /// How the server closes the socket.
    async fn closed(&mut self) -> (u16, String) {
        let Message::Close(Some(close)) = self.hear().await else { panic!("the socket is closed") };
        (close.code.into(), close.reason.as_str().to_owned())
    }
}

#[tokio::test]
async fn a_note_is_stored_and_seen() {
    let running = start().await;
    let mut ada = User::log_in(&running.address, "ada").await;
    assert_eq!(ada.join("notes:ada").await["status"], "ok");

    let added = ada.send("POST", "/notes", r#"{"text":"hello"}"#).await;
    assert_eq!((added.status, &*added.body), (200, r#"{"id":1,"text":"hello"}"#));
    let batch = ada.frame().await;
    assert_eq!(batch[4]["updates"][0]["payload"], json!({"id": 1, "text": "hello"}), "{batch}");

    assert_eq!(ada.send("GET", "/notes", "").await.body, r#"[{"id":1,"text":"hello"}]"#);
    let document = ada.send("GET", "/v1/topics/notes:ada/documents/note%2F1", "").await.body;
    assert_eq!(serde_json::from_str::<Value>(&document).unwrap()["payload"]["text"], "hello");
}

#[tokio::test]
async fn notes_are_seen_by_whom_the_table_names_until_they_log_out() {
    let running = start().await;
    let address = &running.address;
    let mut ada = User::log_in(address, "ada").await;
    let mut bob = User::log_in(address, "bob").await;
    assert_eq!(ada.join("notes:ada").await["status"], "ok");

    assert_eq!(bob.join("notes:ada").await["response"]["code"], "forbidden_topic");
    assert_eq!(bob.join("elsewhere").await["response"]["code"], "forbidden_topic");
    assert_eq!(ada.send("POST", "/readers", r#"{"reader":"bob"}"#).await.status, 204);
    assert_eq!(bob.join("notes:ada").await["status"], "ok");
    let publish = r#"{"updates":[{"kind":"k","payload":1}]}"#;
    assert_eq!(ada.send("POST", HISTORY, publish).await.status, 403, "only the application publishes");

    // Of two logins of the same user, the other one stays.
    let mut elsewhere = User::log_in(address, "bob").await;
    assert_eq!(bob.send("POST", "/logout", "").await.status, 204);
    assert_eq!(bob.closed().await, (4003, "token_revoked".to_owned()));
    for (method, path) in [("GET", HISTORY), ("GET", "/login"), ("POST", "/notes"), ("POST", "/logout")] {
        assert_eq!(bob.send(method, path, r#"{"text":"still here"}"#).await.status, 401, "{path}");
    }
    assert_eq!(elsewhere.join("notes:ada").await["status"], "ok");

    assert_eq!(ada.send("POST", "/notes", r#"{"text":"to myself"}"#).await.status, 200);
    assert_eq!(ada.frame().await[4]["updates"][0]["payload"]["text"], "to myself");
    assert_eq!(elsewhere.frame().await[4]["updates"][0]["payload"]["text"], "to myself");
}

#[tokio::test]
async fn the_secret_of_a_login_is_in_its_cookie_alone() {
    let log = logged();
    let running = start().await;
    let address = &running.address;
    let answer = send(address, "POST", "/login", "", r#"{"user":"ada"}"#).await;
    let set = answer.set_cookie.unwrap();
    let (cookie, attributes) = set.split_once("; ").unwrap();
    assert!(attributes.starts_with("HttpOnly; SameSite=Lax; Path=/"), "{attributes}");
    let secret = cookie.strip_prefix("login=").unwrap().to_owned();
    assert_eq!(secret.len(), 64, "32 bytes in hexadecimal");

    let mut ada = User::log_in(address, "ada").await;
    let secrets = [secret, ada.cookie["login=".len()..].to_owned()];
    let mut seen = vec![answer.text, ada.join("notes:ada").await.to_string()];
    for (method, path, body) in [
        ("GET", "/", ""),
        ("GET", "/login", ""),
        ("POST", "/login", r#"{"user":":"}"#),
        ("POST", "/notes", r#"{"text":"hello"}"#),
        ("POST", "/notes", "{"),
        ("GET", "/notes", ""),
        ("POST", "/readers", r#"{"reader":"bob"}"#),
        ("GET", HISTORY, ""),
        ("GET", "/v1/topics", ""),
        ("GET", "/v1/topics/notes:ada/snapshot", ""),
        ("GET", "/v1/topics/notes:bob", ""),
        ("POST", "/v1/token", ""),
        ("GET", SOCKET, ""),
        ("GET", "/internal/v1/khala/connections", ""),
        ("GET", "/readyz", ""),
        ("GET", "/nowhere", ""),
        ("POST", "/logout", ""),
        ("GET", "/notes", ""),
        ("GET", HISTORY, ""),
    ] {
        seen.push(ada.send(method, path, body).await.text);
    }
    while let Some(Ok(message)) = timeout(LONG, ada.socket.next()).await.unwrap() {
        seen.push(format!("{message:?}"));
    }
    assert!(seen.iter().any(|seen| seen.contains("hello")) && seen.iter().any(|seen| seen.contains("4003")));
    for file in std::fs::read_dir(running.folder.path()).unwrap() {
        seen.push(String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()).into_owned());
    }
    assert!(seen.iter().any(|seen| seen.contains("SQLite format")));
    let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    assert!(log.contains("websocket opened") && log.contains("/v1/topics/notes:bob"), "{log}");
    seen.push(log);

    for secret in &secrets {
        let bytes: Vec<u8> =
            (0..32).map(|n| u8::from_str_radix(&secret[2 * n..][..2], 16).unwrap()).collect();
        for seen in &seen {
            assert!(!seen.contains(secret), "{seen}");
            assert!(!seen.contains(&*String::from_utf8_lossy(&bytes)), "{seen}");
        }
    }
}

/// What this process logs from now on, at every level, but for what the tests' own client does.
fn logged() -> Arc<Mutex<Vec<u8>>> {
    let log = Log::default();
    let filter = EnvFilter::new("trace,tungstenite::handshake::client=off");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).with_ansi(false).init();
    log.0
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_port_answers_until_the_last_socket_is_closed() {
    let running = start().await;
    let mut users = Vec::new();
    for _ in 0..20 {
        users.push(User::log_in(&running.address, "ada").await);
    }
    running.stop.send(()).unwrap();
    for user in &mut users {
        assert_eq!(user.frame().await[3], "sync:drain");
    }
    // Over a connection of its own.
    let ready = send(&running.address, "GET", "/readyz", "", "").await;
    assert!(ready.status == 503 && ready.body.contains("draining"), "{}", ready.body);
    assert!(running.server.khala().connections().count() > 0, "some are still open");
    for user in &mut users {
        assert_eq!(user.closed().await.0, 1012);
    }
    timeout(LONG, running.serving).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(&running.address).await.is_err(), "the port is closed last");
}

#[tokio::test]
async fn one_client_is_not_waited_for() {
    let running = start().await;
    let mut ada = User::log_in(&running.address, "ada").await;
    let began = Instant::now();
    running.stop.send(()).unwrap();
    assert_eq!(ada.frame().await[3], "sync:drain");
    assert_eq!(ada.closed().await.0, 1012);
    timeout(LONG, running.serving).await.unwrap().unwrap().unwrap();
    // The drain time is ten seconds, for a crowd.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
