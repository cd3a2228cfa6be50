//! Reading documents over HTTP.

use khala_core::{
    Timestamp,
    journal::{Journal as _, Keep},
};
use serde_json::json;

use crate::support::{Running, running, topic};

async fn publish(server: &Running, key: &str, deleted: bool) {
    let body = json!({"kind": "k", "payload": {"of": key}, "doc_key": key, "deleted": deleted});
    assert_eq!(server.post("/v1/topics/t/updates", &body.to_string()).await.status, 201);
}

#[tokio::test]
async fn a_document_is_its_newest_update() {
    let server = running().await;
    publish(&server, "a/é", false).await;
    publish(&server, "a/é", false).await;
    publish(&server, "gone", true).await;
    let document = server.get("/v1/topics/t/documents/a%2F%C3%A9").await.json();
    let facts = [&document["topic"], &document["doc_key"], &document["seq"], &document["doc_version"]];
    assert_eq!(facts, [&json!("t"), &json!("a/é"), &json!(2), &json!(2)]);
    assert_eq!(document["payload"], json!({"of": "a/é"}));
    let gone = server.get("/v1/topics/t/documents/gone").await;
    assert_eq!((gone.status.as_u16(), &gone.json()["deleted"]), (200, &json!(true)));
    server.get("/v1/topics/t/documents/never").await.problem(404, "unknown_document");
    server.get("/v1/topics/other/documents/gone").await.problem(404, "unknown_document");
    server.get("/v1/topics/t/documents/%07").await.problem(400, "invalid_doc_key");
    server.get(&format!("/v1/topics/t/documents/{}", "x".repeat(513))).await.problem(400, "invalid_doc_key");
    server.get("/v1/topics/t/documents/gone?x=1").await.problem(400, "invalid_query");
}

#[tokio::test]
async fn a_snapshot_is_read_in_pages_of_one_watermark() {
    let server = running().await;
    for key in ["a", "b&c", "d", "e"] {
        publish(&server, key, false).await;
    }
    publish(&server, "d", true).await;
    let mut keys = Vec::new();
    let mut next = Some("/v1/topics/t/snapshot?limit=2".to_owned());
    while let Some(path) = next {
        let page = server.get(&path).await.json();
        assert_eq!((&page["topic"], &page["watermark"]), (&json!("t"), &json!(5)));
        keys.extend(page["documents"].as_array().unwrap().iter().map(|document| document["doc_key"].clone()));
        next = page["next"].as_str().map(str::to_owned);
        assert_eq!(page["complete"], next.is_none());
        publish(&server, "z", true).await;
    }
    assert_eq!(keys, ["a", "b&c", "e"]);
}

#[tokio::test]
async fn a_snapshot_that_the_log_no_longer_continues_is_stale() {
    let server = running().await;
    for key in ["a", "b", "c"] {
        publish(&server, key, false).await;
    }
    let next = server.get("/v1/topics/t/snapshot?limit=1").await.json()["next"].as_str().unwrap().to_owned();
    publish(&server, "d", false).await;
    let journal = server.khala.journal();
    journal
        .trim(&topic("t"), Keep { updates: Some(0), ..Keep::everything() }, Timestamp::default())
        .await
        .unwrap();
    let problem = server.get(&next).await.problem(410, "stale_cursor");
    assert_eq!(problem["reason_codes"], json!(["retention_floor_breach"]));
    for bad in ["watermark=1&epoch=0000000000000001", "after_key=a", "after_key=a&watermark=1", "limit=0"] {
        server.get(&format!("/v1/topics/t/snapshot?{bad}")).await.problem(400, "invalid_query");
    }
}
