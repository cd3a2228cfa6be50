//! How the `khala-server` command starts, refuses to start, and stops.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpListener,
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::support::LONG;

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_khala-server"));
    command.current_dir(folder).env_clear().kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server that has said where it is.
struct Started {
    child: Child,
    output: BufReader<ChildStdout>,
    url: String,
    token: String,
}

impl Started {
    async fn new(mut command: Command) -> Self {
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
    async fn get(&self, path: &str, token: &str) -> u16 {
        self.send(http::Method::GET, path, token, "").await.0
    }

    /// The status and the body of an authorized request.
    async fn send(&self, method: http::Method, path: &str, token: &str, body: &'static str) -> (u16, String) {
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
        let answer = timeout(LONG, sender.send_request(request)).await.unwrap().unwrap();
        let status = answer.status().as_u16();
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().await.unwrap().success());
    }

    async fn ended(mut self) -> (ExitStatus, String, String) {
        let status = timeout(LONG, self.child.wait()).await.expect("it stops in time").unwrap();
        let (mut output, mut log) = (String::new(), String::new());
        self.output.read_to_string(&mut output).await.unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
        (status, output, log)
    }
}

/// Runs one that is expected to end by itself.
async fn ended(mut command: Command) -> (Option<i32>, String, String) {
    let output = timeout(LONG, command.output()).await.expect("it ends in time").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Checks that it refuses to start with one line that holds all of these.
#[track_caller]
fn refused((code, output, log): (Option<i32>, String, String), named: &[&str]) {
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
    assert_eq!(started.get(&secret, "another").await, 426);
    started.signal("TERM").await;
    let (status, output, log) = started.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(output.contains("khala tail ") && output.contains("khala publish "), "{output}");
    assert!(log.contains("/v1/topics") && log.contains("status=426"), "{log}");
    assert!(!log.contains(&token), "a token is in the log");
    assert!(!log.contains("token="), "a query is in the log");
}

/// Promise 9: no identifier of unbounded range is a label.
#[tokio::test]
async fn no_label_is_of_unbounded_range() {
    let folder = tempfile::tempdir().unwrap();
    let started = Started::new(command(folder.path())).await;
    let body = r#"{"kind":"a-kind","payload":1,"doc_key":"a-key"}"#;
    let updates = "/v1/topics/a-topic/updates";
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
    let known =
        ["code", "le", "method", "outcome", "quantile", "reason", "resume", "route", "status", "temperature"];
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
    for name in
        ["khala_appends_total", "khala_joins_total", "khala_refusals_total", "khala_updates_sent_total"]
    {
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
    slow.env("KHALA_DRAIN_SECONDS", "600");
    let started = Started::new(slow).await;
    // A connection that is open keeps the drain waiting.
    let path = format!("ws{}/sync/v1/websocket?vsn=2.0.0&token={}", &started.url[4..], started.token);
    let stream = tokio::net::TcpStream::connect(&started.url[7..]).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(path, stream).await.unwrap();
    started.signal("INT").await;
    assert_eq!(crate::support::hear(&mut socket).await[3], "sync:drain");
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
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let named = ["auth.hs256_key", "KHALA_AUTH__HS256_KEY", "hs256_key_file", "127.0.0.1"];
        refused(ended(open(listen)).await, &named);
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "it leaves nothing behind");

    let mut weak = open("0.0.0.0:0");
    weak.env("KHALA_AUTH__HS256_KEY", "short");
    refused(ended(weak).await, &["[auth]", "32 bytes"]);
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
        command.env("KHALA_LISTEN", "127.0.0.1:0").env(name, value);
        refused(ended(command).await, &named);
    }
    let file = folder.path().join("khala.toml");
    for (text, named) in [
        ("lisen = \"127.0.0.1:0\"", ["khala.toml", "lisen"]),
        ("[sync]\ntopic = 1", ["khala.toml", "sync.topic"]),
        ("[sync]\ntopics = \"many\"", ["sync.topics", "many"]),
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
    broken.env("KHALA_LISTEN", "127.0.0.1:0");
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
    config.env("KHALA_AUTH__HS256_KEY", "0123456789abcdef0123456789abcdef").env("KHALA_SYNC__TOPICS", "7");
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
