//! The WebSocket handshake: where tokens may be, and what is refused before the upgrade.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use khala_core::{
    Error, ErrorKind, Grant, Khala, MemoryStore, Timestamp, Token,
    admission::{AdmissionOptions, Rate},
    auth::{Access, Denied, Verifier},
};
use khala_server::Server;
use serde_json::json;

use crate::support::{Hand, closed, expired_token, good_token, hear, join, running, running_on, say, token};

const PATH: &str = "/sync/v1/websocket?vsn=2.0.0";

#[tokio::test]
async fn a_token_may_come_three_ways() {
    let server = running().await;
    let token = good_token();
    let (mut socket, headers) =
        server.handshake(PATH, &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
    assert!(!headers.contains_key("sec-websocket-protocol"), "no subprotocol was offered");
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");

    for encoded in [STANDARD_NO_PAD.encode(&token), URL_SAFE_NO_PAD.encode(&token)] {
        let protocols = format!("phoenix, base64url.bearer.phx.{encoded}");
        let (mut socket, headers) =
            server.handshake(PATH, &[("sec-websocket-protocol", &protocols)]).await.unwrap();
        assert_eq!(headers["sec-websocket-protocol"], "phoenix");
        assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    }

    let path = format!("{PATH}&token={token}&mine=1");
    let (mut socket, _) = server.handshake(&path, &[]).await.unwrap();
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
}

#[tokio::test]
async fn both_serializers_are_spoken() {
    let server = running().await;
    let path = format!("/sync/v1/websocket?vsn=1.0.0&token={}", good_token());
    let (mut socket, _) = server.handshake(&path, &[]).await.unwrap();
    let frame = json!({"join_ref": "1", "ref": "1", "topic": "t", "event": "phx_join", "payload": {}});
    say(&mut socket, frame).await;
    assert_eq!(hear(&mut socket).await["payload"]["status"], "ok");
}

#[tokio::test]
async fn refusals_come_before_the_upgrade() {
    let server = running().await;
    let good = format!("Bearer {}", good_token());
    let refused = |path: String, headers: Vec<(&'static str, String)>| {
        let server = &server;
        async move {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            match server.handshake(&path, &headers).await {
                Ok(_) => panic!("{path} was let in"),
                Err(answer) => answer,
            }
        }
    };
    for vsn in ["?vsn=", "?vsn=3.0.0", "?vsn=2", "?vsn=2.0.0.0"] {
        let answer = refused(format!("/sync/v1/websocket{vsn}"), vec![("authorization", good.clone())]).await;
        assert_eq!(answer.problem(400, "unsupported_vsn")["supported"], json!(["2.0.x", "1.0.x"]));
    }
    let expired = expired_token(&[]);
    for (headers, code) in [
        (vec![], "missing_token"),
        (vec![("authorization", "Basic x".to_owned())], "invalid_authorization_scheme"),
        (vec![("authorization", "Bearer x.y.z".to_owned())], "invalid_token"),
        (vec![("authorization", format!("Bearer {expired}"))], "token_expired"),
    ] {
        refused(PATH.to_owned(), headers).await.problem(401, code);
    }
    refused(format!("{PATH}&token=x"), vec![]).await.problem(401, "invalid_token");
    let answer = refused(
        PATH.to_owned(),
        vec![("authorization", good.clone()), ("sec-websocket-version", "8".to_owned())],
    )
    .await;
    answer.problem(400, "invalid_upgrade");
    assert_eq!(answer.header("sec-websocket-version"), "13");
    let answer = refused(
        PATH.to_owned(),
        vec![("authorization", good.clone()), ("sec-websocket-key", "short".to_owned())],
    )
    .await;
    answer.problem(400, "invalid_upgrade");

    let plain = server.get(PATH).await;
    plain.problem(426, "websocket_required");
    assert_eq!(plain.header("upgrade"), "websocket");
}

/// A verifier that cannot tell.
#[derive(Debug)]
pub(crate) struct Away;

#[async_trait]
impl Verifier for Away {
    async fn verify(&self, _: &Token, _: Timestamp) -> Result<Grant, Denied> {
        Err(Denied::Unavailable(Error::new(ErrorKind::Unavailable, "test", "/secret/path is away")))
    }
}

#[tokio::test]
async fn a_verifier_that_cannot_tell_asks_to_come_back() {
    let khala = Khala::builder(MemoryStore::new()).with_verifier(Arc::new(Away)).build();
    let server = Server::builder(khala).build();
    let request = http::Request::builder()
        .uri("/v1/topics")
        .header("authorization", "Bearer x")
        .body(http_body_util::Full::<bytes::Bytes>::default())
        .unwrap();
    let response = server.handle(request).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"1".parse().unwrap())
    );
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let server = running().await;
    let path = format!("{PATH}&token={}", token(&[Access::Read], Duration::from_secs(2)));
    let (mut socket, _) = server.handshake(&path, &[]).await.unwrap();
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    assert_eq!(closed(&mut socket).await, (4001, "token_expired".to_owned()));
}

#[tokio::test]
async fn who_tries_in_vain_too_often_is_not_heard() {
    let one = NonZeroU32::MIN;
    let rate = Rate::new(one, one);
    let limits = AdmissionOptions { connects_per_address: Some(rate), ..AdmissionOptions::unlimited() };
    let clock = Hand::new();
    let own = clock.clone();
    let server = running_on(|khala| khala.with_admission(limits).with_clock(own), |server| server).await;
    let bad = [("authorization", "Bearer x")];
    server.handshake(PATH, &bad).await.map(|_| ()).unwrap_err().problem(401, "invalid_token");
    let good = format!("Bearer {}", good_token());
    for headers in [bad, [("authorization", good.as_str())]] {
        let limited = server.handshake(PATH, &headers).await.map(|_| ()).unwrap_err();
        limited.problem(429, "too_many_connections");
        assert_eq!(limited.header("retry-after"), "1");
    }
    clock.advance(Duration::from_secs(1));
    server.handshake(PATH, &[("authorization", good.as_str())]).await.unwrap();
}

#[tokio::test]
async fn a_verifier_that_cannot_tell_is_nobodys_try() {
    let one = NonZeroU32::MIN;
    let limits =
        AdmissionOptions { connects_per_address: Some(Rate::new(one, one)), ..AdmissionOptions::unlimited() };
    let server =
        running_on(|khala| khala.with_admission(limits).with_verifier(Arc::new(Away)), |server| server).await;
    for _ in 0..3 {
        let refused = server.handshake(PATH, &[("authorization", "Bearer x")]).await.map(|_| ()).unwrap_err();
        refused.problem(503, "unavailable");
    }
}
