//! How the `khala-server` command starts, refuses to start, and stops.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
};

use khala_auth::{JwtIssuer, JwtOptions};
use khala_core::{
    auth::TokenClaims,
    clock::{Clock as _, SystemClock},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tokio_tungstenite::tungstenite::Error as WsError;

use crate::support::{Answer, LONG, Socket};

pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_khala-server"));
    command.current_dir(folder).env_clear().kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server that has said where it is.
pub(crate) struct Started {
    child: Child,
    output: BufReader<ChildStdout>,
    pub(crate) url: String,
    pub(crate) token: String,
}

/// The key of servers that are not for development.
pub(crate) const KEY: &str = "a-key-of-a-server-for-production";

impl Started {
    /// A server for production, with a key, and with the token that one for development would print.
    pub(crate) async fn with_key(mut command: Command) -> Self {
        command.env("KHALA_AUTH__HS256_KEY", KEY);
        let mut child = command.env("KHALA_LISTEN", "127.0.0.1:0").spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let read = timeout(LONG, output.read_line(&mut line)).await.expect("it starts in time").unwrap();
        assert_ne!(read, 0, "it ended before it had said where it is");
        let url = line.strip_prefix("Khala is up at ").unwrap().split(',').next().unwrap().to_owned();
        let claims = TokenClaims::new("dev", ["khala:publish", "khala:read"]);
        let issuer = JwtIssuer::hs256(KEY.as_bytes(), JwtOptions::default()).unwrap();
        let issued = issuer.sign(&claims, SystemClock::new().now(), LONG * 10).unwrap();
        Self { child, output, url, token: issued.token.reveal().to_owned() }
    }

    /// A server for development.
    pub(crate) async fn new(mut command: Command) -> Self {
        command.arg("--dev");
        let mut child = command.env("KHALA_LISTEN", "127.0.0.1:0").spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (mut url, mut token) = (String::new(), String::new());
        while token.is_empty() {
            let mut line = String::new();
            let read = timeout(LONG, output.read_line(&mut line)).await.expect("it starts in time").unwrap();
            assert_ne!(read, 0, "it ended before it had said where it is");
            if let Some(found) = line.trim().strip_prefix("export KHALA_URL=") {
                url = found.to_owned();
            }
            if let Some(found) = line.trim().strip_prefix("export KHALA_TOKEN=") {
                token = found.to_owned();
            }
        }
        Self { child, output, url, token }
    }

    /// The status of an authorized request.
    pub(crate) async fn get(&self, path: &str, token: &str) -> u16 {
        self.send(http::Method::GET, path, token, "").await.0
    }

    /// The status and the body of an authorized request.
    pub(crate) async fn send(
        &self,
        method: http::Method,
        path: &str,
        token: &str,
        body: &'static str,
    ) -> (u16, String) {
        let answer = self.answer(method, path, token, body).await;
        (answer.status.as_u16(), answer.text)
    }

    /// The answer to an authorized request.
    pub(crate) async fn answer(
        &self,
        method: http::Method,
        path: &str,
        token: &str,
        body: &'static str,
    ) -> Answer {
        let address = self.url.strip_prefix("http://").unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", address)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"))
            .body(http_body_util::Full::<bytes::Bytes>::from(body))
            .unwrap();
        Answer::of(timeout(LONG, sender.send_request(request)).await.unwrap().unwrap()).await
    }

    /// A WebSocket, or the status of the refusal.
    pub(crate) async fn connect(&self) -> Result<Socket, u16> {
        let path = format!("ws{}/sync/v1/websocket?vsn=2.0.0&token={}", &self.url[4..], self.token);
        let stream = tokio::net::TcpStream::connect(&self.url[7..]).await.unwrap();
        match timeout(LONG, tokio_tungstenite::client_async(path, stream)).await.unwrap() {
            Ok((socket, _)) => Ok(socket),
            Err(WsError::Http(refused)) => Err(refused.status().as_u16()),
            Err(other) => panic!("{other}"),
        }
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().await.unwrap().success());
    }

    pub(crate) async fn ended(mut self) -> (ExitStatus, String, String) {
        let status = timeout(LONG, self.child.wait()).await.expect("it stops in time").unwrap();
        let (mut output, mut log) = (String::new(), String::new());
        self.output.read_to_string(&mut output).await.unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
        (status, output, log)
    }
}

