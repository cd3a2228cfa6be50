//! Minting over HTTP: who gets a token, what it says, and what is told to whom gets none.

use std::{future, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use khala_auth::{
    JwtIssuer, JwtOptions, JwtVerifier, KeySet, SecretError, SharedSecret,
    mint::{
        ClaimName, ClaimRule, Credential, CredentialError, Mint, MintPolicy, SecretCredential,
        TokenCredential, TokenLifetime,
    },
};
use khala_core::{
    Error, ErrorKind, Grant, Timestamp, Token, Watermark,
    admission::{AdmissionOptions, Rate},
    auth::{
        Denied, IssuedToken, Issuer, MemoryRevocations, Revocation, RevocationId, RevocationPage,
        RevocationTarget, Revocations, TokenClaims, Verifier,
    },
    clock::{Clock as _, SystemClock},
};
use serde_json::{Value, json};

use crate::{
    evidence::{self, assert_hides},
    support::{Answer, Begun, Hand, LONG, Running, SECRET, join, running, running_on, running_with},
};

pub(crate) const PATHS: [&str; 3] = ["/v1/token", "/api/khala/token", "/api/sync/token"];
const MINT_SECRET: &str = "mint-0123456789abcdef0123456789abcdef";
/// Signs the application's own tokens.
const APP_SECRET: &[u8] = b"fedcba9876543210fedcba9876543210";
const HOUR: Duration = Duration::from_secs(3600);

fn issuer() -> Arc<dyn Issuer> {
    Arc::new(JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap().with_key_id("k1").unwrap())
}

fn secret() -> Arc<dyn Credential> {
    let claims = [(ClaimName::parse("tenant").unwrap(), ClaimRule::Any)].into();
    backend(MintPolicy { claims, ..MintPolicy::any_subject(["khala:read", "khala:publish"]) })
}

fn backend(policy: MintPolicy) -> Arc<dyn Credential> {
    Arc::new(SecretCredential { secret: SharedSecret::new(MINT_SECRET).unwrap(), policy })
}

fn application() -> Arc<dyn Credential> {
    let options = JwtOptions { bind_claims: vec!["tenant".to_owned()], ..JwtOptions::default() };
    let verifier = Arc::new(JwtVerifier::hs256(APP_SECRET, options).unwrap());
    Arc::new(TokenCredential {
        scopes: vec!["khala:read".to_owned()],
        carried_scopes: vec!["khala:publish".to_owned(), "khala:admin".to_owned()],
        claims: vec![ClaimName::parse("tenant").unwrap()],
        ..TokenCredential::new(verifier)
    })
}

pub(crate) fn mint() -> Mint {
    Mint::new(issuer(), [secret(), application()])
}

fn own_claims() -> TokenClaims {
    TokenClaims {
        session_id: Some("s1".to_owned()),
        organisation: Some("acme".to_owned()),
        claims: [("tenant".to_owned(), "blue".to_owned())].into(),
        ..TokenClaims::new("ada", ["khala:publish", "other"])
    }
}

/// A token of the application, for that long.
fn app_token(claims: &TokenClaims, ttl: Duration) -> String {
    let issuer = JwtIssuer::hs256(APP_SECRET, JwtOptions::default()).unwrap();
    issuer.sign(claims, SystemClock::new().now(), ttl).unwrap().token.reveal().to_owned()
}

async fn ask_with(server: &Running, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut request = Request::builder().method(Method::POST).uri(path).header("host", "x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    Answer::of(server.server.handle(request).await).await
}

async fn ask(server: &Running, bearer: &str, body: &str) -> Answer {
    let authorization = format!("Bearer {bearer}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    ask_with(server, PATHS[0], &headers, body.to_owned()).await
}

/// The claims of a token.
fn claims(token: &str) -> Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

/// Never answers.
#[derive(Debug)]
struct Silent;

#[async_trait]
impl Credential for Silent {
    async fn policy(&self, _: &HeaderMap, _: Timestamp) -> Result<MintPolicy, CredentialError> {
        future::pending().await
    }
}

#[async_trait]
impl Issuer for Silent {
    async fn issue(&self, _: &TokenClaims, _: Timestamp, _: Duration) -> Result<IssuedToken, Error> {
        future::pending().await
    }
}

/// Cannot answer.
#[derive(Debug)]
struct Down;

#[async_trait]
impl Verifier for Down {
    async fn verify(&self, _: &Token, _: Timestamp) -> Result<Grant, Denied> {
        Err(Denied::Unavailable(Error::new(ErrorKind::Unavailable, "test", "/secret/path is down")))
    }
}

#[async_trait]
impl Issuer for Down {
    async fn issue(&self, _: &TokenClaims, _: Timestamp, _: Duration) -> Result<IssuedToken, Error> {
        Err(Error::new(ErrorKind::Unavailable, "test", "the key /secret/path cannot be read"))
    }
}

#[async_trait]
impl Revocations for Down {
    async fn revoke(&self, _: Revocation) -> Result<Watermark, Error> {
        Err(Error::new(ErrorKind::Unavailable, "test", "/secret/path is down"))
    }

    async fn revocations(&self, _: Watermark, _: std::num::NonZeroUsize) -> Result<RevocationPage, Error> {
        Err(Error::new(ErrorKind::Unavailable, "test", "/secret/path is down"))
    }

    async fn prune(&self, _: Timestamp) -> Result<u64, Error> {
        Ok(0)
    }
}

fn down() -> Arc<dyn Credential> {
    let scopes = vec!["khala:read".to_owned()];
    Arc::new(TokenCredential { scopes, ..TokenCredential::new(Arc::new(Down)) })
}

/// One try in a second for each address.
fn one_try() -> AdmissionOptions {
    let one = NonZeroU32::MIN;
    AdmissionOptions { connects_per_address: Some(Rate::new(one, one)), ..AdmissionOptions::unlimited() }
}

/// A try with that credential, from an address.
async fn tried(server: &Running, path: &str, bearer: &str) -> Answer {
    let request = Request::builder().method(Method::POST).uri(path);
    let request = request.header("authorization", format!("Bearer {bearer}"));
    let request = request.extension(SocketAddr::from(([10, 0, 0, 1], 1))).body(Full::<Bytes>::default());
    Answer::of(server.server.handle(request.unwrap()).await).await
}

/// Every answer that a token route gives, for the test of the OpenAPI document.
pub(crate) async fn every_answer() -> Vec<(&'static str, Method, Answer)> {
    let authorization = format!("Bearer {MINT_SECRET}");
    let good = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let plain = [good[0], ("content-type", "text/plain")];
    let large = format!(r#"{{"subject":"{}"}}"#, "x".repeat(16 << 10));
    let short =
        khala_server::Limits { body_timeout: Duration::from_millis(50), ..khala_server::Limits::default() };
    let on = running_with(|server| server.with_mint(mint()).with_limits(short)).await;
    let off = running().await;
    let unsigned = running_with(|server| server.with_mint(Mint::new(Arc::new(Down), [secret()]))).await;
    let unknown = running_with(|server| server.with_mint(Mint::new(issuer(), [down()]))).await;
    let limited =
        running_on(|khala| khala.with_admission(one_try()), |server| server.with_mint(mint())).await;
    let ada = r#"{"subject":"ada"}"#;
    let mut answers = Vec::new();
    for path in PATHS {
        for (server, headers, body) in [
            (&on, good.as_slice(), ada),
            (&on, &good, "{}"),
            (&on, &[], ada),
            (&on, &good, r#"{"subject":"ada","scopes":["admin"]}"#),
            (&off, &good, ada),
            (&on, &good, &large),
            (&on, &plain, ada),
            (&unsigned, &good, ada),
            (&unknown, &good, ada),
        ] {
            answers.push((path, Method::POST, ask_with(server, path, headers, body.to_owned()).await));
        }
        let never = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, std::io::Error>>();
        let request = Request::builder().method(Method::POST).uri(path).header(good[0].0, good[0].1);
        let request = request.body(http_body_util::StreamBody::new(never)).unwrap();
        answers.push((path, Method::POST, Answer::of(on.server.handle(request).await).await));
        answers.push((path, Method::POST, tried(&limited, path, "x").await));
        answers.push((path, Method::POST, tried(&limited, path, "x").await));
    }
    answers
}

#[tokio::test]
async fn a_backend_gets_tokens_for_anybody_under_each_path() {
    let server = running_with(|server| server.with_mint(mint())).await;
    let body = r#"{"subject":"ada","scopes":["khala:read"],"organisation":"acme","session_id":"s",
        "ttl_seconds":120.0,"claims":{"tenant":"blue"}}"#;
    let headers =
        [("authorization", &*format!("bearer {MINT_SECRET}")), ("content-type", "application/json")];
    for path in PATHS {
        let answer = ask_with(&server, path, &headers, body).await;
        assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"), "{answer:?}");
        let minted = answer.json();
        assert_eq!(minted["token_type"], "Bearer");
        assert_eq!(minted["subject"], "ada");
        assert_eq!(minted["scopes"], json!(["khala:read"]));
        assert_eq!(minted["kid"], "k1");
        let claims = claims(minted["token"].as_str().unwrap());
        for (name, value) in [("sub", "ada"), ("sid", "s"), ("org_id", "acme"), ("tenant", "blue")] {
            assert_eq!(claims[name], value, "{claims}");
        }
        assert_eq!(claims["jti"], minted["jti"]);
        assert_eq!(claims["scope"], "khala:read");
        assert_eq!(claims["exp"].as_u64().unwrap() * 1000, minted["expires_at"].as_u64().unwrap());
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 120);
        assert!((118..=120).contains(&minted["expires_in"].as_u64().unwrap()), "{minted}");
    }
}

#[tokio::test]
async fn what_is_minted_opens_what_it_says() {
    let server = running_on(
        |khala| {
            let key = JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap().with_key_id("k1").unwrap();
            let keys = KeySet::new().with_key(key.key().clone()).unwrap();
            khala.with_verifier(Arc::new(JwtVerifier::with_keys(keys, JwtOptions::default())))
        },
        |server| server.with_mint(mint()),
    )
    .await;
    let minted = ask(&server, &app_token(&own_claims(), HOUR), "").await.json();
    let authorization = format!("Bearer {}", minted["token"].as_str().unwrap());
    let headers = [("authorization", authorization.as_str())];
    let (mut socket, _) = server.handshake("/sync/v1/websocket?vsn=2.0.0", &headers).await.unwrap();
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    // It is a sync token, and proves nothing to the mint.
    ask(&server, minted["token"].as_str().unwrap(), "{}").await.problem(401, "authz_denied");
}

#[tokio::test]
async fn a_user_gets_tokens_for_itself_and_no_longer_than_its_own() {
    let server = running_with(|server| server.with_mint(mint())).await;
    let own = app_token(&own_claims(), HOUR / 2);
    for body in
        ["", "{}", r#"{"subject":"ada","organisation":"acme","session_id":"s1","claims":{"tenant":"blue"}}"#]
    {
        let minted = ask(&server, &own, body).await.json();
        let claims = claims(minted["token"].as_str().unwrap());
        let said: Vec<_> =
            ["sub", "sid", "org_id", "tenant"].map(|name| claims[name].as_str().unwrap()).into();
        assert_eq!(said, ["ada", "s1", "acme", "blue"]);
        assert_eq!(minted["scopes"], json!(["khala:read", "khala:publish"]), "given, and carried");
        assert!(claims["exp"].as_u64() <= self::claims(&own)["exp"].as_u64(), "{claims}");
    }
    let longer = ask(&server, &own, r#"{"ttl_seconds":3600}"#).await.problem(400, "invalid_ttl");
    assert!(longer["max_seconds"].as_u64().unwrap() <= 1800, "{longer}");
    ask(&server, &app_token(&own_claims(), HOUR / 120), "{}").await.problem(401, "authz_denied");

    let bare = app_token(&TokenClaims::new("bob", ["x"]), HOUR);
    let minted = ask(&server, &bare, "").await.json();
    let claims = claims(minted["token"].as_str().unwrap());
    let jti = &self::claims(&bare)["jti"];
    assert_eq!((&minted["scopes"], &claims["sid"]), (&json!(["khala:read"]), jti));
}

#[tokio::test]
async fn every_failure_has_its_class() {
    let (recorder, metrics) = evidence::recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (log, _guard) = evidence::log(false);
    let own = app_token(&own_claims(), HOUR);
    let short = format!("{}x", &own[..own.len() - 1]);
    let almost = format!("{}x", &MINT_SECRET[..MINT_SECRET.len() - 1]);
    let unsigned = || Mint::new(Arc::new(Down), [secret()]);
    let challenge = "Bearer error=\"invalid_token\"";
    type Row<'a> = (Mint, &'a str, &'a str, u16, &'a str, &'a str);
    let ada = r#"{"subject":"ada"}"#;
    let rows: Vec<Row<'_>> = vec![
        (mint(), "", ada, 401, "authz_denied", "Bearer"),
        (mint(), "Basic eDp5", ada, 401, "authz_denied", challenge),
        (mint(), "Bearer ", ada, 401, "authz_denied", "Bearer"),
        (mint(), &almost, ada, 401, "authz_denied", challenge),
        (mint(), "x", ada, 401, "authz_denied", challenge),
        (mint(), &short, ada, 401, "authz_denied", challenge),
        (Mint::new(issuer(), []), MINT_SECRET, ada, 401, "authz_denied", "Bearer"),
        (mint(), &own, r#"{"subject":"bob"}"#, 403, "authz_denied", ""),
        (mint(), &own, r#"{"session_id":"s2"}"#, 403, "authz_denied", ""),
        (mint(), &own, r#"{"organisation":"other"}"#, 403, "authz_denied", ""),
        (mint(), &own, r#"{"scopes":["khala:read","khala:admin"]}"#, 403, "authz_denied", ""),
        (mint(), &own, r#"{"scopes":["other"]}"#, 403, "authz_denied", ""),
        (mint(), &own, r#"{"claims":{"tenant":"red"}}"#, 403, "authz_denied", ""),
        (mint(), MINT_SECRET, r#"{"subject":"ada","claims":{"sub":"bob"}}"#, 403, "authz_denied", ""),
        (mint(), MINT_SECRET, r#"{"subject":"ada","claims":{"exp":"9"}}"#, 403, "authz_denied", ""),
        (unsigned(), MINT_SECRET, ada, 500, "signing_error", ""),
        (Mint::new(issuer(), [down(), secret()]), "x", ada, 503, "upstream_unavailable", ""),
        (Mint::new(issuer(), [down()]), &own, ada, 503, "upstream_unavailable", ""),
    ];
    for (mint, bearer, body, status, code, challenge) in rows {
        let class = format!("khala_tokens_minted_total{{outcome=\"{code}\"}}");
        let count = |text: &str| -> u64 {
            text.lines().find_map(|line| line.strip_prefix(&class)?.trim().parse().ok()).unwrap_or(0)
        };
        let before = (count(&metrics.text()), metrics.refusals(code, "mint").1);
        let server = running_with(|server| server.with_mint(mint)).await;
        let value = if bearer.contains(' ') { bearer.to_owned() } else { format!("Bearer {bearer}") };
        let mut headers = vec![("content-type", "application/json"), ("x-request-id", "find-me-again")];
        if !bearer.is_empty() {
            headers.push(("authorization", &value));
        }
        let answer = ask_with(&server, PATHS[0], &headers, body.to_owned()).await;
        answer.problem(status, code);
        assert_eq!(answer.header("www-authenticate"), challenge, "{body}");
        assert_eq!(answer.header("retry-after").is_empty(), status != 503, "{answer:?}");
        let after = (count(&metrics.text()), metrics.refusals(code, "mint").1);
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{body}");
        let secrets = [MINT_SECRET.to_owned(), almost.clone(), own.clone(), short.clone()];
        assert_hides("an answer", &answer.text, &secrets);
        assert_hides("the log", &log.text(), &secrets);
        assert_hides("the metrics", &metrics.text(), &secrets);
    }
    let text = log.text();
    for line in ["authz_denied", "signing_error", "upstream_unavailable"] {
        let found = text
            .lines()
            .find(|found| found.contains("no token was made") && found.contains(&format!("code=\"{line}\"")));
        assert!(found.is_some_and(|found| found.contains("find-me-again")), "{line}: {text}");
    }
    assert!(text.contains("subject=\"ada\""), "{text}");
}

#[tokio::test]
async fn each_bound_is_named() {
    let server = running_with(|server| server.with_mint(mint())).await;
    let texts = |field: &str, text: &str| json!({"subject": "ada", field: text}).to_string();
    let (long, longest) = ("x".repeat(256), "x".repeat(255));
    let scope = "s".repeat(129);
    let scopes: Vec<_> = (0..65).map(|n| n.to_string()).collect();
    let many: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), json!("x"))).collect();
    for (body, code, target) in [
        ("null".to_owned(), "invalid_json", "object"),
        ("[]".to_owned(), "invalid_json", "object"),
        ("{".to_owned(), "invalid_json", "EOF"),
        (" ".to_owned(), "invalid_json", "object"),
        ("{}".to_owned(), "invalid", "subject"),
        (r#"{"subject":"ada","role":"x"}"#.to_owned(), "invalid", "role"),
        (r#"{"subject":"ada","subject":"bob"}"#.to_owned(), "invalid", "duplicate"),
        (r#"{"subject":null}"#.to_owned(), "invalid", "subject"),
        (r#"{"subject":7}"#.to_owned(), "invalid", "subject"),
        (r#"{"subject":"ada","scopes":null}"#.to_owned(), "invalid", "scopes"),
        (r#"{"subject":"ada","scopes":"khala:read"}"#.to_owned(), "invalid", "scopes"),
        (r#"{"subject":"ada","scopes":["khala:read ","x"]}"#.to_owned(), "invalid", "scopes"),
        (r#"{"subject":"ada","scopes":[""]}"#.to_owned(), "invalid", "scopes"),
        (json!({"subject": "ada", "scopes": [scope]}).to_string(), "invalid", "scopes"),
        (json!({"subject": "ada", "scopes": scopes}).to_string(), "invalid", "scopes"),
        (json!({"subject": "ada", "claims": many}).to_string(), "invalid", "claims"),
        (r#"{"subject":"ada","claims":{"tenant":1}}"#.to_owned(), "invalid", "claims"),
        (r#"{"subject":"ada","claims":{"tenant":"a","tenant":"b"}}"#.to_owned(), "invalid", "twice"),
        (texts("subject", "").replace("\"ada\",", ""), "invalid", "subject"),
        (json!({"subject": long}).to_string(), "invalid", "subject"),
        (json!({"subject": "a\nb"}).to_string(), "invalid", "subject"),
        (texts("organisation", &long), "invalid", "organisation"),
        (texts("session_id", ""), "invalid", "session_id"),
        (r#"{"subject":"ada","ttl_seconds":59}"#.to_owned(), "invalid_ttl", "60"),
        (r#"{"subject":"ada","ttl_seconds":86401}"#.to_owned(), "invalid_ttl", "86400"),
        (r#"{"subject":"ada","ttl_seconds":0}"#.to_owned(), "invalid_ttl", "60"),
        (r#"{"subject":"ada","ttl_seconds":-1}"#.to_owned(), "invalid", "ttl_seconds"),
        (r#"{"subject":"ada","ttl_seconds":60.5}"#.to_owned(), "invalid", "ttl_seconds"),
        (r#"{"subject":"ada","ttl_seconds":"60"}"#.to_owned(), "invalid", "ttl_seconds"),
        (r#"{"subject":"ada","ttl_seconds":null}"#.to_owned(), "invalid", "ttl_seconds"),
    ] {
        let problem = ask(&server, MINT_SECRET, &body).await.problem(400, code);
        assert!(problem.to_string().contains(target), "{body}: {problem}");
        if code == "invalid_ttl" {
            assert_eq!((&problem["min_seconds"], &problem["max_seconds"]), (&json!(60), &json!(86_400)));
        }
    }
    for body in [
        json!({"subject": longest}).to_string(),
        r#"{"subject":"ada","ttl_seconds":60}"#.to_owned(),
        r#"{"subject":"ada","ttl_seconds":86400}"#.to_owned(),
        r#"{"subject":"ada","scopes":[]}"#.to_owned(),
    ] {
        assert_eq!(ask(&server, MINT_SECRET, &body).await.status, 200, "{body}");
    }
}

#[tokio::test]
async fn what_is_no_request_for_a_token() {
    let server = running_with(|server| server.with_mint(mint())).await;
    let authorization = format!("Bearer {MINT_SECRET}");
    let (good, json) = (("authorization", authorization.as_str()), ("content-type", "application/json"));
    let ada = r#"{"subject":"ada"}"#;
    let mebibyte = format!(r#"{{"subject":"{}"}}"#, "x".repeat(1 << 20));
    let full = format!("{ada}{}", " ".repeat((16 << 10) - ada.len()));
    for (headers, body, status, code) in [
        ([good, json].as_slice(), mebibyte.as_str(), 413, "body_too_large"),
        (&[good, json], &format!("{full} "), 413, "body_too_large"),
        (&[good, ("content-type", "text/plain")], ada, 415, "unsupported_media_type"),
        (&[good, ("content-type", "text/plain")], "", 415, "unsupported_media_type"),
        (&[good], ada, 415, "unsupported_media_type"),
        (&[good], "", 400, "invalid"),
        // Who it is comes first.
        (&[json], mebibyte.as_str(), 401, "authz_denied"),
        (&[good, good, json], ada, 401, "authz_denied"),
    ] {
        ask_with(&server, PATHS[0], headers, body.to_owned()).await.problem(status, code);
    }
    assert_eq!(ask_with(&server, PATHS[0], &[good, json], full).await.status, 200);
    let query = format!("/v1/token?token={MINT_SECRET}");
    ask_with(&server, &query, &[json], ada).await.problem(401, "authz_denied");
    ask_with(&server, &query, &[good, json], ada).await.problem(400, "invalid_query");
    for path in PATHS {
        server.get(path).await.problem(405, "method_not_allowed");
        running().await.post(path, ada).await.problem(404, "mint_off");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_longer_than_five_seconds() {
    for (mint, status, code) in [
        (
            Mint::new(issuer(), [Arc::new(Silent) as Arc<dyn Credential>, secret()]),
            503,
            "upstream_unavailable",
        ),
        (Mint::new(Arc::new(Silent), [secret()]), 500, "signing_error"),
    ] {
        let server = running_with(|server| server.with_mint(mint)).await;
        let started = tokio::time::Instant::now();
        ask(&server, MINT_SECRET, r#"{"subject":"ada"}"#).await.problem(status, code);
        assert_eq!(started.elapsed().as_secs(), 5, "in the paused clock's own time");
    }
}

#[tokio::test]
async fn a_revoked_credential_is_not_exchanged() {
    let id = |text: &str| RevocationId::parse(text).unwrap();
    let other = app_token(&TokenClaims::new("bob", ["x"]), HOUR);
    for by in ["jti", "sid", "sub"] {
        let store = Arc::new(MemoryRevocations::new());
        // More than a page of others before it.
        for n in 0..1_100 {
            let old = Revocation::new(RevocationTarget::Jti(id(&n.to_string())), Timestamp::default());
            store.revoke(old).await.unwrap();
        }
        let server = running_on(
            |khala| khala.with_roles(|roles| roles.revocations = store),
            |server| server.with_mint(mint()),
        )
        .await;
        let own = app_token(&own_claims(), HOUR);
        assert_eq!(ask(&server, &own, "").await.status, 200);
        let target = match by {
            "jti" => RevocationTarget::Jti(id(claims(&own)["jti"].as_str().unwrap())),
            "sid" => RevocationTarget::Sid(id("s1")),
            _ => RevocationTarget::Sub(id("ada")),
        };
        server.khala.access().revoke(Revocation::new(target, server.khala.now())).await.unwrap();
        ask(&server, &own, "").await.problem(401, "authz_denied");
        assert_eq!(ask(&server, &other, "").await.status, 200, "nobody else");
    }
    let unknown = running_on(
        |khala| khala.with_roles(|roles| roles.revocations = Arc::new(Down)),
        |server| server.with_mint(mint()),
    );
    ask(&unknown.await, &other, "").await.problem(503, "upstream_unavailable");
}

#[tokio::test]
async fn a_credential_that_is_revoked_while_the_body_comes_is_not_exchanged() {
    let id = |text: &str| RevocationId::parse(text).unwrap();
    for by in ["jti", "sid", "sub"] {
        let server = running_with(|server| server.with_mint(mint())).await;
        let own = app_token(&own_claims(), HOUR);
        let request = Request::builder().method(Method::POST).uri(PATHS[0]);
        let request = request.header("authorization", format!("Bearer {own}"));
        let request = request.header("content-type", "application/json");
        let begun = Begun::new(&server.server, request, "{}").await;
        let target = match by {
            "jti" => RevocationTarget::Jti(id(claims(&own)["jti"].as_str().unwrap())),
            "sid" => RevocationTarget::Sid(id("s1")),
            _ => RevocationTarget::Sub(id("ada")),
        };
        server.khala.access().revoke(Revocation::new(target, server.khala.now())).await.unwrap();
        begun.end().await.problem(401, "authz_denied");
    }
}

#[tokio::test]
async fn who_is_revoked_while_the_body_comes_gets_a_token_that_is_revoked() {
    let clock = Hand::new();
    let own = clock.clone();
    let unnamed: Arc<dyn Issuer> = Arc::new(JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap());
    let server =
        running_on(|khala| khala.with_clock(own), |server| server.with_mint(Mint::new(unnamed, [secret()])))
            .await;
    let minted = async |revoked: bool| {
        let request = Request::builder().method(Method::POST).uri(PATHS[0]);
        let request = request.header("authorization", format!("Bearer {MINT_SECRET}"));
        let request = request.header("content-type", "application/json");
        let begun = Begun::new(&server.server, request, r#"{"subject":"ada"}"#).await;
        if revoked {
            let target = RevocationTarget::Sub(RevocationId::parse("ada").unwrap());
            server.khala.access().revoke(Revocation::new(target, server.khala.now())).await.unwrap();
        }
        clock.advance(Duration::from_secs(2));
        let minted = begun.end().await.json();
        assert_eq!(minted["expires_in"], 3598, "{minted}");
        server.khala.access().verify(&Token::new(minted["token"].as_str().unwrap())).await.map(|_| ())
    };
    minted(false).await.unwrap();
    assert!(matches!(minted(true).await, Err(Denied::TokenRevoked)), "the mint knew nothing of it");
    minted(false).await.expect("what is asked for later is good");
}

#[tokio::test]
async fn the_session_of_a_credential_ends_what_was_minted_for_it() {
    let id = |text: &str| RevocationId::parse(text).unwrap();
    let unnamed: Arc<dyn Issuer> = Arc::new(JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap());
    let server = running_with(|server| server.with_mint(Mint::new(unnamed, [application()]))).await;
    for own in [app_token(&TokenClaims::new("ada", ["x"]), HOUR), app_token(&own_claims(), HOUR)] {
        let minted = ask(&server, &own, "").await.json();
        let token = Token::new(minted["token"].as_str().unwrap());
        let own_claims = claims(&own);
        let session = own_claims["sid"].as_str().or_else(|| own_claims["jti"].as_str()).unwrap();
        assert_eq!(minted["session_id"], session);
        server.khala.access().verify(&token).await.unwrap();
        server
            .khala
            .access()
            .revoke(Revocation::new(RevocationTarget::Sid(id(session)), server.khala.now()))
            .await
            .unwrap();
        assert!(matches!(server.khala.access().verify(&token).await, Err(Denied::TokenRevoked)));
        ask(&server, &own, "").await.problem(401, "authz_denied");
    }
}

#[tokio::test]
async fn who_tries_in_vain_too_often_is_not_heard() {
    let server = running_on(|khala| khala.with_admission(one_try()), |server| server.with_mint(mint())).await;
    let own = app_token(&own_claims(), HOUR);
    for _ in 0..3 {
        assert_eq!(tried(&server, PATHS[0], &own).await.status, 200, "good ones cost nothing");
    }
    tried(&server, PATHS[0], "x").await.problem(401, "authz_denied");
    let limited = tried(&server, PATHS[0], &own).await;
    limited.problem(429, "too_many_connections");
    assert!(!limited.header("retry-after").is_empty());
    assert_eq!(ask(&server, &own, "").await.status, 200, "another address is another matter");
    let unknown = running_on(
        |khala| khala.with_admission(one_try()),
        |server| server.with_mint(Mint::new(issuer(), [down()])),
    );
    let unknown = unknown.await;
    for _ in 0..3 {
        tried(&unknown, PATHS[0], &own).await.problem(503, "upstream_unavailable");
    }
}

#[tokio::test]
async fn the_first_credential_that_knows_the_caller_decides_alone() {
    let narrow = || -> Arc<dyn Credential> {
        let organisation = ClaimRule::Exactly("acme".to_owned());
        backend(MintPolicy { organisation, ..MintPolicy::any_subject(["khala:read"]) })
    };
    let server =
        running_with(|server| server.with_mint(Mint::new(issuer(), [down(), narrow(), secret()]))).await;
    let minted = ask(&server, MINT_SECRET, r#"{"subject":"ada"}"#).await.json();
    assert_eq!((&minted["scopes"], &minted["organisation"]), (&json!(["khala:read"]), &json!("acme")));
    let more = r#"{"subject":"ada","scopes":["khala:publish"]}"#;
    ask(&server, MINT_SECRET, more).await.problem(403, "authz_denied");
    let server = running_with(|server| server.with_mint(Mint::new(issuer(), [secret(), narrow()]))).await;
    assert_eq!(ask(&server, MINT_SECRET, more).await.json()["organisation"], Value::Null);
}

#[tokio::test]
async fn leeway_prolongs_nothing() {
    // A verifier that accepts what is minted here, with a leeway: the worst there is.
    let options = JwtOptions { leeway: LONG * 10, ..JwtOptions::default() };
    let verifier: Arc<dyn Verifier> = Arc::new(JwtVerifier::hs256(SECRET, options).unwrap());
    let credential = TokenCredential {
        scopes: vec!["khala:read".to_owned()],
        leeway: LONG * 10,
        ..TokenCredential::new(verifier)
    };
    let issuer = Arc::new(JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap());
    let mint = Mint::new(issuer.clone(), [Arc::new(credential) as Arc<dyn Credential>]);
    let server = running_with(|server| server.with_mint(mint)).await;
    let first = issuer.sign(&TokenClaims::new("ada", ["x"]), SystemClock::new().now(), HOUR).unwrap();
    let second = ask(&server, first.token.reveal(), "").await.json();
    assert!(second["expires_at"].as_u64().unwrap() <= first.expires_at.as_millis());
}

#[test]
fn settings_that_contradict_themselves() {
    let seconds = Duration::from_secs;
    for (min, default, max) in [(0, 1, 2), (2, 1, 3), (1, 3, 2)] {
        let lifetime = TokenLifetime::new(seconds(min), seconds(default), seconds(max));
        assert!(lifetime.is_err(), "{min} {default} {max}");
    }
    assert!(TokenLifetime::new(seconds(1), seconds(1), seconds(1)).is_ok());
    assert_eq!(SharedSecret::new("short").unwrap_err(), SecretError::TooShort { found: 5 });
    let printed = format!("{:?}", mint());
    assert_hides("Debug", &printed, &[MINT_SECRET.to_owned()]);
}
