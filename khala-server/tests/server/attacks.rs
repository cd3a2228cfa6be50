//! The classical attacks on bearer tokens, over real sockets: each gets its answer, and the server lives on.
//!
//! What a token must be like is tested where tokens are checked. Here is what an attacker can reach from outside, and a
//! witness that does everything right and notices nothing.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Request;
use http_body_util::Full;
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use khala_auth::{JwtOptions, JwtVerifier, Key, KeyAlgorithm, KeySet};
use khala_core::{
    admission::AdmissionOptions,
    auth::{Access, Revocation, RevocationId, RevocationTarget},
    class::{Classes, TopicClass, TopicPattern},
    clock::{Clock as _, SystemClock},
};
use khala_server::{Origins, ServerBuilder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    evidence::{assert_hides, log},
    support::{Answer, LONG, Running, SECRET, Socket, Witness, closed, hear, join, running_on, say, until},
};

#[expect(dead_code, reason = "the tests of khala-auth use more of them")]
#[path = "../../../khala-auth/src/testing/pem.rs"]
mod pem;

const PATH: &str = "/sync/v1/websocket?vsn=2.0.0";
const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn now() -> u64 {
    SystemClock::new().now().as_millis() / 1000
}

/// A good token's claims with these changes; null takes one away.
fn claims(changes: &[(&str, Value)]) -> Value {
    let mut claims = json!({
        "sub": "ada",
        "jti": "a token",
        "iat": now() - 1,
        "exp": now() + 600,
        "org_id": "acme",
        "scope": ["khala:read", "khala:publish"],
    });
    for (claim, value) in changes {
        claims[*claim] = value.clone();
    }
    claims
}

