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
    net::TcpListener,
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

/// Promise 9: no identifier of unbounded range is a label.
/// What `promtool` thinks of it.
async fn checked_by_promtool(metrics: &str) -> String {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        promtool.spawn().unwrap_or_else(|fault| panic!("promtool: {fault}; run scripts/setup --tests"));
    tokio::io::AsyncWriteExt::write_all(&mut child.stdin.take().unwrap(), metrics.as_bytes()).await.unwrap();
    let output = timeout(LONG, child.wait_with_output()).await.expect("it ends in time").unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// A dashboard and an alert find each metric before anything has happened.
#[tokio::test]
async fn every_metric_is_there_and_described_from_the_first_scrape() {
    let folder = tempfile::tempdir().unwrap();
    let started = Started::new(command(folder.path())).await;
    let metrics = started.send(http::Method::GET, "/metrics", "", "").await.1;
    assert_eq!(checked_by_promtool(&metrics).await, "");
    for name in khala_core::telemetry::ALL {
        for what in ["HELP", "TYPE"] {
            assert!(metrics.contains(&format!("# {what} {name} ")), "{name} has no {what}");
        }
        let samples = metrics.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| ["_count", "_count{", "{", " "].iter().any(|end| rest.starts_with(end)))
        });
        assert_ne!(samples.count(), 0, "{name} has no series");
    }
    assert!(!metrics.contains(" summary\n"), "{metrics}");
}

#[tokio::test]
async fn no_label_is_of_unbounded_range() {
    let folder = tempfile::tempdir().unwrap();
    let started = Started::new(command(folder.path())).await;
    let body = r#"{"kind":"a-kind","payload":1,"doc_key":"a-key"}"#;
    let updates = "/v1/topics/a-topic/updates";
    let large: &'static str = format!(r#"{{"kind":"a-kind","payload":"{}"}}"#, "x".repeat(1 << 20)).leak();
    assert_eq!(started.send(http::Method::POST, updates, &started.token, large).await.0, 413);
    assert_eq!(started.send(http::Method::POST, updates, &started.token, body).await.0, 201);
    assert_eq!(started.get(updates, &started.token).await, 200);
    assert_eq!(started.get("/v1/topics/a-topic/documents/a-key", &started.token).await, 200);
    assert_eq!(started.get("/an-unknown/path", &started.token).await, 404);
    let url =
        format!("{}/sync/v1/websocket?vsn=2.0.0&token={}", started.url.replace("http", "ws"), started.token);
    let stream = tokio::net::TcpStream::connect(started.url.strip_prefix("http://").unwrap()).await.unwrap();
    let (mut socket, _) = timeout(LONG, tokio_tungstenite::client_async(url, stream)).await.unwrap().unwrap();
    for frame in
        [r#"["1","1","a-topic","phx_join",{"from":"floor"}]"#, r#"["1","2","a-topic","an-event",{}]"#]
    {
        futures::SinkExt::send(&mut socket, frame.into()).await.unwrap();
    }
    for _ in 0..3 {
        // The join's reply, the update, and the refusal of the event.
        timeout(LONG, futures::StreamExt::next(&mut socket)).await.unwrap().unwrap().unwrap();
    }
    let metrics = started.send(http::Method::GET, "/metrics", "", "").await.1;
    let known = [
        "by",
        "class",
        "code",
        "kind",
        "le",
        "limit",
        "method",
        "operation",
        "outcome",
        "part",
        "reason",
        "resume",
        "route",
        "source",
        "state",
        "status",
        "temperature",
        "transport",
    ];
    for line in metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let listed = [name, base].iter().any(|name| khala_core::telemetry::ALL.contains(name));
        assert!(listed, "{name} is not in telemetry::ALL");
        let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            assert!(known.contains(&label.split('=').next().unwrap()), "{line}");
        }
        for identifier in ["a-topic", "a-key", "a-kind", "an-event", "an-unknown"] {
            assert!(!line.contains(identifier), "{line}");
        }
    }
    for name in [
        "khala_appends_total",
        "khala_class_updates_total{class=\"default\"}",
        "khala_joins_total",
        "khala_publish_refused_total{class=\"default\",code=\"khala_frame_payload_too_large\"} 1",
        "khala_refusals_total",
        "khala_updates_sent_total",
    ] {
        assert!(metrics.contains(name), "{name} was not counted: {metrics}");
    }
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

