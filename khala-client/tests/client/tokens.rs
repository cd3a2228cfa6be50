//! Tokens that run out: on the server's part as it is, and one that answers as the test says.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{Stream, future::ready};
use hyper::{header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use khala_auth::{JwtIssuer, JwtOptions, JwtVerifier};
use khala_client::{Client, ClientBuilder, Error, FreshToken, connection::ConnectionEvent};
use khala_core::{
    Batch, Khala, Kind, MemoryStore, NewUpdate, Payload, Token,
    auth::{Access, IssuedToken, Revocation, RevocationId, RevocationTarget, TokenClaims},
    wire::Resume,
};
use khala_server::Server;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    client,
    fake::{Fake, Fault, Peer},
    follow::{end, follow, from, next, updates},
    pulse, renewing, topic,
};

const SECRET: &[u8] = b"thirty-two bytes that are secret";
/// How long a token lives that is to run out; long enough that a busy machine does not miss its end.
const SHORT: Duration = Duration::from_secs(4);

/// A server as an application mounts it.
struct Real {
    khala: Khala,
    url: String,
    upgrades: Arc<AtomicU32>,
    published: u64,
}

/// A source of tokens, and what it is to say next.
struct Login {
    ttl: Duration,
    issuer: JwtIssuer,
    khala: Khala,
    claims: Mutex<TokenClaims>,
    issued: Mutex<Vec<IssuedToken>>,
    /// How often it fails before it gives the next.
    down: AtomicU32,
}

impl Real {
    async fn start() -> Self {
        let verifier = JwtVerifier::hs256(SECRET, JwtOptions::default()).unwrap();
        let khala = Khala::builder(MemoryStore::new()).with_verifier(Arc::new(verifier)).build();
        let server = Server::builder(khala.clone()).build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let upgrades = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&upgrades);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, counted) = (server.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let server = server.clone();
                        if hyper::Request::headers(&request).contains_key(header::UPGRADE) {
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                        async move { Ok::<_, std::convert::Infallible>(server.handle(request).await) }
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Self { khala, url, upgrades, published: 0 }
    }

    fn login(&self, ttl: Duration) -> Arc<Login> {
        Arc::new(Login {
            ttl,
            issuer: JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap(),
            khala: self.khala.clone(),
            claims: Mutex::new(of_login("first")),
            issued: Mutex::default(),
            down: AtomicU32::new(0),
        })
    }

    /// A client that renews its tokens after a quarter of their time.
    fn client(&self, login: &Arc<Login>) -> Client {
        let login = Arc::clone(login);
        Client::builder(&*self.url)
            .options(renewing(0.25))
            .token_from(move || ready(login.token()))
            .build()
            .unwrap()
    }

    fn upgrades(&self) -> u32 {
        self.upgrades.load(Ordering::Relaxed)
    }

    /// Publishes one update, and waits until it arrives as the next.
    async fn pass(
        &mut self,
        subscription: &mut (impl Stream<Item = Result<ConnectionEvent, Error>> + Unpin),
    ) {
        self.publish().await;
        assert_eq!(updates(subscription).await.0, [self.published]);
    }

    async fn publish(&mut self) {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse("1").unwrap());
        self.khala.publish(&topic(), Batch::new(vec![update]).unwrap()).await.unwrap();
        self.published += 1;
    }

    async fn revoke(&self, sid: &str) {
        let target = RevocationTarget::Sid(RevocationId::parse(sid).unwrap());
        self.khala.access().revoke(Revocation::new(target, self.khala.now())).await.unwrap();
    }
}

/// What the tokens of that login say.
fn of_login(id: &str) -> TokenClaims {
    TokenClaims { session_id: Some(id.to_owned()), ..TokenClaims::new("ada", [Access::Read.scope()]) }
}

impl Login {
    fn token(&self) -> Result<Token, Box<dyn std::error::Error + Send + Sync>> {
        if self.down.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err("the login service is down".into());
        }
        let issued = self.issuer.sign(&self.claims.lock().unwrap(), self.khala.now(), self.ttl)?;
        self.issued.lock().unwrap().push(issued.clone());
        Ok(issued.token)
    }

    /// Whether the first `count` tokens were given and have run out.
    fn outlived(&self, count: usize) -> bool {
        let issued = self.issued.lock().unwrap();
        issued.get(count - 1).is_some_and(|issued| issued.expires_at < self.khala.now())
    }
}

#[tokio::test]
async fn a_subscription_outlives_its_tokens_on_one_connection() {
    let mut real = Real::start().await;
    let login = real.login(SHORT);
    let mut subscription = follow(&real.client(&login), from(Resume::Floor));
    while !login.outlived(3) {
        real.pass(&mut subscription).await;
    }
    assert_eq!(real.upgrades(), 1);
    let issued = login.issued.lock().unwrap();
    let jtis: HashSet<_> = issued.iter().map(|issued| &issued.token_id).collect();
    assert_eq!(jtis.len(), issued.len());
}

