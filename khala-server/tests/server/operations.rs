//! Health, readiness, metrics.

use http::Request;
use http_body_util::Full;
use khala_core::ErrorKind;

use crate::support::{running, running_with};

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
    assert_eq!(server.get("/openapi.json").await.text, khala_server::openapi());
}

#[tokio::test]
async fn a_failing_journal_is_not_ready_and_still_healthy() {
    let server = running().await;
    server.store.fail(Some(ErrorKind::Corrupt));
    let problem = server.get("/readyz").await.problem(503, "journal_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("corrupt"));
    assert_eq!(problem["reasons"], serde_json::json!(["what the database holds contradicts itself"]));
    assert_eq!(server.get("/healthz").await.status, 200);
    server.store.fail(None);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_store_that_reads_and_does_not_write_is_not_ready() {
    let server = running().await;
    for kind in [ErrorKind::Full, ErrorKind::ReadOnly, ErrorKind::Unavailable] {
        server.store.fail_writes(Some(kind));
        let problem = server.get("/readyz").await.problem(503, "journal_unwritable");
        assert!(problem["detail"].as_str().unwrap().contains(kind.as_str()), "{problem}");
    }
    assert_eq!(server.get("/healthz").await.status, 200);
    server.store.fail_writes(None);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn what_it_does_without_is_noted_and_no_reason_to_be_unready() {
    let server = running_with(|builder| builder.with_notes(|| vec!["it hears nothing"])).await;
    let ready = server.get("/readyz").await;
    assert_eq!(
        (ready.status.as_u16(), &ready.json()["notes"]),
        (200, &serde_json::json!(["it hears nothing"]))
    );
    server.store.fail(Some(ErrorKind::Unavailable));
    let problem = server.get("/readyz").await.problem(503, "journal_unavailable");
    assert_eq!(problem["notes"], serde_json::json!(["it hears nothing"]));
}

#[tokio::test]
async fn a_mounted_service_leaves_metrics_to_its_host() {
    let khala = khala_core::Khala::open(khala_core::MemoryStore::new());
    let server = khala_server::Server::builder(khala).build();
    let request = Request::builder().uri("/metrics").body(Full::<bytes::Bytes>::default()).unwrap();
    assert_eq!(server.handle(request).await.status(), 404);
}