/// Runs one that is expected to end by itself.
pub(crate) async fn ended(mut command: Command) -> (Option<i32>, String, String) {
    let output = timeout(LONG, command.output()).await.expect("it ends in time").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Checks that it refuses to start with one line that holds all of these.
#[track_caller]
pub(crate) fn refused((code, output, log): (Option<i32>, String, String), named: &[&str]) {
    assert_eq!((code, output.as_str()), (Some(2), ""), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.starts_with("khala-server: "), "{log}");
    for name in named {
        assert!(log.contains(name), "{name} is not in: {log}");
    }
}

#[tokio::test]
async fn with_nothing_configured_it_prints_what_to_paste() {
    let folder = tempfile::tempdir().unwrap();
    let started = Started::new(command(folder.path())).await;
    assert_eq!(started.get("/readyz", "").await, 200);
    assert_eq!(started.get("/v1/topics", &started.token).await, 200);
    assert_eq!(started.get("/v1/topics", "another").await, 401);
    assert_eq!(started.get("/metrics", "").await, 200);
    let token = started.token.clone();
    let secret = format!("/sync/v1/websocket?vsn=2.0.0&token={token}");
    assert_eq!(started.get(&secret, "another").await, 401);
    started.signal("TERM").await;
    let (status, output, log) = started.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(output.contains("khala tail ") && output.contains("khala publish "), "{output}");
    assert!(log.contains("/v1/topics") && log.contains("path=\"/sync/v1/websocket\" status=401"), "{log}");
    assert!(!log.contains(&token), "a token is in the log");
    assert!(!log.contains("token="), "a query is in the log");
}

/// A log collector that stands still: the pipe is full after 64 KiB, and nothing that is logged may wait for it.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut verbose = command(folder.path());
    verbose.env("KHALA_LOG__FILTER", "trace");
    let mut started = Started::new(verbose).await;
    let path: &'static str = format!("/{}", "x".repeat(500)).leak();
    let dropped = async {
        loop {
            for _ in 0..50 {
                assert_eq!(started.get(path, "").await, 404);
            }
            let metrics = started.send(http::Method::GET, "/metrics", "", "").await.1;
            if !metrics.lines().any(|line| line == "khala_log_lines_dropped_total 0") {
                return assert!(metrics.contains("\nkhala_log_lines_dropped_total "), "{metrics}");
            }
        }
    };
    timeout(3 * LONG, dropped).await.expect("more is logged than is kept");
    let body = r#"{"kind":"a-kind","payload":1}"#;
    assert_eq!(started.send(http::Method::POST, "/v1/topics/t/updates", &started.token, body).await.0, 201);

    // It is told once somebody reads again.
    let mut log = BufReader::new(started.child.stderr.take().unwrap());
    let told = async {
        let mut line = String::new();
        while !line.contains("log lines were dropped") {
            line.clear();
            assert_ne!(log.read_line(&mut line).await.unwrap(), 0);
        }
    };
    timeout(LONG, told).await.expect("it says that lines were dropped");

    // And where nobody does, it stops all the same.
    for _ in 0..100 {
        assert_eq!(started.get(path, "").await, 404);
    }
    started.signal("TERM").await;
    let status = timeout(LONG, started.child.wait()).await.expect("it stops in time").unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_token_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = Started::new(command(folder.path())).await;
    let token = first.token.clone();
    first.signal("INT").await;
    assert_eq!(first.ended().await.0.code(), Some(0));
    let second = Started::new(command(folder.path())).await;
    assert_eq!(second.get("/v1/topics", &token).await, 200);
    second.signal("TERM").await;
    assert_eq!(second.ended().await.0.code(), Some(0));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = folder.path().join("khala.dev.key").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut slow = command(folder.path());
    slow.env("KHALA_READINESS_GRACE_SECONDS", "600");
    let started = Started::new(slow).await;
    let _socket = started.connect().await.unwrap();
    started.signal("INT").await;
    while started.get("/readyz", "").await != 503 {}
    started.signal("INT").await;
    assert_eq!(started.ended().await.0.code(), Some(130));
}

