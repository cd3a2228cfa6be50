//! The rotation drill: 200 clients over real sockets, two keys that overlap, then the old one gone.

use std::{collections::HashSet, fs, sync::Arc, time::Duration};

use futures::future::join_all;
use khala_auth::{
    JwtIssuer, JwtOptions, JwtVerifier, Key,
    sources::{FileKeys, KeyChange, KeyRing, KeySource as _, KeySources},
};
use khala_core::{
    auth::{Access, TokenClaims},
    clock::{Clock as _, SystemClock},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{Answer, LONG, Running, Socket, closed, hear, join, running_on, say, until};

const CLIENTS: usize = 200;
const TOPIC: &str = "run:7:events";
const PATH: &str = "/sync/v1/websocket?vsn=2.0.0";

/// The keys of this drill, by their names.
fn secret(kid: &str) -> Vec<u8> {
    format!("the secret of the key named {kid:>24}").into_bytes()
}

fn key_file(kids: &[&str]) -> String {
    let keys: Vec<Value> = kids
        .iter()
        .map(|kid| serde_json::from_str(&Key::hs256(Some(kid), &secret(kid)).unwrap().to_jwk()).unwrap())
        .collect();
    json!({ "keys": keys }).to_string()
}

fn token(kid: &str, client: usize) -> String {
    let issuer = JwtIssuer::hs256(&secret(kid), JwtOptions::default()).unwrap().with_key_id(kid).unwrap();
    let claims = TokenClaims::new(format!("client-{client}"), [Access::Read.scope()]);
    issuer.sign(&claims, SystemClock::new().now(), LONG * 100).unwrap().token.reveal().to_owned()
}

/// A server whose keys are in a file.
struct Drill {
    running: Running,
    keys: KeyRing,
    folder: TempDir,
}

impl Drill {
    async fn new(kids: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        fs::write(&path, key_file(kids)).unwrap();
        let file = FileKeys::open(path, Duration::from_millis(50)).unwrap();
        let keys = KeyRing::new(KeySources { file: Some(file), ..KeySources::default() });
        let verifier = Arc::new(JwtVerifier::new(Arc::new(keys.clone()), JwtOptions::default()));
        let running = running_on(|khala| khala.with_verifier(verifier), |server| server).await;
        Self { running, keys, folder }
    }

    /// Puts another file in the old one's place, and waits until it was noticed.
    async fn trust(&self, kids: &[&str]) {
        let new = self.folder.path().join("keys.json.new");
        fs::write(&new, key_file(kids)).unwrap();
        fs::rename(&new, self.folder.path().join("keys.json")).unwrap();
        let wanted: HashSet<&str> = kids.iter().copied().collect();
        let noticed = async {
            while self.keys.keys(None, SystemClock::new().now()).await.unwrap().kids().collect::<HashSet<_>>()
                != wanted
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, noticed).await.expect("the file is read again");
    }

    async fn open(&self, token: &str) -> Result<Socket, Answer> {
        let authorization = format!("Bearer {token}");
        let opened = self.running.handshake(PATH, &[("authorization", &authorization)]).await;
        opened.map(|(socket, _)| socket)
    }
}

/// A client that follows the topic and counts what it got.
struct Client {
    number: usize,
    socket: Socket,
    seen: u64,
}

impl Client {
    async fn open(drill: &Drill, kid: &str, number: usize) -> Self {
        let mut socket = drill.open(&token(kid, number)).await.expect("a valid token is not refused");
        let answer = join(&mut socket, TOPIC, json!({})).await;
        assert_eq!(answer[4]["status"], "ok", "{answer}");
        let seen = answer[4]["response"]["after"].as_u64().unwrap();
        Self { number, socket, seen }
    }

    /// Takes a frame; gives it if it is no batch.
    async fn take(&mut self) -> Option<Value> {
        let frame = hear(&mut self.socket).await;
        if frame[3] != "sync:update_batch" {
            return Some(frame);
        }
        assert_eq!(frame[4]["after"], self.seen, "no gap");
        for update in frame[4]["updates"].as_array().unwrap() {
            self.seen += 1;
            assert_eq!(update["seq"], self.seen);
        }
        None
    }

    async fn catch_up(&mut self, head: u64) {
        while self.seen < head {
            assert!(self.take().await.is_none(), "nobody else's business is told");
        }
    }

    /// Hands over a token of another key on the open connection.
    async fn renew(&mut self, kid: &str) {
        let fresh = json!({"access_token": token(kid, self.number)});
        say(&mut self.socket, json!([null, "r", "phoenix", "access_token", fresh])).await;
        loop {
            if let Some(reply) = self.take().await {
                assert_eq!(reply[1], "r", "{reply}");
                assert_eq!(reply[4]["status"], "ok", "{reply}");
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_refuses_nobody_who_holds_a_valid_token() {
    let drill = Drill::new(&["old"]).await;
    let khala = drill.running.khala.clone();
    let _listening = drill.keys.listen(move |change| match change {
        KeyChange::Trusted(kid) => khala.access().trust_key(kid),
        KeyChange::Distrusted(kid) => khala.access().distrust_key(kid),
        _ => {}
    });
    let mut clients = join_all((0..CLIENTS).map(|number| Client::open(&drill, "old", number))).await;
    let mut head = 0;
    let mut publish = async |clients: &mut Vec<Client>| {
        head += 1;
        drill.running.publish(TOPIC, "1").await;
        join_all(clients.iter_mut().map(|client| client.catch_up(head))).await;
    };
    publish(&mut clients).await;

    // A key is refused before it is trusted, and both are good while they overlap.
    drill.open(&token("new", 0)).await.expect_err("not trusted yet").problem(401, "unknown_kid");
    drill.trust(&["old", "new"]).await;
    publish(&mut clients).await;
    let mut rotated = clients.split_off(CLIENTS / 2);
    join_all(rotated.iter_mut().map(|client| client.renew("new"))).await;
    for kid in ["old", "new"] {
        join_all((0..20).map(|number| Client::open(&drill, kid, number))).await;
    }
    until(|| drill.running.khala.connections().count() == CLIENTS).await;
    publish(&mut clients).await;
    join_all(rotated.iter_mut().map(|client| client.catch_up(3))).await;
    assert_eq!(drill.running.khala.connections().count(), CLIENTS, "nobody reconnected, nobody was closed");

    // The old key goes: whoever still stands on it is closed, and refused.
    drill.trust(&["new"]).await;
    let ends = join_all(clients.iter_mut().map(|client| closed(&mut client.socket))).await;
    assert!(ends.iter().all(|end| *end == (4004, "unknown_kid".to_owned())), "{ends:?}");
    for number in 0..CLIENTS / 2 {
        drill.open(&token("old", number)).await.expect_err("its key is gone").problem(401, "unknown_kid");
    }
    assert_eq!(drill.running.khala.connections().count(), CLIENTS / 2, "nobody else was closed");

    // Whoever comes back with a token of the new key goes on, and those who had one never noticed.
    let mut returned = join_all((0..CLIENTS / 2).map(|number| Client::open(&drill, "new", number))).await;
    rotated.append(&mut returned);
    publish(&mut rotated).await;
}
