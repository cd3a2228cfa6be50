//! Sources of keys: what they take, what they keep, how often they ask, and whom a lost key ends.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::join_all;
use khala_auth::{
    JwtIssuer, JwtOptions, JwtVerifier, Key, KeySet,
    sources::{FileKeys, KeyChange, KeyRing, KeySource, KeySources, RemoteKeys, RemoteKeysOptions},
};
use khala_core::{
    ErrorKind, Khala, MemoryStore, Timestamp,
    auth::{Access, TokenClaims},
    clock::{Clock as _, SystemClock},
    health::{Condition, Health},
};
use khala_server::{JwksAddress, Server, serve};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{advance, pause, resume, timeout},
};
use tokio_tungstenite::client_async;

use crate::support::{LONG, closed, hear, join, say, until};

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

fn secret(kid: &str, version: u8) -> Vec<u8> {
    format!("{kid:_<30}{version:0>4}").into_bytes()
}

fn secret_key(kid: &str, version: u8) -> Key {
    Key::hs256(Some(kid), &secret(kid, version)).unwrap()
}

/// A public key, which each source takes.
fn key(kid: &str, version: u8) -> Key {
    // About every other text is a point of the curve.
    let key = |n: u8| {
        let x = URL_SAFE_NO_PAD.encode(format!("{kid:_<26}{version:0>3}{n:0>3}"));
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}]}).to_string();
        KeySet::from_jwks(&set).ok()?.key(Some(kid)).cloned()
    };
    (0..=u8::MAX).find_map(key).unwrap()
}