#[tokio::test]
async fn others_can_reach_it_only_with_a_real_key() {
    let folder = tempfile::tempdir().unwrap();
    let open = |listen: &str| {
        let mut command = command(folder.path());
        command.env("KHALA_LISTEN", listen);
        command
    };
    for listen in ["0.0.0.0:0", "[::]:0", "127.0.0.1:0"] {
        told_to_set_a_key(ended(open(listen)).await, "KHALA_LISTEN");
    }
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let mut command = open(listen);
        command.arg("--dev");
        told_to_set_a_key(ended(command).await, "with --dev it would listen on");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "it leaves nothing behind");

    let mut weak = open("0.0.0.0:0");
    weak.env("KHALA_AUTH__HS256_KEY", "short");
    refused(ended(weak).await, &["auth.hs256_key", "32 bytes"]);
    let mut missing = open("0.0.0.0:0");
    missing.env("KHALA_AUTH__HS256_KEY_FILE", "no-such-file");
    refused(ended(missing).await, &["auth.hs256_key_file", "no-such-file"]);

    let key = folder.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    let mut real = open("0.0.0.0:0");
    let mut child = real.env("KHALA_AUTH__HS256_KEY_FILE", &key).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    timeout(LONG, output.read_line(&mut line)).await.expect("it starts in time").unwrap();
    assert!(line.contains("0.0.0.0:"), "{line}");
    assert!(!folder.path().join("khala.dev.key").exists());
    child.start_kill().unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).await.unwrap();
    assert!(!rest.contains("eyJ"), "a token of a real key is printed");
}

/// Such a server ends with the lines that are to be written, and prints no token.
fn told_to_set_a_key((code, output, log): (Option<i32>, String, String), why: &str) {
    assert_eq!((code, output.as_str()), (Some(2), ""), "{log}");
    let lines = [
        "    export KHALA_AUTH__HS256_KEY_FILE=khala.key",
        "    [auth]",
        "    hs256_key_file = \"khala.key\"",
    ];
    for line in lines {
        assert!(log.lines().any(|found| found == line), "{line} is not in:\n{log}");
    }
    for text in [why, "--dev", "127.0.0.1", "auth.jwks_url"] {
        assert!(log.contains(text), "{text} is not in:\n{log}");
    }
}

/// A server on which something is set, and no key, trusts no key that it makes.
#[tokio::test]
async fn only_a_server_for_development_makes_a_key() {
    const SECRET: &str = "a-mint-secret-of-32-characters!!";
    let folder = tempfile::tempdir().unwrap();
    let mut minting = command(folder.path());
    minting.env("KHALA_MINT__SECRET", SECRET);
    told_to_set_a_key(ended(minting).await, "the variable KHALA_MINT__SECRET sets something");
    let file = folder.path().join("khala.toml");
    std::fs::write(&file, format!("[mint]\nsecret = \"{SECRET}\"")).unwrap();
    let mut minting = command(folder.path());
    minting.arg("--config").arg("khala.toml");
    told_to_set_a_key(ended(minting).await, "the settings file khala.toml sets something");
    for (name, value, key) in [
        ("KHALA_AUTH__HS256_KEY", "0123456789abcdef0123456789abcdef", "auth.hs256_key"),
        ("KHALA_AUTH__HS256_KEY_FILE", "key", "auth.hs256_key_file"),
        ("KHALA_AUTH__JWKS_URL", "https://login.example/keys", "auth.jwks_url"),
        ("KHALA_AUTH__KEYS_FILE", "keys.json", "auth.keys_file"),
        ("KHALA_AUTH__ORIGINS", "['https://app.example']", "auth.origins"),
        ("KHALA_AUTH__TRUSTED_PROXIES", "['10.0.0.1']", "auth.trusted_proxies"),
        ("KHALA_DATABASE", "postgres://127.0.0.1:1/khala", "database"),
        ("KHALA_MINT__SECRET", SECRET, "mint.secret"),
    ] {
        let mut command = command(folder.path());
        command.arg("--dev").env(name, value);
        refused(ended(command).await, &["--dev", key, "exclude each other"]);
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "it leaves nothing behind");
}

