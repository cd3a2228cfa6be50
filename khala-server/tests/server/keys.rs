//! Keys from an address over HTTP, and which connections a lost key ends. The sources themselves are tested in khala-auth.

#[expect(dead_code, reason = "the tests of khala-auth use more of it")]
#[path = "../../../khala-auth/tests/sources/support.rs"]
mod sources;

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use khala_auth::{
    JwtIssuer, JwtOptions, JwtVerifier, Key,
    sources::{FileKeys, KeyChange, KeyRing, KeySource as _, KeySources, RemoteKeys, RemoteKeysOptions},
};
use khala_core::{
    ErrorKind, Khala, MemoryStore, Timestamp,
    auth::{Access, TokenClaims},
    clock::{Clock as _, SystemClock},
};
use khala_server::{JwksAddress, Server, serve};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{pause, resume, timeout},
};
use tokio_tungstenite::client_async;

use self::sources::{NEVER, jwks, key, kids, knows, secret};
use crate::support::{LONG, closed, hear, join, say, until};

fn secret_key(kid: &str, version: u8) -> Key {
    Key::hs256(Some(kid), &secret(kid, version)).unwrap()
}

/// An address that answers as it is told, and counts how often it is asked.
struct Address {
    url: String,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Address {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Address {
    async fn new(keys: &[Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(Self::serve(listener, Arc::clone(&answer), Arc::clone(&asked)));
        let address = Self { url, answer, asked, task };
        address.say(200, &jwks(keys));
        address
    }

    async fn serve(listener: TcpListener, answer: Arc<Mutex<Vec<u8>>>, asked: Arc<AtomicUsize>) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"GET /keys HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
            asked.fetch_add(1, Ordering::SeqCst);
            let answer = answer.lock().unwrap().clone();
            // It may be closed before it has taken it all.
            let _ = stream.write_all(&answer).await;
        }
    }

    fn say(&self, status: u16, body: &str) {
        let head = format!("HTTP/1.1 {status} X\r\nlocation: {}\r\ncontent-length: {}", self.url, body.len());
        // Whatever it calls it.
        self.say_bytes(format!("{head}\r\ncontent-type: text/html\r\n\r\n{body}").as_bytes());
    }

    fn say_bytes(&self, answer: &[u8]) {
        *self.answer.lock().unwrap() = answer.to_vec();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn keys(&self, at_most_every: Duration) -> RemoteKeys {
        let options = RemoteKeysOptions {
            refresh_interval: NEVER,
            min_refresh_interval: at_most_every,
            ..Default::default()
        };
        RemoteKeys::start(JwksAddress::parse(&self.url).unwrap(), options)
    }
}

#[tokio::test]
async fn whatever_goes_wrong_the_keys_of_before_hold() {
    let address = Address::new(&[key("a", 1)]).await;
    let keys = address.keys(Duration::ZERO);
    assert!(knows(&keys, "a").await);
    let huge = format!("{}{}", jwks(&[key("b", 1)]), " ".repeat(256 << 10));
    for (status, body) in [
        (200, ""),
        (200, "<html>"),
        (200, r#"{"keys":[]}"#),
        (200, r#"{"keys":[{"kty":"AKP","kid":"b"}]}"#),
        (200, &huge),
        (204, ""),
        (302, ""),
        (301, &jwks(&[key("b", 1)])),
        (404, &jwks(&[key("b", 1)])),
        (500, ""),
    ] {
        address.say(status, body);
        let asked = address.asked();
        let fault = keys.keys(Some("b"), Timestamp::default()).await.unwrap_err();
        assert_eq!(fault.kind(), ErrorKind::Unavailable, "neither accepted nor refused: {status}");
        assert_eq!(address.asked(), asked + 1, "nobody is followed, and nothing is asked twice: {status}");
        assert!(knows(&keys, "a").await);
    }
    address.say_bytes(b"no HTTP at all\r\n\r\n");
    assert!(keys.keys(Some("b"), Timestamp::default()).await.is_err());
    address.say_bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"keys\":");
    assert!(keys.keys(Some("b"), Timestamp::default()).await.is_err());
    assert!(knows(&keys, "a").await);

    // A key of a kind that is not known costs the others nothing.
    let good = key("b", 1).to_jwk();
    address.say(200, &format!(r#"{{"keys":[{{"kty":"AKP","kid":"x"}},{good}]}}"#));
    assert!(knows(&keys, "b").await);
    assert_eq!(kids(&keys).await, ["b"]);
    assert!(!knows(&keys, "a").await);
    // Nor does a secret, which is none where everybody can read it.
    let (good, secret) = (key("c", 1).to_jwk(), secret_key("b", 1).to_jwk());
    address.say(200, &format!(r#"{{"keys":[{secret},{good}]}}"#));
    assert!(knows(&keys, "c").await);
    assert_eq!(kids(&keys).await, ["c"]);
}

#[tokio::test]
async fn an_answer_that_never_ends_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let keys = RemoteKeys::start(JwksAddress::parse(&url).unwrap(), RemoteKeysOptions::default());
    // The connection is kept, and nothing is said.
    let held = listener.accept().await.unwrap();
    pause();
    let waiting = tokio::spawn(async move { keys.keys(Some("a"), Timestamp::default()).await });
    let fault = waiting.await.unwrap().unwrap_err();
    resume();
    assert!(fault.to_string().contains("no whole answer within 5 s"), "{fault}");
    drop(held);
}

#[tokio::test]
async fn a_lost_key_ends_its_connections_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    fs::write(&path, jwks(&[secret_key("old", 1), secret_key("new", 1)])).unwrap();
    let ring = KeyRing::new(KeySources {
        file: Some(FileKeys::open(&path, NEVER).unwrap()),
        ..KeySources::default()
    });
    let verifier = JwtVerifier::new(Arc::new(ring.clone()), JwtOptions::default());
    let khala = Khala::builder(MemoryStore::new()).with_verifier(Arc::new(verifier)).build();
    let handle = khala.clone();
    let _listening = ring.listen(move |change| match change {
        KeyChange::Trusted(kid) => handle.access().trust_key(kid),
        KeyChange::Distrusted(kid) => handle.access().distrust_key(kid),
        _ => panic!("a change of no kind"),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server =
        tokio::spawn(serve(listener, Server::builder(khala.clone()).build(), std::future::pending()));

    let connect = async |kid: &str| {
        let issuer =
            JwtIssuer::hs256(&secret(kid, 1), JwtOptions::default()).unwrap().with_key_id(kid).unwrap();
        let claims = TokenClaims::new("ada", [Access::Read.scope()]);
        let token = issuer.sign(&claims, SystemClock::new().now(), NEVER).unwrap().token.reveal().to_owned();
        let stream = TcpStream::connect(&address).await.unwrap();
        let url = format!("ws://{address}/sync/v1/websocket?vsn=2.0.0&token={token}");
        timeout(LONG, client_async(url, stream)).await.unwrap().map(|(socket, _)| socket)
    };
    let mut old = connect("old").await.unwrap();
    let mut new = connect("new").await.unwrap();
    for socket in [&mut old, &mut new] {
        assert_eq!(join(socket, "t", json!({})).await[4]["status"], "ok");
    }
    fs::write(&path, jwks(&[secret_key("new", 1)])).unwrap();
    ring.reload().await;
    assert_eq!(closed(&mut old).await.0, 4004);
    assert!(connect("old").await.is_err());
    say(&mut new, json!([null, "9", "phoenix", "heartbeat", {}])).await;
    assert_eq!(hear(&mut new).await[1], "9");
    connect("new").await.unwrap();
    until(|| khala.connections().count() <= 2).await;
    server.abort();
}