fn jwks(keys: &[Key]) -> String {
    format!(r#"{{"keys":[{}]}}"#, keys.iter().map(Key::to_jwk).collect::<Vec<_>>().join(","))
}

fn set(keys: &[Key]) -> KeySet {
    keys.iter().fold(KeySet::new(), |set, key| set.with_key(key.clone()).unwrap())
}

async fn kids(source: &impl KeySource) -> Vec<String> {
    let set = source.keys(None, Timestamp::default()).await.unwrap();
    set.kids().map(str::to_owned).collect()
}

async fn knows(source: &impl KeySource, kid: &str) -> bool {
    source.keys(Some(kid), Timestamp::default()).await.unwrap().key(Some(kid)).is_some()
}

#[tokio::test]
async fn a_file_is_read_again_and_a_bad_one_takes_no_key_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let first = jwks(&[key("a", 1), key("b", 1)]);
    fs::write(&path, &first).unwrap();
    let file = FileKeys::open(&path, NEVER).unwrap();
    assert_eq!(kids(&file).await, ["a", "b"]);

    let weak = r#"{"keys":[{"kty":"oct","kid":"w","k":"c2hvcnQ"}]}"#;
    let huge = format!("{}{}", first, " ".repeat(256 << 10));
    for bad in ["", "{}", r#"{"keys":[]}"#, &first[..first.len() / 2], weak, &huge, "\u{0}"] {
        fs::write(&path, bad).unwrap();
        file.reload().await;
        assert_eq!(kids(&file).await, ["a", "b"], "{}", &bad[..bad.len().min(80)]);
        assert!(FileKeys::open(&path, NEVER).is_err());
    }
    fs::remove_file(&path).unwrap();
    file.reload().await;
    assert_eq!(kids(&file).await, ["a", "b"]);
    fs::create_dir(&path).unwrap();
    file.reload().await;
    assert_eq!(kids(&file).await, ["a", "b"]);
    let fault = FileKeys::open(&path, NEVER).unwrap_err().to_string();
    assert!(fault.contains("keys.json") && fault.contains("not a file") && !fault.contains('\n'), "{fault}");

    fs::remove_dir(&path).unwrap();
    fs::write(&path, jwks(&[key("c", 1)])).unwrap();
    file.reload().await;
    assert_eq!(kids(&file).await, ["c"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_that_is_turned_is_seen_without_being_told() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // As Kubernetes lays out a mounted secret, with both files of one time.
    for (name, kid) in [("one", "a"), ("two", "b")] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("keys.json"), jwks(&[key(kid, 1)])).unwrap();
    }
    symlink("one", at("data")).unwrap();
    symlink(Path::new("data").join("keys.json"), at("keys.json")).unwrap();
    let file = FileKeys::open(at("keys.json"), Duration::from_millis(5)).unwrap();
    assert_eq!(kids(&file).await, ["a"]);
    symlink("two", at("data.new")).unwrap();
    fs::rename(at("data.new"), at("data")).unwrap();
    let turned = async {
        while kids(&file).await != ["b"] {
            tokio::task::yield_now().await
        }
    };
    timeout(LONG, turned).await.expect("it is seen in time");
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
async fn a_storm_of_unknown_names_asks_once() {
    let address = Address::new(&[key("a", 1)]).await;
    let jwks = address.keys(NEVER);
    assert!(knows(&jwks, "a").await);
    assert_eq!(address.asked(), 1, "those who come before the first answer wait for it");

    let wanted: Vec<String> = (0..500).map(|at| format!("made-up-{at}")).collect();
    let storm = join_all(wanted.iter().map(|kid| knows(&jwks, kid))).await;
    assert!(storm.iter().all(|known| !known));
    assert_eq!(address.asked(), 2, "one for all of them");
    for kid in &wanted {
        assert!(!knows(&jwks, kid).await);
    }
    assert!(knows(&jwks, "a").await);
    assert_eq!(address.asked(), 2, "and none before the stated time");
}

#[tokio::test]
async fn a_new_key_is_found_when_a_token_names_it() {
    let address = Address::new(&[key("a", 1)]).await;
    let keys = address.keys(Duration::ZERO);
    assert!(knows(&keys, "a").await);
    address.say(200, &jwks(&[key("a", 1), key("b", 1)]));
    // Who asks first goes away again, and neither stops the fetch nor holds up who comes after.
    {
        let mut leaving = Box::pin(knows(&keys, "b"));
        assert!(futures::poll!(&mut leaving).is_pending());
    }
    assert!(knows(&keys, "b").await);
    assert_eq!(address.asked(), 2);
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
async fn before_the_first_answer_nobody_is_refused() {
    let address = Address::new(&[]).await;
    address.say(503, "");
    let keys = address.keys(Duration::ZERO);
    for wanted in [Some("a"), None] {
        let fault = keys.keys(wanted, Timestamp::default()).await.unwrap_err();
        assert_eq!(fault.kind(), ErrorKind::Unavailable);
    }
    address.say(200, &jwks(&[key("a", 1)]));
    assert!(knows(&keys, "a").await);
}

#[tokio::test]
async fn without_any_key_the_node_is_not_ready_and_without_fresh_ones_it_says_so() {
    let address = Address::new(&[]).await;
    address.say(500, "");
    let source = address.keys(NEVER);
    let health = Health::new();
    let ring = KeyRing::new(KeySources { remote: Some(source.clone()), ..KeySources::default() });
    ring.report_to(&health);
    source.reload().await;
    let reason = "no keys of jwks were ever loaded; the server's log says why".to_owned();
    assert_eq!(health.failures(), [("jwks_keys", reason.clone())]);

    address.say(200, &jwks(&[key("a", 1)]));
    source.reload().await;
    assert_eq!(health.report(), [("jwks_keys", Condition::Healthy)]);

    address.say(500, "");
    source.reload().await;
    assert!(health.failures().is_empty());
    assert!(health.notes()[0].1.contains("those of before hold"), "{:?}", health.notes());

    // Where there are other keys, the node does without those of the address.
    let address = Address::new(&[]).await;
    address.say(500, "");
    let (source, health) = (address.keys(NEVER), Health::new());
    let own = KeySet::new().with_key(Key::hs256(Some("own"), &[7; 32]).unwrap()).unwrap();
    KeyRing::new(KeySources { configured: own, remote: Some(source.clone()), file: None }).report_to(&health);
    source.reload().await;
    assert_eq!((health.failures(), health.notes()), (vec![], vec![("jwks_keys", reason)]));
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
async fn configuration_comes_before_the_file_and_the_file_before_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let unnamed = Key::hs256(None, &secret("unnamed", 1)).unwrap();
    fs::write(&path, jwks(&[key("a", 2), key("b", 2), unnamed])).unwrap();
    let address = Address::new(&[key("a", 3), key("b", 3), key("c", 3)]).await;
    let ring = KeyRing::new(KeySources {
        configured: set(&[key("a", 1)]),
        file: Some(FileKeys::open(&path, NEVER).unwrap()),
        remote: Some(address.keys(NEVER)),
    });
    assert!(knows(&ring, "c").await);
    let keys = ring.keys(None, Timestamp::default()).await.unwrap();
    assert_eq!(*keys, set(&[key("a", 1), key("b", 2), key("c", 3)]), "and no key without a name");
    assert_eq!(address.asked(), 1);
    // What one source loses, the next may have.
    fs::write(&path, jwks(&[key("d", 2)])).unwrap();
    ring.reload().await;
    let keys = ring.keys(None, Timestamp::default()).await.unwrap();
    assert_eq!(*keys, set(&[key("a", 1), key("b", 3), key("c", 3), key("d", 2)]));
    assert_eq!(address.asked(), 2);
}

#[tokio::test]
async fn a_name_that_is_given_to_another_key_rests() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    fs::write(&path, jwks(&[key("a", 1), key("b", 1)])).unwrap();
    let ring = KeyRing::new(KeySources {
        file: Some(FileKeys::open(&path, NEVER).unwrap()),
        ..KeySources::default()
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let listening = ring.listen(move |change| {
        heard.lock().unwrap().push(match change {
            KeyChange::Trusted(kid) => format!("+{kid}"),
            KeyChange::Distrusted(kid) => format!("-{kid}"),
            _ => panic!("a change of no kind"),
        });
    });
    let told = || std::mem::take(&mut *told.lock().unwrap());
    fs::write(&path, jwks(&[key("a", 2), key("c", 1)])).unwrap();
    ring.reload().await;
    assert_eq!(told(), ["+c", "-a", "-b"]);
    let fault = ring.keys(Some("a"), Timestamp::default()).await.unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Unavailable, "neither accepted nor refused");
    assert!(!knows(&ring, "b").await);

    pause();
    advance(Duration::from_secs(29)).await;
    assert!(ring.keys(Some("a"), Timestamp::default()).await.is_err(), "longer than any check takes");
    advance(Duration::from_secs(2)).await;
    let awake = async {
        while ring.keys(Some("a"), Timestamp::default()).await.is_err() {
            tokio::task::yield_now().await
        }
    };
    timeout(LONG, awake).await.expect("it rests no longer");
    resume();
    assert_eq!(told(), ["+a"]);
    assert_eq!(*ring.keys(None, Timestamp::default()).await.unwrap(), set(&[key("a", 2), key("c", 1)]));
    drop(listening);
    fs::write(&path, jwks(&[key("c", 1)])).unwrap();
    ring.reload().await;
    assert_eq!(told(), [""; 0]);
    assert_eq!(kids(&ring).await, ["c"]);
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
