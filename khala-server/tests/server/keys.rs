//! Which connections a lost key ends. The sources themselves are tested in khala-auth.

#[expect(dead_code, reason = "the tests of khala-auth use more of it")]
#[path = "../../../khala-auth/tests/sources/support.rs"]
mod sources;

use std::{fs, sync::Arc};

use khala_auth::{
    JwtIssuer, JwtOptions, JwtVerifier, Key,
    sources::{FileKeys, KeyChange, KeyRing, KeySources},
};
use khala_core::{
    Khala, MemoryStore,
    auth::{Access, TokenClaims},
    clock::{Clock as _, SystemClock},
};
use khala_server::{Server, serve};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::client_async;

use self::sources::{NEVER, jwks, secret};
use crate::support::{LONG, closed, hear, join, say, until};

fn secret_key(kid: &str, version: u8) -> Key {
    Key::hs256(Some(kid), &secret(kid, version)).unwrap()
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