#[tokio::test]
async fn a_source_that_is_down_for_a_while_costs_nothing() {
    let mut real = Real::start().await;
    let login = real.login(SHORT);
    let mut subscription = follow(&real.client(&login), from(Resume::Floor));
    real.pass(&mut subscription).await;
    login.down.store(7, Ordering::Relaxed);
    while !login.outlived(1) {
        real.pass(&mut subscription).await;
    }
    assert_eq!((real.upgrades(), login.down.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test]
async fn a_narrower_token_ends_what_it_no_longer_opens() {
    let mut real = Real::start().await;
    let login = real.login(SHORT);
    let mut subscription = follow(&real.client(&login), from(Resume::Floor));
    real.pass(&mut subscription).await;
    *login.claims.lock().unwrap() = TokenClaims::new("ada", [Access::Publish.scope()]);
    let error = end(&mut subscription).await;
    assert!(error.refused().is_some_and(|refused| refused.code == "missing_scope"), "{error}");
    assert_eq!(real.upgrades(), 1);
}

#[tokio::test]
async fn after_a_revoked_login_only_a_new_one_helps() {
    let mut real = Real::start().await;
    let login = real.login(Duration::from_secs(3600));
    let mut subscription = follow(&real.client(&login), from(Resume::Floor));
    real.pass(&mut subscription).await;
    *login.claims.lock().unwrap() = of_login("second");
    real.revoke("first").await;
    // The next token is of the new login: nothing is missed.
    real.pass(&mut subscription).await;
    assert_eq!(real.upgrades(), 2);
    real.revoke("second").await;
    let error = end(&mut subscription).await;
    assert!(error.refused().is_some_and(|refused| refused.code == "token_revoked"), "{error}");
    assert_eq!(real.upgrades(), 3);
}

/// A source whose tokens are called `token-1`, `token-2` and so on, each asked for at once when the one before is used.
fn numbered(fake: &Fake) -> ClientBuilder {
    let number = AtomicU32::new(0);
    client(fake).options(renewing(0.001)).token_from(move || {
        ready(Ok(ending(&format!("token-{}", number.fetch_add(1, Ordering::Relaxed) + 1))))
    })
}

/// A token that is no JSON Web Token, and lasts for some more seconds.
fn ending(text: &str) -> FreshToken {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let ends = khala_core::Timestamp::default().plus(now + Duration::from_secs(10));
    FreshToken::new(Token::new(text)).with_end(ends)
}

/// The token that the client hands over next.
async fn handed_over(peer: &mut Peer) -> (String, String) {
    let (reference, topic, event, payload) = peer.frame().await.expect("a token comes");
    assert_eq!((&*topic, &*event), ("phoenix", "access_token"));
    let payload: Value = serde_json::from_str(&payload).unwrap();
    (reference, payload["access_token"].as_str().unwrap().to_owned())
}

async fn answer(peer: &mut Peer, reference: &str, status: &str, response: Value) {
    peer.text(json!([null, reference, "phoenix", "phx_reply", {"status": status, "response": response}]))
        .await;
}

#[tokio::test]
async fn one_fresh_token_serves_every_connection() {
    let mut fake = Fake::start().await;
    let client = numbered(&fake).build().unwrap();
    let _first = follow(&client, from(Resume::Head));
    let (mut first, _) = fake.joining().await;
    first.welcome(1, 0, 0).await;
    let (reference, token) = handed_over(&mut first).await;
    assert_eq!(token, "token-2");
    let _second = follow(&client, from(Resume::Head));
    let (mut second, _) = fake.joining().await;
    assert_eq!(fake.requests()[1].authorization.as_deref(), Some("Bearer token-2"));
    // Whichever of the two asks for the third, both hand it over.
    let (_, token) = handed_over(&mut second).await;
    assert_eq!(token, "token-3");
    answer(&mut first, &reference, "ok", json!({"expires_at": 1})).await;
    assert_eq!(handed_over(&mut first).await.1, "token-3");
}

#[tokio::test]
async fn a_refusal_says_which_token_to_send_next() {
    let mut fake = Fake::start().await;
    let mut subscription = follow(&numbered(&fake).build().unwrap(), from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 0).await;
    for (code, token, wait) in [
        ("unavailable", "token-2", Some(5)),
        ("frame_rate_limited", "token-2", Some(5)),
        ("unavailable", "token-2", None),
        ("claim_mismatch", "token-2", None),
        ("token_not_yet_valid", "token-3", None),
        ("unknown_kid", "token-4", None),
    ] {
        let (reference, handed) = handed_over(&mut peer).await;
        assert_eq!(handed, token, "{code}");
        answer(&mut peer, &reference, "error", json!({"code": code, "retry_after_ms": wait})).await;
    }
    let (reference, handed) = handed_over(&mut peer).await;
    assert_eq!(handed, "token-5");
    // Meanwhile everything goes on.
    peer.batch(0, 1..=1).await;
    assert_eq!(updates(&mut subscription).await.0, [1]);
    answer(&mut peer, &reference, "error", json!({"code": "token_expired"})).await;
    let (_, handed) = handed_over(&mut peer).await;
    assert_eq!(handed, "token-6");
    // The old token ends first: what was not refused yet opens the next connection.
    peer.close(4001, "token_expired").await;
    fake.peer().await;
    assert_eq!(fake.requests()[1].authorization.as_deref(), Some("Bearer token-6"));
}

#[tokio::test]
async fn a_server_that_takes_no_tokens_is_not_asked_again() {
    let mut fake = Fake::start().await;
    let client =
        numbered(&fake).options(pulse(Duration::from_millis(20), Duration::from_secs(20))).build().unwrap();
    let _subscription = follow(&client, from(Resume::Head));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 0).await;
    loop {
        let (reference, _, event, _) = peer.frame().await.unwrap();
        if event == "access_token" {
            answer(&mut peer, &reference, "error", json!({"reason": "unmatched topic"})).await;
            break;
        }
        answer(&mut peer, &reference, "ok", json!({})).await;
    }
    for _ in 0..5 {
        let (reference, _, event, _) = peer.frame().await.unwrap();
        assert_eq!(event, "heartbeat");
        answer(&mut peer, &reference, "ok", json!({})).await;
    }
}

#[tokio::test]
async fn the_same_token_again_is_not_handed_over() {
    let mut fake = Fake::start().await;
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let source = move || {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        ready(Ok(ending(if number < 6 { "old" } else { "new" })))
    };
    let client = client(&fake).options(renewing(0.001)).token_from(source).build().unwrap();
    let _subscription = follow(&client, from(Resume::Head));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 0).await;
    assert_eq!(handed_over(&mut peer).await.1, "new");
    assert_eq!(asked.load(Ordering::Relaxed), 7);
}

