//! Sources of keys: what they take, what they keep, how often they ask, and which key they trust.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[cfg(feature = "jwks")]
mod address;
mod support;

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::join_all;
use khala_auth::{
    Key, KeySet,
    sources::{
        FetchKeySet, FileKeys, KeyChange, KeyRing, KeySource as _, KeySources, RemoteKeys, RemoteKeysOptions,
    },
};
use khala_core::{
    ErrorKind, Timestamp,
    health::{Condition, Health},
};
use tokio::{
    task::yield_now,
    time::{advance, pause, resume, timeout},
};

use self::support::{NEVER, jwks, key, kids, knows, secret, set};

const LONG: Duration = Duration::from_secs(20);

/// An address that answers as it is told, and counts how often it is asked.
#[derive(Clone, Debug)]
struct Address {
    answer: Arc<Mutex<Result<String, &'static str>>>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl FetchKeySet for Address {
    fn name(&self) -> String {
        "http://keys.example".to_owned()
    }

    async fn fetch(&self, _: usize) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        // As from afar.
        yield_now().await;
        Ok(self.answer.lock().unwrap().clone()?.into_bytes())
    }
}

impl Address {
    fn new(keys: &[Key]) -> Self {
        Self { answer: Arc::new(Mutex::new(Ok(jwks(keys)))), asked: Arc::default() }
    }

    fn say(&self, answer: Result<String, &'static str>) {
        *self.answer.lock().unwrap() = answer;
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
        RemoteKeys::start(self.clone(), options)
    }
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
            yield_now().await
        }
    };
    timeout(LONG, turned).await.expect("it is seen in time");
}

#[tokio::test]
async fn a_storm_of_unknown_names_asks_once() {
    let address = Address::new(&[key("a", 1)]);
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
    let address = Address::new(&[key("a", 1)]);
    let keys = address.keys(Duration::ZERO);
    assert!(knows(&keys, "a").await);
    address.say(Ok(jwks(&[key("a", 1), key("b", 1)])));
    // Who asks first goes away again, and neither stops the fetch nor holds up who comes after.
    {
        let mut leaving = Box::pin(knows(&keys, "b"));
        assert!(futures::poll!(&mut leaving).is_pending());
    }
    assert!(knows(&keys, "b").await);
    assert_eq!(address.asked(), 2);
}

#[tokio::test]
async fn before_the_first_answer_nobody_is_refused() {
    let address = Address::new(&[]);
    address.say(Err("down"));
    let keys = address.keys(Duration::ZERO);
    for wanted in [Some("a"), None] {
        let fault = keys.keys(wanted, Timestamp::default()).await.unwrap_err();
        assert_eq!(fault.kind(), ErrorKind::Unavailable);
    }
    address.say(Ok(jwks(&[key("a", 1)])));
    assert!(knows(&keys, "a").await);
}

#[tokio::test]
async fn without_any_key_the_node_is_not_ready_and_without_fresh_ones_it_says_so() {
    let address = Address::new(&[]);
    address.say(Err("down"));
    let source = address.keys(NEVER);
    let health = Health::new();
    let ring = KeyRing::new(KeySources { remote: Some(source.clone()), ..KeySources::default() });
    ring.report_to(&health);
    source.reload().await;
    let reason = "no keys of jwks were ever loaded; the server's log says why".to_owned();
    assert_eq!(health.failures(), [("jwks_keys", reason.clone())]);

    address.say(Ok(jwks(&[key("a", 1)])));
    source.reload().await;
    assert_eq!(health.report(), [("jwks_keys", Condition::Healthy)]);

    address.say(Err("down"));
    source.reload().await;
    assert!(health.failures().is_empty());
    assert!(health.notes()[0].1.contains("those of before hold"), "{:?}", health.notes());

    // Where there are other keys, the node does without those of the address.
    let address = Address::new(&[]);
    address.say(Err("down"));
    let (source, health) = (address.keys(NEVER), Health::new());
    let own = KeySet::new().with_key(Key::hs256(Some("own"), &[7; 32]).unwrap()).unwrap();
    KeyRing::new(KeySources { configured: own, remote: Some(source.clone()), file: None }).report_to(&health);
    source.reload().await;
    assert_eq!((health.failures(), health.notes()), (vec![], vec![("jwks_keys", reason)]));
}

#[tokio::test]
async fn configuration_comes_before_the_file_and_the_file_before_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let unnamed = Key::hs256(None, &secret("unnamed", 1)).unwrap();
    fs::write(&path, jwks(&[key("a", 2), key("b", 2), unnamed])).unwrap();
    let address = Address::new(&[key("a", 3), key("b", 3), key("c", 3)]);
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
            yield_now().await
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
