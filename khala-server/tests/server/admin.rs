//! The admin routes: whom they open to, and that what is revoked is gone everywhere.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use khala_auth::{JwtIssuer, JwtOptions, JwtVerifier, SecretError, SharedSecret};
use khala_core::{
    Error, ErrorKind, Khala, MemoryStore, Timestamp, Watermark,
    auth::{Access, MemoryRevocations, Revocation, RevocationPage, Revocations, TokenClaims},
    clock::{Clock as _, SystemClock},
    fanout::LocalFanout,
    node::NodeId,
    retention::{MemorySweeps, Sweeps as _},
};
use khala_server::{RevocationTerms, Server};
use khala_store_sqlite::SqliteStore;
use serde_json::json;

use crate::{
    evidence::{self, assert_hides},
    support::{
        Answer, Hand, Running, SECRET, Socket, Witness, closed, good_token, join, running, running_on,
        running_with,
    },
};

pub(crate) const ADMIN: &str = "admin-0123456789abcdef0123456789abcdef";
pub(crate) const REVOCATIONS: &str = "/internal/v1/khala/revocations";
pub(crate) const CONNECTIONS: &str = "/internal/v1/khala/connections";
pub(crate) const HOOKS: &str = "/internal/v1/khala/fanout/hooks";
pub(crate) const METRICS: &str = "/internal/v1/khala/fanout/metrics";
pub(crate) const RETENTION: &str = "/internal/v1/khala/retention";
/// Each admin route with what it takes.
pub(crate) const ROUTES: [(&str, Method); 8] = [
    (CONNECTIONS, Method::GET),
    (DRAIN, Method::POST),
    (HOOKS, Method::GET),
    (METRICS, Method::GET),
    (RETENTION, Method::GET),
    (RETENTION, Method::POST),
    (REVOCATIONS, Method::GET),
    (REVOCATIONS, Method::POST),
];
pub(crate) const DRAIN: &str = "/internal/v1/khala/drain";
const WEBSOCKET: &str = "/sync/v1/websocket?vsn=2.0.0";
const DAY: u64 = 24 * 60 * 60 * 1_000;

pub(crate) fn admin() -> SharedSecret {
    SharedSecret::new(ADMIN).unwrap()
}

async fn ask(server: &Server, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::from(body.to_owned())).unwrap();
    Answer::of(server.handle(request).await).await
}

