//! Health, readiness, metrics, and how a server stops.

use std::time::Duration;

use http::Request;
use http_body_util::Full;
use khala_core::ErrorKind;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{closed, hear, join, running, running_with};

#[tokio::test]
async fn the_open_routes_take_no_token() {
    let server = running().await;
    for (path, content_type) in [
        ("/healthz", "application/json"),
        ("/readyz", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/openapi.json", "application/json"),
    ] {
        let request = Request::builder().uri(path).header("host", "x").body(Full::default()).unwrap();
        let answer = server.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, content_type));
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    assert_eq!(server.get("/metrics").await.text, "khala_test 1\n");
    assert_eq!(server.get("/openapi.json").await.text, khala_server::OPENAPI);
}

#[tokio::test]
async fn a_failing_journal_is_not_ready_and_still_healthy() {
    let server = running().await;
    server.store.fail(Some(ErrorKind::Corrupt));
    let problem = server.get("/readyz").await.problem(503, "journal_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("corrupt"));
    assert_eq!(server.get("/healthz").await.status, 200);
    server.store.fail(None);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_mounted_service_leaves_metrics_to_its_host() {
    let khala = khala_core::Khala::builder(std::sync::Arc::new(khala_core::MemoryJournal::new())).build();
    let server = khala_server::Server::builder(khala).build();
    let request = Request::builder().uri("/metrics").body(Full::<bytes::Bytes>::default()).unwrap();
    assert_eq!(server.handle(request).await.status(), 404);
}

#[tokio::test]
async fn stopping_tells_clients_and_closes_them_all() {
    let mut server = running_with(|builder| builder.with_drain(Duration::from_millis(300))).await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut socket = server.connect().await;
        assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
        sockets.push(socket);
    }
    server.begin_stop();
    for socket in &mut sockets {
        let told = hear(socket).await;
        assert_eq!((&told[2], &told[3]), (&json!("phoenix"), &json!("sync:drain")), "{told}");
        assert_eq!(closed(socket).await, (1012, "restart".to_owned()));
    }
    let address = server.address.clone();
    server.stopped().await;
    assert!(TcpStream::connect(&address).await.is_err(), "it accepts no more");
}

#[tokio::test]
async fn a_draining_service_is_not_ready_and_lets_nobody_in() {
    let server = running().await;
    server.server.drain();
    server.get("/readyz").await.problem(503, "draining");
    let authorization = format!("Bearer {}", crate::support::good_token());
    let refused =
        server.handshake("/sync/v1/websocket?vsn=2.0.0", &[("authorization", &authorization)]).await;
    let Err(refused) = refused else { panic!("it was let in") };
    refused.problem(503, "draining");
    assert_eq!(refused.header("retry-after"), "1");
    server.server.drained().await;
}