#[tokio::test]
async fn bad_settings_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (name, value, named) in [
        ("KHALA_LISTEN", taken.as_str(), ["listen", &taken]),
        ("KHALA_LISTEN", "nonsense", ["listen", "nonsense"]),
        ("KHALA_LISTN", "127.0.0.1:0", ["KHALA_LISTN", "no setting"]),
        ("KHALA_LIMITS__FRAME_BYTES", "many", ["KHALA_LIMITS__FRAME_BYTES", "many"]),
        ("KHALA_CONFIG", "no-such.toml", ["no-such.toml", "read"]),
        ("KHALA_LOG__FILTER", "a=b=c", ["log.filter", "wrong"]),
    ] {
        let mut command = command(folder.path());
        command.arg("--dev").env("KHALA_LISTEN", "127.0.0.1:0").env(name, value);
        refused(ended(command).await, &named);
    }
    let file = folder.path().join("khala.toml");
    for (text, named) in [
        ("lisen = \"127.0.0.1:0\"", ["khala.toml", "lisen"]),
        ("[session]\ntopic = 1", ["khala.toml", "session.topic"]),
        ("[session]\ntopics = \"many\"", ["session.topics", "many"]),
        ("listen", ["khala.toml", "line 1"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let mut command = command(folder.path());
        command.arg("--config").arg("khala.toml");
        refused(ended(command).await, &named);
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "it leaves nothing behind");

    std::fs::write(folder.path().join("khala.db"), "this is no database, and long enough to be seen as none")
        .unwrap();
    let mut broken = command(folder.path());
    broken.arg("--dev").env("KHALA_LISTEN", "127.0.0.1:0");
    let (code, _, log) = ended(broken).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(
        log.lines().last().unwrap().starts_with("khala-server: the database khala.db cannot be opened"),
        "{log}"
    );
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn config_prints_what_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("khala.toml"), "drain_seconds = 3\n[log]\nformat = \"json\"\n")
        .unwrap();
    let mut config = command(folder.path());
    config.args(["config", "--config", "khala.toml"]);
    config.env("KHALA_AUTH__HS256_KEY", "0123456789abcdef0123456789abcdef").env("KHALA_SESSION__TOPICS", "7");
    let (code, output, log) = ended(config).await;
    assert_eq!((code, log.as_str()), (Some(0), ""));
    for line in [
        "drain_seconds = 3",
        "format = \"json\"",
        "topics = 7",
        "hs256_key = \"***\"",
        "listen = \"127.0.0.1:4510\"",
    ] {
        assert!(output.lines().any(|found| found == line), "{line} is not in:\n{output}");
    }
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

/// Settings that contradict each other, and lists and tables that are wrong, from a file or the environment.
#[tokio::test]
async fn contradictions_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("khala.toml");
    for (text, named) in [
        ("auth.admin_token = \"a\"\nauth.admin_token_file = \"b\"", ["auth.admin_token", "exclude"]),
        ("auth.admin_token = \"short\"", ["auth.admin_token", "32 characters"]),
        ("auth.keys_file = \"none.json\"", ["auth.keys_file", "none.json"]),
        ("auth.jwks_url = \"http://idp.example/keys\"", ["auth.jwks_url", "https"]),
        ("auth.origins = [\"app.example\"]", ["auth.origins", "app.example"]),
        ("auth.trusted_proxies = [\"proxy\"]", ["auth.trusted_proxies", "proxy"]),
        ("jwt.bind_claims = [\"Team\"]", ["jwt.bind_claims", "Team"]),
        ("jwt.claim_names.scopes = \"org_id\"", ["jwt.claim_names.organisation", "org_id"]),
        ("jwt.max_age_seconds = \"never\"", ["jwt.max_age_seconds", "none"]),
        ("[[auth.keys]]\nkid = \"a\"\nalgorithm = \"HS256\"", ["auth.keys[0]", "secret_file"]),
        (
            "[[auth.keys]]\nkid = \"a\"\nalgorithm = \"HS512\"\npublic_key_file = \"x\"",
            ["auth.keys[0]", "HS512"],
        ),
        (
            "[[auth.keys]]\nkid = \"a\"\nalgorithm = \"HS256\"\nsecret = \"short\"",
            ["auth.keys[0]", "32 bytes"],
        ),
        ("[[auth.keys]]\nkdi = \"a\"", ["auth.keys[0].kdi", "khala.toml"]),
        ("[mint]\nkid = \"a\"", ["mint.kid", "mint.key_file"]),
        ("[mint]\nsecret = \"short\"", ["mint.secret", "32 characters"]),
        ("[mint]\nkey_file = \"x\"\nkid = \"a\"\nalgorithm = \"ES256\"", ["mint.key_file", "mint.secret"]),
        (
            "mint.secret = \"a-mint-secret-of-32-characters!!\"\nauth.jwks_url = \"http://127.0.0.1:1/\"",
            ["mint.key_file", "sign"],
        ),
        (
            "mint.secret = \"a-mint-secret-of-32-characters!!\"\nmint.max_ttl_seconds = 99999",
            ["mint.max_ttl_seconds", "jwt.max_age_seconds"],
        ),
        (
            "mint.secret = \"a-mint-secret-of-32-characters!!\"\nmint.min_ttl_seconds = 0",
            ["mint.min_ttl_seconds", "at least 1"],
        ),
        (
            "mint.secret = \"a-mint-secret-of-32-characters!!\"\nmint.claims = [\"sub\"]",
            ["mint.claims", "sub"],
        ),
        ("[mint.credential]\naudience = \"a\"", ["mint.credential.audience", "jwks_url"]),
        ("[mint.credential]\njwks_url = \"https://127.0.0.1/\"", ["mint.credential.scopes", "no scopes"]),
        ("[mint.credential]\nkey_file = \"x\"", ["mint.credential.key_file", "no key"]),
        ("[[classes]]\nname = \"a\"\npattern = \"**:x\"", ["classes[0].pattern", "wrong"]),
        (
            "[[classes]]\nname = \"a\"\npattern = \"x\"\n[[classes]]\nname = \"a\"\npattern = \"y\"",
            ["classes", "two"],
        ),
        ("[[classes]]\nname = \"a\"\npattern = \"x\"\nreed = []", ["classes[0].reed", "classes[].read"]),
        ("[compatibility]\nclient_build = {min = \"v1\"}", ["compatibility.client_build.min", "1.20.3"]),
        (
            "[compatibility]\nschema_version = {min = 3, max = 2}",
            ["compatibility.schema_version", "max is below min"],
        ),
        (
            "admission.joins_per_address = {per_second = 0, burst = 1}",
            ["admission.joins_per_address", "wrong"],
        ),
        (
            "admission.joins_per_address = {per_second = 1, bursts = 1}",
            ["admission.joins_per_address", "bursts"],
        ),
        ("admission.connections_per_address = 0", ["admission.connections_per_address", "wrong"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let mut command = command(folder.path());
        command.env("KHALA_LISTEN", "127.0.0.1:0").arg("--config").arg("khala.toml");
        if !text.contains("auth.jwks_url") {
            command.env("KHALA_AUTH__HS256_KEY", KEY);
        }
        refused(ended(command).await, &named);
    }
    std::fs::remove_file(&file).unwrap();
    for (name, value, named) in [
        ("KHALA_AUTH__ORIGINS", "https://a.example", ["KHALA_AUTH__ORIGINS", "list"]),
        ("KHALA_JWT__REQUIRE_JTI", "perhaps", ["KHALA_JWT__REQUIRE_JTI", "boolean"]),
        ("KHALA_JWT__MAX_AGE_SECONDS", "long", ["KHALA_JWT__MAX_AGE_SECONDS", "none"]),
        ("KHALA_AUTH__KEYS", "[{kdi = 'a'}]", ["KHALA_AUTH__KEYS", "auth.keys[0].kdi"]),
        ("KHALA_MINT__CREDENTIAL", "{}", ["KHALA_MINT__CREDENTIAL", "no setting"]),
        ("KHALA_MINT__CREDENTIAL__ISSUER__X", "a", ["KHALA_MINT__CREDENTIAL__ISSUER__X", "no setting"]),
    ] {
        let mut command = command(folder.path());
        command.env("KHALA_LISTEN", "127.0.0.1:0").env(name, value);
        refused(ended(command).await, &named);
    }
}

#[tokio::test]
async fn config_masks_every_secret() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let folder = tempfile::tempdir().unwrap();
    let mut config = command(folder.path());
    config.arg("config");
    for name in ["KHALA_AUTH__HS256_KEY", "KHALA_AUTH__ADMIN_TOKEN", "KHALA_MINT__SECRET"] {
        config.env(name, SECRET);
    }
    let keys = format!("[{{kid = 'a', algorithm = 'HS256', secret = '{SECRET}'}}]");
    config.env("KHALA_AUTH__KEYS", keys).env("KHALA_ADMISSION__JOINS_PER_CONNECTION", "none");
    config.env("KHALA_ADMISSION__CONNECTS_PER_ADDRESS", "{per_second = 5, burst = 50}");
    config.env("KHALA_AUTH__ORIGINS", "['https://a.example']");
    let (code, output, log) = ended(config).await;
    assert_eq!((code, log.as_str()), (Some(0), ""));
    assert!(!output.contains(SECRET), "{output}");
    assert_eq!(output.matches("\"***\"").count(), 4, "{output}");
    for text in
        ["joins_per_connection = \"none\"", "per_second = 5", "https://a.example", "max_age_seconds = 86400"]
    {
        assert!(output.contains(text), "{text} is not in:\n{output}");
    }
    // What is printed can be read again.
    std::fs::write(folder.path().join("khala.toml"), &output).unwrap();
    let mut again = command(folder.path());
    again.args(["config", "--config", "khala.toml"]);
    assert_eq!(ended(again).await.1, output);
}
