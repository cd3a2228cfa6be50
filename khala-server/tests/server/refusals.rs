//! Every reason for refusal, wherever it can occur: its status or close, its code, its count, and no token in anything
//! that the server gives away.
//!
//! The table is the test: a reason that cannot occur somewhere says there why. A code that the protocol gains and the
//! table lacks fails it.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use http::Request;
use http_body_util::Full;
use jsonwebtoken::{EncodingKey, Header, encode};
use khala_auth::{JwtOptions, JwtVerifier, Key, KeySet};
use khala_core::{
    Error, ErrorKind, Grant, Timestamp, Token, Topic,
    admission::{AdmissionOptions, Rate},
    auth::{Access, Authorizer, Denied, Revocation, RevocationId, RevocationTarget, Verifier},
    class::{Classes, TopicClass, TopicPattern},
    clock::{Clock as _, SystemClock},
    wire::Code,
};
use khala_server::{Compatibility, Origins, Window};
use serde_json::{Map, Value, json};

use crate::{
    evidence::{Lines, Metrics, assert_hides, log, recorder},
    support::{Running, SECRET, Socket, closed, hear, join, running_on, say},
};

const OTHER_SECRET: &[u8] = b"another secret of thirty-two bytes and more";
const GATE: &str = "client_build=1.20&protocol_version=2&schema_version=3";
/// In every query string; no log may hold it.
const MARK: &str = "mark-of-the-query-string";

