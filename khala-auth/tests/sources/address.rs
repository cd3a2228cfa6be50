//! Keys from an address over HTTP.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use khala_auth::{
    Key,
    sources::{JwksAddress, KeySource as _, RemoteKeys, RemoteKeysOptions},
};
use khala_core::{ErrorKind, Timestamp};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
    time::{pause, resume},
};

use crate::support::{NEVER, jwks, key, kids, knows, secret};

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