#[tokio::test]
async fn closes_for_want_of_a_token_end_it_where_there_is_no_other() {
    let mut fake = Fake::start().await;
    for (close, code) in [(4001, "token_expired"), (4003, "token_revoked"), (4004, "unknown_kid")] {
        let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Head));
        let (mut peer, _) = fake.joining().await;
        peer.close(close, code).await;
        let error = end(&mut subscription).await;
        assert_eq!(error.refused().unwrap().code, code);

        // A source has one more try.
        let mut subscription = follow(&numbered(&fake).build().unwrap(), from(Resume::Head));
        let (mut peer, _) = fake.joining().await;
        let body: &'static str = match close {
            4003 => r#"{"code":"token_revoked","detail":"the login was revoked"}"#,
            _ => r#"{"code":"unknown_kid","detail":"no such key"}"#,
        };
        fake.fault(Fault::Say(401, vec![], body));
        peer.close(close, code).await;
        let error = end(&mut subscription).await;
        assert_eq!(error.refused().unwrap().status, Some(401), "{error}");
    }
}

#[tokio::test]
async fn limits_are_waited_out() {
    let mut fake = Fake::start().await;
    let body = r#"{"code":"too_many_connections","retry_after_ms":5}"#;
    fake.fault(Fault::Say(429, vec![("retry-after", "1")], body));
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.reply("error", json!({"code": "join_rate_limited", "retry_after_ms": 5})).await;
    peer.join().await;
    peer.welcome(1, 0, 0).await;
    // No word about when: it takes a person, and it comes back all the same.
    peer.push("sync:error", json!({"code": "unavailable"})).await;
    peer.push("phx_error", json!({})).await;
    let mut needed = false;
    peer.join().await;
    peer.welcome(1, 0, 0).await;
    peer.push("sync:error", json!({"code": "owner_mismatch"})).await;
    peer.push("phx_close", json!({})).await;
    let error = loop {
        match next(&mut subscription).await.unwrap() {
            Ok(ConnectionEvent::Reconnecting { error, .. }) => {
                needed |= error.refused().is_some_and(|refused| refused.needs_operator());
            }
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(needed);
    assert_eq!(error.refused().unwrap().code, "owner_mismatch");
}

#[tokio::test]
async fn a_panic_ends_the_subscription_with_an_error_that_says_so() {
    let mut real = Real::start().await;
    let login = real.login(SHORT);
    let asked = AtomicU32::new(0);
    let client = Client::builder(&*real.url).options(renewing(0.25)).token_from(move || {
        assert!(asked.fetch_add(1, Ordering::Relaxed) == 0, "the vault is gone");
        ready(login.token())
    });
    let mut subscription = follow(&client.build().unwrap(), from(Resume::Floor));
    real.pass(&mut subscription).await;
    let error = end(&mut subscription).await;
    assert!(matches!(&error, Error::Panicked(message) if message == "the vault is gone"), "{error:?}");
    assert!(!error.is_retryable());
}