async fn order(server: &Server, body: &str) -> Answer {
    let authorization = format!("Bearer {ADMIN}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    ask(server, Method::POST, REVOCATIONS, &headers, body).await
}

async fn get(server: &Server, path: &str) -> Answer {
    ask(server, Method::GET, path, &[("authorization", &format!("Bearer {ADMIN}"))], "").await
}

/// A store of revocations that fails.
#[derive(Debug)]
struct Broken(ErrorKind);

#[async_trait::async_trait]
impl Revocations for Broken {
    async fn revoke(&self, _: Revocation) -> Result<Watermark, Error> {
        Err(Error::new(self.0, "test", "/secret/path"))
    }

    async fn revocations(&self, _: Watermark, _: std::num::NonZeroUsize) -> Result<RevocationPage, Error> {
        Err(Error::new(self.0, "test", "/secret/path"))
    }

    async fn prune(&self, _: Timestamp) -> Result<u64, Error> {
        Err(Error::new(self.0, "test", "/secret/path"))
    }
}

/// Every answer that an admin route gives, for the test of the OpenAPI document.
pub(crate) async fn every_answer() -> Vec<(&'static str, Method, Answer)> {
    let authorization = format!("Bearer {ADMIN}");
    let good = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let plain = [good[0], ("content-type", "text/plain")];
    let large = format!(r#"{{"by":"jti","id":"{}"}}"#, "x".repeat(16 << 10));
    let short =
        khala_server::Limits { body_timeout: Duration::from_millis(50), ..khala_server::Limits::default() };
    let on = running_with(|server| server.with_admin_token(admin()).with_limits(short)).await.server;
    let off = running().await.server;
    let broken = |kind| {
        let store = Arc::new(Broken(kind));
        running_on(
            |khala| khala.with_roles(|roles| roles.revocations = store),
            |server| server.with_admin_token(admin()),
        )
    };
    let (corrupt, away) =
        (broken(ErrorKind::Corrupt).await.server, broken(ErrorKind::Unavailable).await.server);
    let one = r#"{"by":"jti","id":"x"}"#;
    let mut answers = Vec::new();
    let (get, post) = (Method::GET, Method::POST);
    for path in [REVOCATIONS, CONNECTIONS, HOOKS, METRICS, RETENTION] {
        for (server, headers, query) in
            [(&on, good.as_slice(), ""), (&on, &good, "?x=1"), (&on, &[], ""), (&off, &good, "")]
        {
            answers.push((
                path,
                get.clone(),
                ask(server, get.clone(), &format!("{path}{query}"), headers, "").await,
            ));
        }
    }
    for server in [&corrupt, &away] {
        answers.push((REVOCATIONS, get.clone(), ask(server, get.clone(), REVOCATIONS, &good, "").await));
    }
    for (server, headers, body) in [
        (&on, good.as_slice(), one),
        (&on, &good, "{}"),
        (&on, &[], one),
        (&off, &good, one),
        (&on, &good, &large),
        (&on, &plain, one),
        (&corrupt, &good, one),
        (&away, &good, one),
    ] {
        answers.push((
            REVOCATIONS,
            post.clone(),
            ask(server, post.clone(), REVOCATIONS, headers, body).await,
        ));
    }
    for (server, headers, body) in [
        (&on, good.as_slice(), ""),
        (&on, &good, r#"{"now":true}"#),
        (&on, &[], ""),
        (&off, &good, ""),
        (&on, &good, &large),
        (&on, &plain, "x"),
    ] {
        answers.push((DRAIN, post.clone(), ask(server, post.clone(), DRAIN, headers, body).await));
    }
    for (server, headers, body) in [
        (&on, good.as_slice(), "{}"),
        (&on, &good, r#"{"x":1}"#),
        (&on, &[], "{}"),
        (&off, &good, "{}"),
        (&on, &good, &large),
        (&on, &plain, "{}"),
    ] {
        answers.push((RETENTION, post.clone(), ask(server, post.clone(), RETENTION, headers, body).await));
    }
    answers.extend(history_that_cannot_be_read(&good).await);
    for path in [DRAIN, RETENTION, REVOCATIONS] {
        let never = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, std::io::Error>>();
        let request = Request::builder().method(post.clone()).uri(path);
        let request = request.header(good[0].0, good[0].1).header(good[1].0, good[1].1);
        let request = request.body(http_body_util::StreamBody::new(never)).unwrap();
        answers.push((path, post.clone(), Answer::of(on.handle(request).await).await));
    }
    answers
}

/// What is answered over a store that fails, or that another node sweeps.
async fn history_that_cannot_be_read(good: &[(&str, &str)]) -> Vec<(&'static str, Method, Answer)> {
    let sweeps = Arc::new(MemorySweeps::new());
    let shared = Arc::clone(&sweeps);
    let running = running_on(
        |khala| khala.with_roles(|roles| roles.sweeps = shared),
        |server| server.with_admin_token(admin()),
    )
    .await;
    // A topic that nobody has read yet is told of, because of this.
    let large = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(64 << 10));
    running.post("/v1/topics/t/updates", &large).await.problem(413, "khala_frame_payload_too_large");
    let (server, mut answers) = (&running.server, Vec::new());
    for kind in [ErrorKind::Internal, ErrorKind::Unavailable] {
        running.store.fail(Some(kind));
        for (method, path, asked, body) in [
            (Method::GET, METRICS, METRICS.to_owned(), ""),
            (Method::GET, RETENTION, format!("{RETENTION}?plan=true"), ""),
            (Method::POST, RETENTION, RETENTION.to_owned(), r#"{"dry_run":true}"#),
        ] {
            answers.push((path, method.clone(), ask(server, method, &asked, good, body).await));
        }
    }
    running.store.fail(None);
    let now = running.khala.now();
    sweeps.try_acquire(&NodeId::random(), now, now.plus(Duration::from_secs(60))).await.unwrap();
    answers.push((RETENTION, Method::POST, ask(server, Method::POST, RETENTION, good, "{}").await));
    answers
}

#[tokio::test]
async fn each_token_opens_its_own_doors_alone() {
    let (log, _guard) = evidence::log(true);
    let server = running_with(|server| server.with_admin_token(admin())).await;
    let off = running().await;
    let sync = good_token();
    let almost = format!("{}x", &ADMIN[..ADMIN.len() - 1]);
    let invalid = "Bearer error=\"invalid_token\"";
    let one = r#"{"by":"jti","id":"x"}"#;
    for (path, method) in ROUTES {
        for (authorization, code, challenge) in [
            (vec![], "missing_token", "Bearer"),
            (vec!["Bearer ".to_owned()], "missing_token", "Bearer"),
            (vec![format!("Basic {ADMIN}")], "invalid_authorization_scheme", invalid),
            (vec![format!("Bearer {almost}")], "invalid_admin_token", invalid),
            (vec![format!("Bearer {ADMIN}0")], "invalid_admin_token", invalid),
            (vec![format!("Bearer {sync}")], "invalid_admin_token", invalid),
        ] {
            let mut headers = vec![("content-type", "application/json")];
            headers.extend(authorization.iter().map(|value| ("authorization", value.as_str())));
            let answer = ask(&server.server, method.clone(), path, &headers, one).await;
            answer.problem(401, code);
            assert_eq!(answer.header("www-authenticate"), challenge);
            assert_hides("an answer", &answer.text, &[ADMIN.to_owned(), sync.clone(), almost.clone()]);
            ask(&off.server, method.clone(), path, &headers, one).await.problem(404, "admin_off");
        }
        let good = format!("Bearer {ADMIN}");
        let twice = [("authorization", good.as_str()), ("authorization", good.as_str())];
        assert_eq!(ask(&server.server, method.clone(), path, &twice, one).await.status, 401);
        let query = format!("{path}?token={ADMIN}");
        ask(&server.server, method, &query, &[], one).await.problem(401, "missing_token");
    }
    // Nothing was revoked, and the admin token is no sync token.
    assert_eq!(get(&server.server, REVOCATIONS).await.json(), json!({"revocations": [], "complete": true}));
    for path in ["/v1/topics", "/v1/topics/t", "/v1/topics/t/updates", "/v1/topics/t/snapshot"] {
        get(&server.server, path).await.problem(401, "invalid_token");
    }
    let headers = [("authorization", &*format!("Bearer {ADMIN}"))];
    let refused = server.handshake(WEBSOCKET, &headers).await.map(|_| ()).unwrap_err();
    refused.problem(401, "invalid_token");
    assert_hides("the log", &log.text(), &[ADMIN.to_owned(), sync, almost]);
    assert_eq!(SharedSecret::new("short").unwrap_err(), SecretError::TooShort { found: 5 });
}

#[tokio::test]
async fn a_revocation_that_is_none() {
    let server = running_with(|server| server.with_admin_token(admin())).await.server;
    let now = SystemClock::new().now().as_millis();
    let (long, longest) = ("x".repeat(513), "x".repeat(512));
    let reason = "x".repeat(1_025);
    for (body, code, named) in [
        (String::new(), "invalid_json", "object"),
        ("[]".to_owned(), "invalid_json", "object"),
        ("{}".to_owned(), "invalid", "by"),
        (r#"{"by":"jti"}"#.to_owned(), "invalid", "id"),
        (r#"{"by":"kid","id":"x"}"#.to_owned(), "invalid", "kid"),
        (r#"{"by":"jti","id":""}"#.to_owned(), "invalid", "id"),
        (r#"{"by":"jti","id":7}"#.to_owned(), "invalid", "id"),
        (r#"{"by":"jti","id":"a\u0000"}"#.to_owned(), "invalid", "control"),
        (json!({"by": "sub", "id": long}).to_string(), "invalid", "512"),
        (r#"{"by":"jti","id":"x","at":1}"#.to_owned(), "invalid", "at"),
        (r#"{"by":"jti","id":"x","reason":null}"#.to_owned(), "invalid", "reason"),
        (json!({"by": "jti", "id": "x", "reason": reason}).to_string(), "invalid", "reason"),
        (r#"{"by":"jti","id":"x","until":null}"#.to_owned(), "invalid", "until"),
        (r#"{"by":"jti","id":"x","until":-1}"#.to_owned(), "invalid", "until"),
        (r#"{"by":"jti","id":"x","until":9007199254740992}"#.to_owned(), "invalid", "until"),
        (r#"{"by":"jti","id":"x","until":0}"#.to_owned(), "invalid_until", "until"),
        (json!({"by": "jti", "id": "x", "until": now}).to_string(), "invalid_until", "future"),
        (json!({"by": "sub", "id": "x", "until": now + DAY / 2}).to_string(), "invalid_until", "too early"),
        (json!({"by": "sid", "id": "x", "until": now}).to_string(), "invalid_until", "future"),
    ] {
        let problem = order(&server, &body).await.problem(400, code);
        assert!(problem.to_string().contains(named), "{body}: {problem}");
    }
    assert_eq!(get(&server, REVOCATIONS).await.json()["revocations"], json!([]));
    assert_eq!(order(&server, &json!({"by": "sub", "id": longest}).to_string()).await.status, 201);
}

#[tokio::test]
async fn revocations_are_listed_page_by_page() {
    let (recorder, metrics) = evidence::recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (log, _guard) = evidence::log(false);
    let server = running_with(|server| server.with_admin_token(admin())).await.server;
    let before = server.khala().now().as_millis();
    let far = before + 3 * DAY;
    let orders = [
        json!({"by": "jti", "id": "t1", "until": before + 60_000}),
        json!({"by": "sid", "id": "s1", "reason": "a stolen laptop"}),
        json!({"by": "sub", "id": "ada", "until": far as f64}),
    ];
    for (n, body) in orders.iter().enumerate() {
        let told = order(&server, &body.to_string()).await;
        assert_eq!(told.status, 201, "{told:?}");
        let told = told.json();
        assert_eq!((&told["watermark"], &told["by"], &told["id"]), (&json!(n + 1), &body["by"], &body["id"]));
        assert!(told["at"].as_u64().unwrap() >= before);
    }
    let all = get(&server, REVOCATIONS).await.json();
    assert_eq!(all["complete"], true);
    let all = all["revocations"].as_array().unwrap().clone();
    assert_eq!(all[0]["until"], before + 60_000);
    assert!(all[1]["until"].is_null(), "a login stays ended");
    assert_eq!(all[2]["until"], far);
    assert!(!all[1].to_string().contains("laptop"), "the reason is for the log");

    let mut path = format!("{REVOCATIONS}?limit=1");
    let mut found = Vec::new();
    loop {
        let page = get(&server, &path).await.json();
        found.extend(page["revocations"].as_array().unwrap().clone());
        assert_eq!(page["next"].is_null(), page["complete"] == true, "{page}");
        let Some(next) = page["next"].as_str() else { break };
        path = next.to_owned();
    }
    assert_eq!(found, all);
    for query in ["?limit=0", "?after=-1", "?after=x", "?x=1", "?after=1&after=2"] {
        get(&server, &format!("{REVOCATIONS}{query}")).await.problem(400, "invalid_query");
    }
    let line = log.text().lines().find(|line| line.contains("laptop")).map(str::to_owned).unwrap();
    assert!(line.contains("INFO") && line.contains("by=\"sid\"") && line.contains("request_id="), "{line}");
    for by in ["jti", "sid", "sub"] {
        let line = format!("khala_revocations_made_total{{by=\"{by}\"}} 1");
        assert!(metrics.text().contains(&line), "{}", metrics.text());
    }
    assert_eq!(
        order(&server, r#"{"by":"jti","id":"t1"}"#).await.json()["watermark"],
        4,
        "again is read anew"
    );

    let usual = order(&server, r#"{"by":"sub","id":"bob"}"#).await.json();
    assert_eq!(
        usual["until"],
        usual["at"].as_u64().unwrap() + DAY + 5_000,
        "the longest age, and the leeway"
    );
    let for_good = Server::builder(server.khala().clone())
        .with_admin_token(admin())
        .with_revocation_terms(RevocationTerms { max_age: None, ..RevocationTerms::default() })
        .build();
    assert!(order(&for_good, r#"{"by":"sub","id":"cyd"}"#).await.json()["until"].is_null());
}

/// A token with everything that a revocation can name, and its `jti`.
fn token(subject: &str, session: &str) -> (String, String) {
    let issuer = JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap();
    let scopes = [Access::Read, Access::Publish].map(Access::scope);
    let claims = TokenClaims { session_id: Some(session.to_owned()), ..TokenClaims::new(subject, scopes) };
    // Issued a second ago, so that a revocation by `sub` is later however the seconds fall.
    let at = SystemClock::new().now().minus(Duration::from_secs(1));
    let issued = issuer.sign(&claims, at, Duration::from_secs(3600)).unwrap();
    (issued.token.reveal().to_owned(), issued.token_id)
}

async fn connect(server: &Running, token: &str) -> Result<Socket, Answer> {
    let authorization = format!("Bearer {token}");
    Ok(server.handshake(WEBSOCKET, &[("authorization", &authorization)]).await?.0)
}

#[tokio::test]
async fn what_is_revoked_is_closed_and_refused_on_every_node() {
    let (store, fanout) = (Arc::new(MemoryRevocations::new()), Arc::new(LocalFanout::new()));
    let node = || {
        let (store, fanout) = (Arc::clone(&store), Arc::clone(&fanout));
        running_on(
            |khala| khala.with_roles(|roles| (roles.revocations, roles.fanout) = (store, fanout)),
            |server| server.with_admin_token(admin()),
        )
    };
    let nodes = [node().await, node().await];
    let mut witnesses = [Witness::new(&nodes[0]).await, Witness::new(&nodes[1]).await];
    for (by, subject, session) in
        [("jti", "s-one", "l-one"), ("sid", "s-two", "l-two"), ("sub", "s-three", "l-three")]
    {
        let (token, jti) = token(subject, session);
        // Of the same login and subject, and so named by all but the jti.
        let (sibling, _) = self::token(subject, session);
        let mut sockets = Vec::new();
        for node in &nodes {
            let mut socket = connect(node, &token).await.unwrap();
            assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
            sockets.push(socket);
        }
        let open = get(&nodes[1].server, CONNECTIONS).await.json();
        assert_eq!(open["open"], 2, "the witness and the one to be revoked");
        let id = match by {
            "jti" => jti.as_str(),
            "sid" => session,
            _ => subject,
        };
        let told = order(&nodes[0].server, &json!({"by": by, "id": id}).to_string()).await;
        assert_eq!(told.status, 201, "{told:?}");
        for (node, mut socket) in nodes.iter().zip(sockets) {
            assert_eq!(closed(&mut socket).await, (4003, "token_revoked".to_owned()), "{by}");
            connect(node, &token).await.map(|_| ()).unwrap_err().problem(401, "token_revoked");
            let authorization = format!("Bearer {token}");
            let headers = [("authorization", authorization.as_str())];
            let answer = ask(&node.server, Method::GET, "/v1/topics", &headers, "").await;
            answer.problem(401, "token_revoked");
            assert_eq!(connect(node, &sibling).await.is_ok(), by == "jti", "{by}");
        }
        for (node, witness) in nodes.iter().zip(&mut witnesses) {
            witness.check(node).await;
        }
        crate::support::until(|| nodes.iter().all(|node| node.khala.connections().count() == 1)).await;
    }
}

/// A node with a clock of its own, over a store of revocations; and the server before it.
fn node(store: &Arc<MemoryRevocations>, clock: &Arc<Hand>, options: &JwtOptions) -> Server {
    let verifier = Arc::new(JwtVerifier::hs256(SECRET, options.clone()).unwrap());
    let khala = Khala::builder(MemoryStore::new()).with_clock(clock.clone());
    let khala = khala.with_verifier(verifier).with_roles(|roles| roles.revocations = store.clone()).build();
    let terms = RevocationTerms { max_age: options.max_age, leeway: options.leeway };
    Server::builder(khala).with_admin_token(admin()).with_revocation_terms(terms).build()
}

#[tokio::test]
async fn a_revocation_outlasts_a_token_of_a_clock_that_is_ahead() {
    for by in ["jti", "sub"] {
        let (store, clock) = (Arc::new(MemoryRevocations::new()), Hand::new());
        let (leeway, age) = (Duration::from_secs(60), Duration::from_secs(100));
        let options = JwtOptions { leeway, max_age: Some(age), ..JwtOptions::default() };
        let issuer = JwtIssuer::hs256(SECRET, options.clone()).unwrap();
        let issued =
            issuer.sign(&TokenClaims::new("ada", ["khala:read"]), clock.now().plus(leeway), age).unwrap();
        let server = node(&store, &clock, &options);
        server.khala().access().verify(&issued.token).await.expect("its clock is within the leeway");
        let id = if by == "jti" { issued.token_id.as_str() } else { "ada" };
        assert_eq!(order(&server, &json!({"by": by, "id": id}).to_string()).await.status, 201);
        server.khala().access().verify(&issued.token).await.unwrap_err();
        // Its last second, and then the end of both.
        clock.advance(leeway + age + leeway - Duration::from_secs(1));
        assert_eq!(store.prune(clock.now()).await.unwrap(), 0);
        let denied = node(&store, &clock, &options).khala().access().verify(&issued.token).await.unwrap_err();
        assert_eq!(denied.code().as_str(), "token_revoked", "{by}");
        clock.advance(Duration::from_secs(1));
        assert_eq!(store.prune(clock.now()).await.unwrap(), 1);
        let denied = node(&store, &clock, &options).khala().access().verify(&issued.token).await.unwrap_err();
        assert_eq!(denied.code().as_str(), "token_expired", "{by}");
    }
}

#[tokio::test]
async fn a_login_that_was_ended_stays_ended() {
    let (store, clock) = (Arc::new(MemoryRevocations::new()), Hand::new());
    let age = Duration::from_secs(3_600);
    let options = JwtOptions { max_age: Some(age), ..JwtOptions::default() };
    assert_eq!(order(&node(&store, &clock, &options), r#"{"by":"sid","id":"login"}"#).await.status, 201);
    clock.advance(age * 100);
    store.prune(clock.now()).await.unwrap();
    let issuer = JwtIssuer::hs256(SECRET, options.clone()).unwrap();
    let claims =
        TokenClaims { session_id: Some("login".to_owned()), ..TokenClaims::new("ada", ["khala:read"]) };
    let issued = issuer.sign(&claims, clock.now(), age).unwrap();
    let restarted = node(&store, &clock, &options);
    let denied = restarted.khala().access().verify(&issued.token).await.unwrap_err();
    assert_eq!(denied.code().as_str(), "token_revoked");

    // Whoever says until when, knows.
    let until = clock.now().plus(Duration::from_secs(1)).as_millis();
    let told = order(&restarted, &json!({"by": "sid", "id": "other", "until": until}).to_string()).await;
    assert_eq!(told.json()["until"], until);
}

#[tokio::test]
async fn a_subject_is_revoked_up_to_the_clocks_that_are_ahead() {
    let (store, clock) = (Arc::new(MemoryRevocations::new()), Hand::new());
    let leeway = Duration::from_secs(60);
    let options = JwtOptions { leeway, ..JwtOptions::default() };
    let issuer = JwtIssuer::hs256(SECRET, options.clone()).unwrap();
    let server = node(&store, &clock, &options);
    let token = |at| {
        issuer.sign(&TokenClaims::new("ada", ["khala:read"]), at, Duration::from_secs(3_600)).unwrap().token
    };
    let ahead = token(clock.now().plus(leeway));
    server.khala().access().verify(&ahead).await.expect("its clock is within the leeway");
    let told = order(&server, r#"{"by":"sub","id":"ada"}"#).await.json();
    assert_eq!(told["at"], clock.now().plus(leeway).as_millis());
    let denied = server.khala().access().verify(&ahead).await.unwrap_err();
    assert_eq!(denied.code().as_str(), "token_revoked", "issued before the revocation");
    clock.advance(leeway + Duration::from_secs(1));
    server.khala().access().verify(&token(clock.now())).await.expect("a new login, after the leeway");
}

#[tokio::test]
async fn a_restart_forgets_no_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("khala.db");
    let (token, jti) = token("ada", "s1");
    let start = || {
        let store = SqliteStore::open(&path).unwrap();
        let verifier = JwtVerifier::hs256(SECRET, JwtOptions::default()).unwrap();
        let khala = Khala::builder(store).with_verifier(Arc::new(verifier));
        Server::builder(khala.build()).with_admin_token(admin()).build()
    };
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str())];
    let server = start();
    assert_eq!(ask(&server, Method::GET, "/v1/topics", &headers, "").await.status, 200);
    let told = order(&server, &json!({"by": "jti", "id": jti}).to_string()).await.json();
    drop(server);

    let server = start();
    ask(&server, Method::GET, "/v1/topics", &headers, "").await.problem(401, "token_revoked");
    assert_eq!(get(&server, REVOCATIONS).await.json()["revocations"], json!([told]));
}