/// What a client does wrong.
#[derive(Clone, Copy, Debug)]
enum Offence {
    /// Its `Authorization` is of another scheme.
    Basic,
    /// It says this of itself.
    Build(&'static str),
    /// Who checks it cannot answer.
    Checkers,
    /// It connects again.
    Connects,
    /// It sends frames too fast.
    Frames,
    /// It joins too often.
    Joins,
    /// It sends no token.
    Nothing,
    /// It comes from a page that is not listed.
    Origin,
    /// Its token is this one.
    Token(fn(&Forge) -> String),
    /// It wants this topic, first with the one token and then with the other.
    Topic(&'static str, fn(&Forge) -> String, fn(&Forge) -> String),
}

/// What comes of it.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// The joined topic ends, with `sync:error` and this event.
    Ends(&'static str),
    /// It cannot occur, because of this.
    Never(&'static str),
    /// The frame is answered with an error, counted on that surface.
    Reply(&'static str),
    /// An HTTP answer of that status.
    Status(u16),
}

use Seen::{Ends, Never, Reply, Status};

struct Row {
    code: &'static str,
    offence: Offence,
    upgrade: Seen,
    join: Seen,
    refresh: Seen,
    http: Seen,
}

const VERIFIED: Seen =
    Never("a join carries no token: it is made under the grant that opened the connection");
const NO_TOPIC: Seen = Never("opening a connection names no topic");
const NO_HEADERS: Seen = Never("a frame has no headers");
const NO_PAGE: Seen = Never("the page was checked when it opened the connection");
const NO_GATE: Seen = Never("it is checked where clients begin: when they connect and when they get a token");
const NO_FRAME: Seen = Never("it takes a frame");
const NO_CONNECTION: Seen = Never("it opens no connection");
const OPEN: Seen = Never("the connection is open already");

/// A reason that lies in the token itself.
const fn token(code: &'static str, forge: fn(&Forge) -> String) -> Row {
    let offence = Offence::Token(forge);
    Row { code, offence, upgrade: Status(401), join: VERIFIED, refresh: Reply("refresh"), http: Status(401) }
}

const fn gate(code: &'static str, status: u16, said: &'static str) -> Row {
    let offence = Offence::Build(said);
    Row { code, offence, upgrade: Status(status), join: NO_GATE, refresh: NO_GATE, http: NO_GATE }
}

const ROWS: &[Row] = &[
    token("claim_mismatch", |forge| forge.with("iss", json!("somebody else"))),
    Row {
        code: "forbidden_topic",
        offence: Offence::Topic("room:7", |forge| forge.with("sid", json!("in room 7")), Forge::good),
        upgrade: NO_TOPIC,
        join: Reply("join"),
        refresh: Ends("phx_close"),
        http: Status(403),
    },
    Row {
        code: "frame_rate_limited",
        offence: Offence::Frames,
        upgrade: NO_FRAME,
        join: Reply("frame"),
        refresh: Reply("frame"),
        http: NO_FRAME,
    },
    Row {
        code: "invalid_authorization_scheme",
        offence: Offence::Basic,
        upgrade: Status(401),
        join: NO_HEADERS,
        refresh: NO_HEADERS,
        http: Status(401),
    },
    gate("invalid_client_build", 400, "client_build=latest&protocol_version=2&schema_version=3"),
    token("invalid_token", |forge| format!("{}x", forge.good())),
    Row {
        code: "join_rate_limited",
        offence: Offence::Joins,
        upgrade: Never("it is no join"),
        join: Reply("join"),
        refresh: Never("a topic that is checked again is not joined again"),
        http: Never("it is no join"),
    },
    token("missing_iat", |forge| forge.with("iat", Value::Null)),
    token("missing_jti", |forge| forge.with("jti", Value::Null)),
    Row {
        code: "missing_scope",
        offence: Offence::Topic("t", Forge::good, |forge| forge.with("scope", json!(["khala:publish"]))),
        upgrade: NO_TOPIC,
        join: Reply("join"),
        refresh: Ends("phx_close"),
        http: Status(403),
    },
    Row {
        code: "missing_token",
        offence: Offence::Nothing,
        upgrade: Status(401),
        join: VERIFIED,
        refresh: Reply("refresh"),
        http: Status(401),
    },
    Row {
        code: "origin_not_allowed",
        offence: Offence::Origin,
        upgrade: Status(403),
        join: NO_PAGE,
        refresh: NO_PAGE,
        http: Status(403),
    },
    Row {
        code: "owner_mismatch",
        offence: Offence::Topic("org:acme:workers", Forge::good, |forge| forge.with("org_id", json!("evil"))),
        upgrade: NO_TOPIC,
        join: Reply("join"),
        refresh: Ends("phx_close"),
        http: Status(403),
    },
    token("token_expired", |forge| forge.with("exp", json!(forge.now() - 60))),
    token("token_not_yet_valid", |forge| forge.with("nbf", json!(forge.now() + 600))),
    token("token_revoked", |forge| forge.with("jti", json!("revoked"))),
    token("token_too_old", |forge| forge.with("iat", json!(forge.now() - 100_000))),
    Row {
        code: "too_many_connections",
        offence: Offence::Connects,
        upgrade: Status(429),
        join: OPEN,
        refresh: OPEN,
        http: NO_CONNECTION,
    },
    Row {
        code: "unavailable",
        offence: Offence::Checkers,
        upgrade: Status(503),
        join: Reply("join"),
        refresh: Reply("refresh"),
        http: Status(503),
    },
    token("unknown_kid", |forge| forge.signed(Some("unheard of"), OTHER_SECRET, &[])),
    gate("unsupported_protocol_version", 400, "client_build=1.20&protocol_version=1&schema_version=3"),
    gate("unsupported_schema_version", 400, "client_build=1.20&protocol_version=2"),
    gate("upgrade_required", 426, "client_build=1.2&protocol_version=2&schema_version=3"),
];

/// Codes that say nothing about who may do what; their own tests are elsewhere.
const OTHERS: &[Code] = &[
    Code::InvalidJoin,
    Code::InvalidTopic,
    Code::MalformedFrame,
    Code::PayloadTooLarge,
    Code::PublishRateLimited,
    Code::ReplayDeferred,
    Code::StaleCursor,
    Code::TooManyTopics,
    Code::UnknownEvent,
    Code::UnmatchedTopic,
];

/// Makes tokens of any claims, and remembers them.
#[derive(Default)]
struct Forge(Mutex<Vec<String>>);

impl Forge {
    fn now(&self) -> u64 {
        SystemClock::new().now().as_millis() / 1000
    }

    fn good(&self) -> String {
        self.signed(None, SECRET, &[])
    }

    fn with(&self, claim: &str, value: Value) -> String {
        self.signed(None, SECRET, &[(claim, value)])
    }

    /// A good token's claims with these changes; null takes one away.
    fn signed(&self, kid: Option<&str>, secret: &[u8], changes: &[(&str, Value)]) -> String {
        let mut jti = [0; 8];
        getrandom::fill(&mut jti).unwrap();
        let claims = json!({
            "iss": "us",
            "sub": "ada",
            "jti": format!("{:016x}", u64::from_be_bytes(jti)),
            "iat": self.now() - 1,
            "exp": self.now() + 600,
            "org_id": "acme",
            "scope": ["khala:read", "khala:publish"],
        });
        let Value::Object(mut claims) = claims else { unreachable!() };
        for (claim, value) in changes {
            claims.insert((*claim).to_owned(), value.clone());
        }
        let claims: Map<_, _> = claims.into_iter().filter(|(_, value)| !value.is_null()).collect();
        let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
        let token = encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap();
        self.0.lock().unwrap().push(token.clone());
        token
    }

    fn made(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A verifier and an authorizer that can be told not to answer.
#[derive(Debug)]
struct Checkers {
    verifier: JwtVerifier,
    down: AtomicBool,
}

impl Checkers {
    fn check(&self) -> Result<(), Denied> {
        let error = || Error::new(ErrorKind::Unavailable, "test", "/secret/path is away");
        if self.down.load(Ordering::Relaxed) { Err(Denied::Unavailable(error())) } else { Ok(()) }
    }
}

#[derive(Clone, Debug)]
struct Shared(Arc<Checkers>);

#[async_trait]
impl Verifier for Shared {
    async fn verify(&self, token: &Token, now: Timestamp) -> Result<Grant, Denied> {
        self.0.check()?;
        self.0.verifier.verify(token, now).await
    }
}

#[async_trait]
impl Authorizer for Shared {
    /// A room opens to who says that he is in it.
    async fn authorize(&self, grant: &Grant, topic: &Topic, _: Access) -> Result<(), Denied> {
        self.0.check()?;
        let inside = topic.as_str() != "room:7" || grant.session_id() == Some("in room 7");
        if inside { Ok(()) } else { Err(Denied::ForbiddenTopic) }
    }
}

/// A server with everything on, and what it gives away.
struct Stage {
    server: Running,
    checkers: Arc<Checkers>,
    forge: Forge,
    metrics: Metrics,
    log: Lines,
    /// Answers and frames.
    heard: Mutex<String>,
}

fn class(name: &str, pattern: &str) -> TopicClass {
    TopicClass::new(name, TopicPattern::parse(pattern).unwrap())
        .with_read([Access::Read.scope()])
        .with_publish([Access::Publish.scope()])
}

impl Stage {
    async fn new(metrics: Metrics, log: Lines, admission: AdmissionOptions) -> Self {
        let keys = KeySet::new()
            .with_key(Key::hs256(None, SECRET).unwrap())
            .and_then(|keys| keys.with_key(Key::hs256(Some("other"), OTHER_SECRET).unwrap()))
            .unwrap();
        let verifier = JwtVerifier::with_keys(
            keys,
            JwtOptions { issuer: Some("us".to_owned()), ..JwtOptions::default() },
        );
        let checkers = Arc::new(Checkers { verifier, down: AtomicBool::new(false) });
        let classes = Classes::new(vec![class("tenant", "org:{org}:**"), class("fallback", "**")]).unwrap();
        let shared = Arc::new(Shared(Arc::clone(&checkers)));
        let gate = Compatibility {
            client_build: Some(Window::between("1.20".parse().unwrap(), "2".parse().unwrap()).unwrap()),
            protocol_version: Some(Window::between(2, 3).unwrap()),
            schema_version: Some(Window::between(3, 3).unwrap()),
        };
        let rendered = metrics.clone();
        let server = running_on(
            |khala| {
                let khala = khala.with_verifier(shared.clone()).with_authorizer(shared);
                khala.with_classes(classes).with_admission(admission)
            },
            |builder| {
                builder
                    .with_origins(Origins::parse(["https://app.example"]).unwrap())
                    .with_compatibility(gate)
                    .with_metrics(move || rendered.text())
            },
        )
        .await;
        Self { server, checkers, forge: Forge::default(), metrics, log, heard: Mutex::default() }
    }

    fn path(&self, said: &str) -> String {
        format!("/sync/v1/websocket?vsn=2.0.0&mark={MARK}&{said}")
    }

    async fn open(&self, token: &str) -> Socket {
        let headers = [("authorization", &*format!("Bearer {token}")), ("origin", "https://app.example")];
        match self.server.handshake(&self.path(GATE), &headers).await {
            Ok((socket, _)) => socket,
            Err(answer) => panic!("{answer:?}"),
        }
    }

    fn note(&self, what: impl std::fmt::Display) {
        let mut heard = self.heard.lock().unwrap();
        heard.push_str(&what.to_string());
        heard.push('\n');
    }

    async fn hear(&self, socket: &mut Socket) -> Value {
        let frame = hear(socket).await;
        self.note(&frame);
        frame
    }

    async fn join(&self, socket: &mut Socket, topic: &str) -> Value {
        let answer = join(socket, topic, json!({})).await;
        self.note(&answer);
        answer
    }

    async fn refresh(&self, socket: &mut Socket, payload: Value) -> Value {
        say(socket, json!([null, "r", "phoenix", "access_token", payload])).await;
        self.hear(socket).await
    }

    /// Every way to try a WebSocket that the offence has, each with its answer.
    async fn upgrade(&self, offence: Offence, code: &str, status: u16) {
        let mut tries: Vec<(String, Vec<(&'static str, String)>)> = Vec::new();
        let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
        match offence {
            Offence::Token(forge) => {
                let token = forge(&self.forge);
                tries.push((self.path(GATE), vec![bearer(&token)]));
                for encoded in [STANDARD_NO_PAD.encode(&token), URL_SAFE_NO_PAD.encode(&token)] {
                    let protocols = format!("phoenix, base64url.bearer.phx.{encoded}");
                    tries.push((self.path(GATE), vec![("sec-websocket-protocol", protocols)]));
                }
                tries.push((format!("{}&token={token}", self.path(GATE)), vec![]));
            }
            Offence::Basic => {
                let token = self.forge.good();
                tries.push((self.path(GATE), vec![("authorization", format!("Basic {token}"))]));
            }
            Offence::Build(said) => tries.push((self.path(said), vec![bearer(&self.forge.good())])),
            Offence::Nothing => tries.push((self.path(GATE), vec![])),
            Offence::Origin => {
                let origin = ("origin", "https://app.example.evil".to_owned());
                tries.push((self.path(GATE), vec![bearer(&self.forge.good()), origin]));
            }
            Offence::Checkers => {
                self.checkers.down.store(true, Ordering::Relaxed);
                tries.push((self.path(GATE), vec![bearer(&self.forge.good())]));
            }
            Offence::Connects => {
                // The first takes the one place that there is; this thread serves it as long as it is not dropped.
                let socket = self.open(&self.forge.good()).await;
                self.refused(
                    code,
                    "upgrade",
                    self.handshake(self.path(GATE), &[bearer(&self.forge.good())], status, code),
                )
                .await;
                drop(socket);
                return;
            }
            Offence::Frames | Offence::Joins | Offence::Topic(..) => {
                panic!("{offence:?} opens no connection")
            }
        }
        for (path, headers) in tries {
            self.refused(code, "upgrade", self.handshake(path, &headers, status, code)).await;
        }
    }

    async fn handshake(&self, path: String, headers: &[(&'static str, String)], status: u16, code: &str) {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let Err(answer) = self.server.handshake(&path, &headers).await else { panic!("{code} was let in") };
        self.note(format_args!("{answer:?}"));
        let problem = answer.problem(status, code);
        if matches!(status, 429 | 503) {
            assert!(problem["retry_after_ms"].as_u64().unwrap() > 0, "{answer:?}");
            assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0, "{answer:?}");
        }
        if path.contains("client_build") && (status == 426 || status == 400) {
            assert!(problem["supported"]["min"].is_string(), "{answer:?}");
        }
    }

    async fn over_http(&self, offence: Offence, code: &str, status: u16) {
        let (topic, name, value) = match offence {
            Offence::Token(forge) => ("t", "authorization", format!("Bearer {}", forge(&self.forge))),
            Offence::Topic(topic, _, forge) => {
                (topic, "authorization", format!("Bearer {}", forge(&self.forge)))
            }
            Offence::Basic => ("t", "authorization", format!("Basic {}", self.forge.good())),
            Offence::Nothing => ("t", "x", "y".to_owned()),
            Offence::Origin => ("t", "origin", "null".to_owned()),
            Offence::Checkers => {
                self.checkers.down.store(true, Ordering::Relaxed);
                ("t", "authorization", format!("Bearer {}", self.forge.good()))
            }
            other => panic!("{other:?} cannot be done over HTTP"),
        };
        // A publish, which takes everything that reading takes and its own scope.
        let scope = if code == "missing_scope" { "GET" } else { "POST" };
        let request = Request::builder()
            .method(scope)
            .uri(format!("/v1/topics/{topic}/updates"))
            .header("host", "x")
            .header("content-type", "application/json")
            .header(name, value)
            .body(Full::from(r#"{"kind":"k","payload":1}"#))
            .unwrap();
        self.refused(code, "http", async {
            let answer = self.server.send(request).await;
            self.note(format_args!("{answer:?}"));
            answer.problem(status, code);
            assert_eq!(
                answer.headers.contains_key("www-authenticate"),
                status == 401 || code == "missing_scope"
            );
        })
        .await;
    }

    async fn over_join(&self, offence: Offence, code: &str, on: &str) {
        let (token, topic) = match offence {
            Offence::Topic(topic, _, narrow) => (narrow(&self.forge), topic),
            _ => (self.forge.good(), "t"),
        };
        let mut socket = self.open(&token).await;
        match offence {
            Offence::Checkers => self.checkers.down.store(true, Ordering::Relaxed),
            Offence::Frames | Offence::Joins => {
                assert_eq!(self.join(&mut socket, "first").await[4]["status"], "ok");
            }
            _ => {}
        }
        self.refused(code, on, async {
            let answer = self.join(&mut socket, topic).await;
            check_reply(&answer, code);
        })
        .await;
    }

    async fn over_refresh(&self, offence: Offence, code: &str, seen: Seen) {
        let first = match offence {
            Offence::Topic(_, wide, _) => wide(&self.forge),
            _ => self.forge.good(),
        };
        let mut socket = self.open(&first).await;
        let payload = match offence {
            Offence::Token(forge) => json!({"access_token": forge(&self.forge)}),
            Offence::Topic(topic, _, narrow) => {
                assert_eq!(self.join(&mut socket, topic).await[4]["status"], "ok");
                json!({"access_token": narrow(&self.forge)})
            }
            Offence::Nothing => json!({}),
            Offence::Checkers => {
                self.checkers.down.store(true, Ordering::Relaxed);
                json!({"access_token": self.forge.good()})
            }
            Offence::Frames => {
                assert_eq!(self.join(&mut socket, "first").await[4]["status"], "ok");
                json!({"access_token": self.forge.good()})
            }
            other => panic!("{other:?} is no refresh"),
        };
        match seen {
            Reply(on) => {
                self.refused(code, on, async {
                    let answer = self.refresh(&mut socket, payload).await;
                    check_reply(&answer, code);
                })
                .await;
            }
            Ends(event) => {
                self.refused(code, "live", async {
                    let answer = self.refresh(&mut socket, payload).await;
                    assert_eq!(answer[4]["status"], "ok", "{answer}");
                    let told = self.hear(&mut socket).await;
                    assert_eq!((&told[3], &told[4]["code"]), (&json!("sync:error"), &json!(code)), "{told}");
                    let ended = self.hear(&mut socket).await;
                    assert_eq!(ended[3], event, "{ended}");
                })
                .await;
            }
            Never(_) | Status(_) => panic!("a refresh has no {seen:?}"),
        }
        if let Offence::Token(_) | Offence::Nothing = offence {
            // The old grant holds.
            assert_eq!(self.join(&mut socket, "still").await[4]["status"], "ok");
        }
    }

    /// Does it, and checks that it counted as one refusal of that code on that surface, and as no other.
    async fn refused(&self, code: &str, on: &str, done: impl Future<Output = ()>) {
        let (all, these) = self.metrics.refusals(code, on);
        let logged = self.log.text().len();
        done.await;
        assert_eq!(self.metrics.refusals(code, on), (all + 1, these + 1), "{code} on {on}");
        let log = self.log.text().split_off(logged);
        let says_why =
            |line: &str| line.contains(&format!("code=\"{code}\"")) && line.contains("request_id=");
        assert!(log.lines().any(says_why), "no line says {code} on {on}: {log}");
    }
}

#[track_caller]
fn check_reply(answer: &Value, code: &str) {
    assert_eq!((&answer[3], &answer[4]["status"]), (&json!("phx_reply"), &json!("error")), "{answer}");
    assert_eq!(answer[4]["response"]["code"], code, "{answer}");
    let wait = &answer[4]["response"]["retry_after_ms"];
    assert_eq!(wait.is_u64(), code.ends_with("_limited") || code == "unavailable", "{answer}");
}

fn one() -> Rate {
    Rate::new(NonZeroU32::MIN, NonZeroU32::MIN)
}

#[test]
fn the_table_has_every_reason() {
    let rows: BTreeSet<_> = ROWS.iter().map(|row| row.code).collect();
    assert_eq!(rows.len(), ROWS.len(), "a reason is there twice");
    let wire: BTreeSet<_> =
        Code::ALL.iter().filter(|code| !OTHERS.contains(code)).map(|code| code.as_str()).collect();
    let of_http = [
        "invalid_client_build",
        "unsupported_protocol_version",
        "unsupported_schema_version",
        "upgrade_required",
    ];
    let expected: BTreeSet<_> = wire.into_iter().chain(of_http).collect();
    assert_eq!(rows, expected);
    for Row { code, upgrade, join, refresh, http, .. } in ROWS {
        let surfaces = [upgrade, join, refresh, http];
        let tested = surfaces.iter().filter(|seen| !matches!(seen, Never(_))).count();
        assert!(tested > 0, "{code} is tested nowhere");
        for seen in surfaces {
            assert!(!matches!(seen, Never(why) if why.len() < 10), "{code}: {seen:?} is no explanation");
        }
    }
}

#[tokio::test]
async fn each_reason_on_each_surface() {
    let (recorder, metrics) = recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (lines, _log) = log(true);
    let mut cells = 0;
    for Row { code, offence, upgrade, join, refresh, http } in ROWS {
        for (surface, seen) in [upgrade, join, refresh, http].into_iter().enumerate() {
            if let Never(_) = seen {
                continue;
            }
            cells += 1;
            let mut admission = AdmissionOptions::unlimited();
            match offence {
                Offence::Connects => admission.connections_per_subject = NonZeroU32::new(1),
                Offence::Frames => admission.frames_per_connection = Some(one()),
                Offence::Joins => admission.joins_per_connection = Some(one()),
                _ => {}
            }
            let stage = Stage::new(metrics.clone(), lines.clone(), admission).await;
            let revoked = RevocationTarget::Jti(RevocationId::parse("revoked").unwrap());
            stage
                .server
                .khala
                .access()
                .revoke(Revocation::new(revoked, stage.server.khala.now()))
                .await
                .unwrap();
            match (surface, *seen) {
                (0, Status(status)) => stage.upgrade(*offence, code, status).await,
                (1, Reply(on)) => stage.over_join(*offence, code, on).await,
                (2, seen) => stage.over_refresh(*offence, code, seen).await,
                (3, Status(status)) => stage.over_http(*offence, code, status).await,
                (_, seen) => panic!("{code}: {seen:?} cannot be seen there"),
            }
            let tokens = stage.forge.made();
            assert_hides("the answers", &stage.heard.lock().unwrap(), &tokens);
            assert_hides("the log", &lines.text(), &tokens);
            assert_hides("the metrics", &stage.metrics.text(), &tokens);
            let page = stage.server.get("/metrics").await.text;
            assert!(page.contains(&format!("code=\"{code}\"")), "{page}");
        }
    }
    let log = lines.text();
    assert!(!log.contains(MARK), "a query string is in the log");
    assert!(log.contains("khala_server::access"), "{log}");
    let explained = ROWS.len() * 4 - cells;
    assert!(cells >= 2 * ROWS.len(), "{cells} are tested and {explained} only explained");
}

/// What ends a connection that is open, and what comes before the close: nothing.
#[tokio::test]
async fn an_open_connection_ends_with_what_it_was_opened_by() {
    let (recorder, metrics) = recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (lines, _log) = log(true);
    let stage = Stage::new(metrics.clone(), lines.clone(), AdmissionOptions::unlimited()).await;
    let khala = &stage.server.khala;
    let id = |id: &str| RevocationId::parse(id).unwrap();
    let forge = &stage.forge;
    let ends: [(String, &str, u16); 5] = [
        (forge.with("exp", json!(forge.now() + 2)), "token_expired", 4001),
        (forge.with("jti", json!("one")), "token_revoked", 4003),
        (forge.with("sid", json!("login")), "token_revoked", 4003),
        (forge.with("sub", json!("eve")), "token_revoked", 4003),
        (forge.signed(Some("other"), OTHER_SECRET, &[]), "unknown_kid", 4004),
    ];
    let mut bystander = stage.open(&forge.good()).await;
    assert_eq!(stage.join(&mut bystander, "t").await[4]["status"], "ok");
    for (n, (token, reason, code)) in ends.into_iter().enumerate() {
        let mut socket = stage.open(&token).await;
        assert_eq!(stage.join(&mut socket, "t").await[4]["status"], "ok");
        let closes = || {
            khala.stats().report();
            metrics.closes(reason)
        };
        let before = closes();
        let revoke = |target| khala.access().revoke(Revocation::new(target, khala.now()));
        match n {
            0 => {}
            1 => drop(revoke(RevocationTarget::Jti(id("one"))).await.unwrap()),
            2 => drop(revoke(RevocationTarget::Sid(id("login"))).await.unwrap()),
            3 => drop(revoke(RevocationTarget::Sub(id("eve"))).await.unwrap()),
            _ => khala.access().distrust_key("other"),
        }
        assert_eq!(closed(&mut socket).await, (code, reason.to_owned()));
        assert_eq!(closes(), before + 1);
        if n > 0 {
            // The same token opens nothing more.
            let bearer = [("authorization", format!("Bearer {token}"))];
            stage.refused(reason, "upgrade", stage.handshake(stage.path(GATE), &bearer, 401, reason)).await;
        }
        // Nobody else notices.
        stage.server.publish("t", "1").await;
        assert_eq!(stage.hear(&mut bystander).await[3], "sync:update_batch");
        drop(socket);
    }
    assert_hides("the log", &lines.text(), &forge.made());
    assert_hides("the metrics", &metrics.text(), &forge.made());
    assert_hides("the answers", &stage.heard.lock().unwrap(), &forge.made());
}