/// A token of this header and these claims, as they are written, signed with `secret` by HS256.
fn forge(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn token(changes: &[(&str, Value)]) -> String {
    forge(HS256, &claims(changes).to_string(), SECRET)
}

/// A server that trusts a secret without a name and an RSA key, and binds topics to organisations.
async fn attacked(admission: AdmissionOptions, set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Running {
    let rsa = Key::from_pem(Some("rsa"), KeyAlgorithm::Rs256, pem::RSA_PUBLIC).unwrap();
    let keys = KeySet::new().with_key(Key::hs256(None, SECRET).unwrap()).unwrap().with_key(rsa).unwrap();
    let verifier = JwtVerifier::with_keys(keys, JwtOptions::default());
    let class = |name: &str, pattern: &str| {
        TopicClass::new(name, TopicPattern::parse(pattern).unwrap())
            .with_read([Access::Read.scope()])
            .with_publish([Access::Publish.scope()])
    };
    let classes = Classes::new(vec![class("tenant", "org:{org}:**"), class("fallback", "**")]).unwrap();
    running_on(
        |khala| khala.with_verifier(Arc::new(verifier)).with_classes(classes).with_admission(admission),
        set,
    )
    .await
}

async fn server() -> Running {
    attacked(AdmissionOptions::default(), |builder| builder).await
}

async fn open(server: &Running, token: &str) -> Socket {
    let bearer = format!("Bearer {token}");
    match server.handshake(PATH, &[("authorization", &bearer)]).await {
        Ok((socket, _)) => socket,
        Err(answer) => panic!("{answer:?}"),
    }
}

async fn get(server: &Running, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().uri(path).header("host", "x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Full::default()).unwrap()).await
}

async fn refresh(socket: &mut Socket, token: Value) -> Value {
    say(socket, json!([null, "r", "phoenix", "access_token", {"access_token": token}])).await;
    hear(socket).await[4].take()
}

/// Tries a token in every place, and checks that each answers with that code.
async fn refused_everywhere(server: &Running, token: &str, code: &str, what: &str) {
    let bearer = format!("Bearer {token}");
    let encoded = format!("phoenix, base64url.bearer.phx.{}", URL_SAFE_NO_PAD.encode(token));
    let query = format!("{PATH}&token={token}");
    for (path, headers) in [
        (PATH, &[("authorization", &*bearer)][..]),
        (PATH, &[("sec-websocket-protocol", &*encoded)]),
        (&query, &[]),
    ] {
        let Err(answer) = server.handshake(path, headers).await else { panic!("{what} was let in") };
        answer.problem(401, code);
    }
    get(server, "/v1/topics/t", &[("authorization", &bearer)]).await.problem(401, code);
    let mut socket = open(server, &self::token(&[])).await;
    let answer = refresh(&mut socket, json!(token)).await;
    assert_eq!(
        (&answer["status"], &answer["response"]["code"]),
        (&json!("error"), &json!(code)),
        "{what}: {answer}"
    );
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok", "{what}");
}

#[tokio::test]
async fn forged_tokens_are_refused_everywhere() {
    let (lines, _log) = log(true);
    let server = server().await;
    let mut witness = Witness::new(&server).await;
    let good = claims(&[]).to_string();
    let unsigned =
        |header: &str| format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&good));
    let named = |kid: &str| forge(&json!({"alg": "HS256", "kid": kid}).to_string(), &good, SECRET);
    let with_rsa = |header: &str| forge(header, &good, pem::RSA_PUBLIC.as_bytes());
    let cases = [
        ("alg none", unsigned(r#"{"alg":"none"}"#), "invalid_token"),
        ("alg None", unsigned(r#"{"alg":"None"}"#), "invalid_token"),
        ("alg nONE with a name", unsigned(r#"{"alg":"nONE","kid":"rsa"}"#), "invalid_token"),
        ("no alg", unsigned("{}"), "invalid_token"),
        ("no signature", unsigned(HS256), "invalid_token"),
        ("HS256 with the RSA public key", with_rsa(r#"{"alg":"HS256","kid":"rsa"}"#), "invalid_token"),
        ("the same, and says RS256", with_rsa(r#"{"alg":"RS256","kid":"rsa"}"#), "invalid_token"),
        ("the same, without a name", with_rsa(HS256), "invalid_token"),
        ("a kid with a path", named("../../../../dev/null"), "unknown_kid"),
        ("a kid with SQL", named("x' UNION SELECT 'secret"), "unknown_kid"),
        ("a kid with a command", named("rsa|whoami"), "unknown_kid"),
        ("a kid with NUL", named("rsa\0"), "unknown_kid"),
        ("a kid with an address", named("http://127.0.0.1/keys"), "unknown_kid"),
        ("an empty kid", named(""), "unknown_kid"),
        (
            "a second kid, the good one last",
            forge(r#"{"alg":"HS256","kid":"rsa","kid":null}"#, &good, SECRET),
            "invalid_token",
        ),
        (
            "a second kid, the good one first",
            forge(r#"{"alg":"HS256","kid":null,"kid":"rsa"}"#, &good, SECRET),
            "invalid_token",
        ),
        (
            "a key of its own",
            forge(
                r#"{"alg":"HS256","jwk":{"kty":"oct","k":"YXR0YWNrZXI"},"jku":"http://127.0.0.1/"}"#,
                &good,
                b"attacker",
            ),
            "invalid_token",
        ),
        ("an empty key", forge(HS256, &good, b""), "invalid_token"),
        ("a key of NULs", forge(HS256, &good, &[0; 32]), "invalid_token"),
        ("a token of the future", token(&[("iat", json!(now() + 600))]), "token_not_yet_valid"),
        ("one that is not valid yet", token(&[("nbf", json!(now() + 600))]), "token_not_yet_valid"),
        ("one without an end", token(&[("exp", Value::Null)]), "invalid_token"),
        ("one whose end is a text", token(&[("exp", json!("9999999999"))]), "invalid_token"),
        ("a subject that is a list", token(&[("sub", json!(["ada", "eve"]))]), "invalid_token"),
        ("nothing between the dots", "..".to_owned(), "invalid_token"),
        ("three good tokens", [token(&[]), token(&[]), token(&[])].join("."), "invalid_token"),
    ];
    for (what, token, code) in &cases {
        refused_everywhere(&server, token, code, what).await;
        witness.check(&server).await;
    }
    let tokens: Vec<_> = cases.into_iter().map(|(_, token, _)| token).collect();
    assert_hides("the log", &lines.text(), &tokens);
}

#[tokio::test]
async fn a_megabyte_of_token_is_answered_in_every_place() {
    let (lines, _log) = log(true);
    let server = server().await;
    let mut witness = Witness::new(&server).await;
    let huge = "A".repeat(1 << 20);
    for head in [
        format!("GET {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {huge}\r\n\r\n"),
        format!("GET /v1/topics/t HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {huge}\r\n\r\n"),
        format!(
            "GET {PATH} HTTP/1.1\r\nhost: x\r\nsec-websocket-protocol: base64url.bearer.phx.{huge}\r\n\r\n"
        ),
        format!("GET {PATH}&token={huge} HTTP/1.1\r\nhost: x\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        // The server may answer and hang up before all of it is sent.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the server hangs up in time");
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).unwrap_or_default();
        // A reset can overtake the answer, as the rest of the request is not read.
        assert!(matches!(status, "" | "414" | "431"), "{answer}");
        witness.check(&server).await;
    }
    // What a head has room for is looked at, and refused by its length.
    let large = forge(HS256, &claims(&[("padding", json!("x".repeat(12_000)))]).to_string(), SECRET);
    refused_everywhere(&server, &large, "invalid_token", "a large token").await;

    let mut socket = open(&server, &token(&[])).await;
    say(&mut socket, json!([null, "1", "phoenix", "access_token", {"access_token": huge}])).await;
    assert_eq!(closed(&mut socket).await, (1009, "frame_too_big".to_owned()));
    witness.check(&server).await;
    assert_hides("the log", &lines.text(), &[huge, large]);
}

#[tokio::test]
async fn a_revoked_token_stays_revoked() {
    let server = server().await;
    let mut witness = Witness::new(&server).await;
    let stolen = token(&[("jti", json!("stolen"))]);
    let mut socket = open(&server, &stolen).await;
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    let target = RevocationTarget::Jti(RevocationId::parse("stolen").unwrap());
    server.khala.access().revoke(Revocation::new(target, server.khala.now())).await.unwrap();
    assert_eq!(closed(&mut socket).await, (4003, "token_revoked".to_owned()));
    for _ in 0..2 {
        refused_everywhere(&server, &stolen, "token_revoked", "a revoked token").await;
    }
    witness.check(&server).await;
}

#[tokio::test]
async fn a_refresh_can_neither_end_expiry_nor_change_the_holder() {
    let server = server().await;
    let mut witness = Witness::new(&server).await;
    let first = token(&[("exp", json!(now() + 3))]);
    let mut socket = open(&server, &first).await;
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    let overflowing = claims(&[("exp", json!("@"))]).to_string().replace("\"@\"", "1e999");
    for (what, refreshed, code) in [
        ("no end", json!(token(&[("exp", Value::Null)])), "invalid_token"),
        ("an end of text", json!(token(&[("exp", json!("never"))])), "invalid_token"),
        ("an end that no number holds", json!(forge(HS256, &overflowing, SECRET)), "invalid_token"),
        ("an end in the past", json!(token(&[("exp", json!(-1))])), "token_expired"),
        ("no issue", json!(token(&[("iat", Value::Null)])), "missing_iat"),
        ("another holder", json!(token(&[("sub", json!("eve"))])), "claim_mismatch"),
        ("another holder by case", json!(token(&[("sub", json!("Ada"))])), "claim_mismatch"),
        ("no token", Value::Null, "missing_token"),
        ("an empty token", json!(""), "missing_token"),
        ("a number", json!(7), "invalid_token"),
    ] {
        let answer = refresh(&mut socket, refreshed).await;
        assert_eq!(answer["response"]["code"], code, "{what}: {answer}");
    }
    // The old end holds.
    assert_eq!(closed(&mut socket).await, (4001, "token_expired".to_owned()));

    // An end beyond all bounds is cut at the age that a token may reach.
    for endless in [json!(1e308), json!(u64::MAX), json!(9e15)] {
        let iat = now() - 1;
        let mut socket = open(&server, &token(&[])).await;
        let answer = refresh(&mut socket, json!(token(&[("iat", json!(iat)), ("exp", endless)]))).await;
        assert_eq!(
            answer["response"]["expires_at"],
            (iat + 86_400 + 5) * 1_000,
            "the leeway is in it: {answer}"
        );
    }
    witness.check(&server).await;
}

#[tokio::test]
async fn an_organisation_does_not_leave_its_segment() {
    let server = server().await;
    let mut witness = Witness::new(&server).await;
    for org in
        ["acme:workers", "acme:", "*", "**", "{org}", "acm*", "", "a", "acme%3Aworkers", "ACME", "acme\u{0}"]
    {
        let claim = [("org_id", json!(org))];
        let mut socket = open(&server, &token(&claim)).await;
        let bearer = format!("Bearer {}", token(&claim));
        for topic in ["org:acme:workers", "org:acme:workers:1", "org:other:x", "org:*:x", "org::x"] {
            let answer = join(&mut socket, topic, json!({})).await[4].take();
            // A topic's name may not hold some of these characters at all.
            let code = if topic.contains('*') { "invalid_topic" } else { "owner_mismatch" };
            assert_eq!(answer["response"]["code"], code, "{org:?} in {topic}: {answer}");
            let status = if topic.contains('*') { 400 } else { 403 };
            let path = format!("/v1/topics/{topic}/updates");
            get(&server, &path, &[("authorization", &bearer)]).await.problem(status, code);
        }
    }
    let mut own = open(&server, &token(&[])).await;
    assert_eq!(join(&mut own, "org:acme:workers", json!({})).await[4]["status"], "ok");
    witness.check(&server).await;
}

#[tokio::test]
async fn of_several_tokens_one_rule_says_which() {
    let server = server().await;
    let (good, bad) = (token(&[]), "not.a.token".to_owned());
    let bearer = |token: &str| format!("Bearer {token}");
    let protocol = |token: &str| format!("phoenix, base64url.bearer.phx.{}", URL_SAFE_NO_PAD.encode(token));
    let query = |token: &str| format!("{PATH}&token={token}");
    // The header before the subprotocol before the query; what comes first is taken, not what is good.
    for (path, headers, opens) in [
        (query(&bad), vec![("authorization", bearer(&good))], true),
        (query(&good), vec![("authorization", bearer(&bad))], false),
        (
            PATH.to_owned(),
            vec![("authorization", bearer(&bad)), ("sec-websocket-protocol", protocol(&good))],
            false,
        ),
        (query(&good), vec![("sec-websocket-protocol", protocol(&bad))], false),
        (query(&bad), vec![("sec-websocket-protocol", protocol(&good))], true),
        (format!("{}&token={good}", query(&bad)), vec![], false),
        (format!("{}&token={bad}", query(&good)), vec![], true),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        match server.handshake(&path, &headers).await {
            Ok(_) => assert!(opens, "{path} {headers:?}"),
            Err(answer) => {
                assert!(!opens, "{path} {headers:?}");
                answer.problem(401, "invalid_token");
            }
        }
    }
    // Of two Authorization headers neither is taken, whichever comes first, and whatever else there is.
    for pair in [[&good, &bad], [&bad, &good], [&good, &good]] {
        let pair = pair.map(|token| bearer(token));
        let headers = [("authorization", &*pair[0]), ("authorization", &*pair[1])];
        get(&server, "/v1/topics/t", &headers).await.problem(401, "invalid_authorization_scheme");
        get_upgrade(&server, &query(&good), &headers).await.problem(401, "invalid_authorization_scheme");
    }
}

/// A handshake that may have the same header twice; for those that are refused.
async fn get_upgrade(server: &Running, path: &str, headers: &[(&str, &str)]) -> Answer {
    let handshake = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    get(server, path, &[&handshake, headers].concat()).await
}

#[tokio::test]
async fn an_origin_is_compared_as_a_whole() {
    let origins = Origins::parse(["https://app.example", "https://*.pages.example"]).unwrap();
    let server = attacked(AdmissionOptions::default(), |builder| builder.with_origins(origins)).await;
    let mut witness = Witness::new(&server).await;
    let bearer = format!("Bearer {}", token(&[]));
    let long = format!("https://{}.pages.example", "a".repeat(60_000));
    for origin in [
        "https://app.example.evil",
        "https://evil.example/https://app.example",
        "https://app.example@evil.example",
        "https://pages.example",
        "https://evilpages.example",
        "http://app.example",
        "https://app.example:444",
        "null",
        "*",
        "",
        &long,
    ] {
        let headers = [("authorization", &*bearer), ("origin", origin)];
        let answer = get(&server, "/v1/topics/t", &headers).await;
        answer.problem(403, "origin_not_allowed");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
        get_upgrade(&server, PATH, &headers).await.problem(403, "origin_not_allowed");
        // Before the token is looked at.
        get(&server, "/v1/topics/t", &[("origin", origin)]).await.problem(403, "origin_not_allowed");
    }
    let twice = [("origin", "https://app.example"), ("origin", "https://evil.example")];
    get(&server, "/v1/topics/t", &twice).await.problem(403, "origin_not_allowed");
    witness.check(&server).await;
}

#[tokio::test]
async fn an_address_cannot_be_made_up() {
    let mut one_place = AdmissionOptions::unlimited();
    one_place.connections_per_address = std::num::NonZeroU32::new(1);
    let bearer = format!("Bearer {}", token(&[]));
    let from =
        |client: &'static str| [("authorization", bearer.clone()), ("x-forwarded-for", client.to_owned())];
    let connect = async |server: &Running, client: &'static str| {
        let headers = from(client);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        server.handshake(PATH, &headers).await.map(|(socket, _)| socket)
    };

    // From a stranger it is not looked at: everybody here is the peer.
    let (lines, log_guard) = log(true);
    let server = attacked(one_place, |builder| builder).await;
    let first = connect(&server, "198.51.100.1").await.unwrap();
    connect(&server, "198.51.100.2").await.unwrap_err().problem(429, "too_many_connections");
    drop(first);
    until(|| server.khala.connections().count() == 0).await;
    assert!(
        lines.text().contains("client=127.0.0.1") && !lines.text().contains("198.51.100"),
        "{}",
        lines.text()
    );
    drop(log_guard);

    // From a trusted proxy it is: each client has its own place, and what a client wrote itself counts for nothing.
    let (lines, _log) = log(true);
    let trusted = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    let server = attacked(one_place, |builder| builder.with_trusted_proxies(trusted)).await;
    let _first = connect(&server, "198.51.100.1").await.unwrap();
    let _second = connect(&server, "198.51.100.2, 10.0.0.7").await.unwrap();
    for again in [
        "203.0.113.9, 198.51.100.1",
        "127.0.0.1, 198.51.100.2",
        "198.51.100.2:4711",
        "x, 198.51.100.1, 10.0.0.1",
    ] {
        connect(&server, again).await.unwrap_err().problem(429, "too_many_connections");
    }
    let text = lines.text();
    assert!(text.contains("client=198.51.100.1") && text.contains("peer=127.0.0.1:"), "{text}");
    assert!(!text.contains("203.0.113.9"), "{text}");
}