/// The process is stopped for longer than silence may last, and goes on.
#[cfg(unix)]
#[tokio::test]
async fn a_server_that_was_stopped_reads_before_it_judges() {
    use std::time::Duration;

    use futures::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;

    let folder = tempfile::tempdir().unwrap();
    let mut settings = command(folder.path());
    settings.env("KHALA_SESSION__HEARTBEAT_TIMEOUT_SECONDS", "2");
    let started = Started::new(settings).await;
    let beat = || Message::Text(r#"[null,"1","phoenix","heartbeat",{}]"#.into());
    for _ in 0..3 {
        let mut sockets = Vec::new();
        for _ in 0..8 {
            let mut socket = started.connect().await.unwrap();
            socket.send(beat()).await.unwrap();
            timeout(LONG, socket.next()).await.unwrap().unwrap().unwrap();
            sockets.push(socket);
        }
        started.signal("STOP").await;
        // What is tested is a pause of that length.
        tokio::time::sleep(Duration::from_millis(3_300)).await;
        for socket in &mut sockets {
            socket.send(beat()).await.unwrap();
        }
        started.signal("CONT").await;
        for socket in &mut sockets {
            let heard = timeout(LONG, socket.next()).await.unwrap().unwrap().unwrap();
            assert!(heard.to_text().unwrap().contains("phx_reply"), "{heard:?}");
        }
    }
    started.signal("KILL").await;
}

#[tokio::test]
async fn the_log_can_be_json() {
    let folder = tempfile::tempdir().unwrap();
    let mut json = command(folder.path());
    json.env("KHALA_LOG__FORMAT", "json");
    let started = Started::new(json).await;
    assert_eq!(started.get("/v1/topics/t?secret=1", &started.token).await, 400);
    started.signal("TERM").await;
    let (_, _, log) = started.ended().await;
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let access = lines.iter().find(|line| line["target"] == "khala_server::access").unwrap();
    let facts = ["method", "path", "status", "code"].map(|name| access[name].to_string());
    assert_eq!(facts, ["\"GET\"", "\"/v1/topics/t\"", "400", "\"invalid_query\""]);
    assert!(access["request_id"].is_string() && access["ms"].is_number());
}

#[cfg(unix)]
#[tokio::test]
async fn a_hangup_reads_the_keys_again_and_ends_nothing() {
    use khala_auth::{JwtIssuer, JwtOptions, Key};
    use khala_core::{
        auth::TokenClaims,
        clock::{Clock as _, SystemClock},
    };
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let secret = |kid: &str| format!("{kid:_<32}").into_bytes();
    let write = |kid: &str| {
        let key = Key::hs256(Some(kid), &secret(kid)).unwrap().to_jwk();
        std::fs::write(&keys, format!(r#"{{"keys":[{key}]}}"#)).unwrap();
    };
    let token = |kid: &str| {
        let issuer = JwtIssuer::hs256(&secret(kid), JwtOptions::default()).unwrap().with_key_id(kid).unwrap();
        let claims = TokenClaims::new("ada", ["khala:read"]);
        let issued = issuer.sign(&claims, SystemClock::new().now(), LONG * 10).unwrap();
        issued.token.reveal().to_owned()
    };
    write("old");
    // Beside the key that starts it and prints a token, so that the test learns where it is.
    let mut config = command(folder.path());
    config.env("KHALA_AUTH__KEYS_FILE", "keys.json").env("KHALA_LISTEN", "127.0.0.1:0");
    let mut child = config.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    timeout(LONG, output.read_line(&mut line)).await.expect("it starts in time").unwrap();
    let url = line.strip_prefix("Khala is up at ").unwrap().split(',').next().unwrap().to_owned();
    let started = Started { child, output, url, token: String::new() };
    assert_eq!(started.get("/v1/topics", &token("old")).await, 200);
    assert_eq!(started.get("/v1/topics", &token("new")).await, 401);
    write("new");
    started.signal("HUP").await;
    let reloaded = async { while started.get("/v1/topics", &token("new")).await != 200 {} };
    timeout(LONG, reloaded).await.expect("it reads them in time");
    assert_eq!(started.get("/v1/topics", &token("old")).await, 401);
    let metrics = started.send(http::Method::GET, "/metrics", "", "").await.1;
    assert!(metrics.contains("khala_keys{source=\"file\"} 1"), "{metrics}");
    started.signal("TERM").await;
    let (status, _, log) = started.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("reading the keys again"), "{log}");
}

#[tokio::test]
async fn a_restart_forgets_no_revocation() {
    const ADMIN: &str = "an-admin-token-of-32-characters!";
    let folder = tempfile::tempdir().unwrap();
    let admin = || {
        let mut command = command(folder.path());
        command.env("KHALA_AUTH__ADMIN_TOKEN", ADMIN);
        command
    };
    let first = Started::new(admin()).await;
    let token = first.token.clone();
    assert_eq!(first.get("/v1/topics", &token).await, 200);
    let order = r#"{"by":"sub","id":"dev"}"#;
    let path = "/internal/v1/khala/revocations";
    assert_eq!(first.send(http::Method::POST, path, ADMIN, order).await.0, 201);
    assert_eq!(first.get("/v1/topics", &token).await, 401);
    first.signal("KILL").await;
    assert_eq!(first.ended().await.0.code(), None);
    let second = Started::new(admin()).await;
    let (status, body) = second.send(http::Method::GET, "/v1/topics", &token, "").await;
    assert_eq!(status, 401);
    assert!(body.contains("token_revoked"), "{body}");
}

#[tokio::test]
async fn a_backend_has_tokens_made_that_are_accepted() {
    const SECRET: &str = "a-mint-secret-of-32-characters!!";
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.env("KHALA_MINT__SECRET", SECRET).env("KHALA_MINT__CLAIMS", r#"["team"]"#);
    let started = Started::with_key(command).await;
    let body = r#"{"subject":"ada","claims":{"team":"blue"}}"#;
    let (status, answer) = started.send(http::Method::POST, "/v1/token", SECRET, body).await;
    assert_eq!(status, 200, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(started.get("/v1/topics", answer["token"].as_str().unwrap()).await, 200);
    assert_eq!(started.send(http::Method::POST, "/v1/token", "another", body).await.0, 401);
    started.signal("TERM").await;
    let (_, output, log) = started.ended().await;
    assert!(!output.contains(SECRET) && !log.contains(SECRET));
}
