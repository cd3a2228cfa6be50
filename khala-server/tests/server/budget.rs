//! What requests take of the node's budget of memory, and how long they count.

use http::Request;
use http_body_util::Full;
use khala_core::{MemoryBudget, MemoryPart};

use crate::{
    admin::{ADMIN, DRAIN, RETENTION, REVOCATIONS, admin},
    support::{Running, running_on, until},
};

/// A server whose budget others have spent.
async fn spent() -> (Running, khala_core::MemoryShare) {
    let memory = MemoryBudget::new(Some(9 << 20));
    let mut others = memory.share(MemoryPart::Frames);
    others.hold(9 << 20);
    let server =
        running_on(|khala| khala.with_memory(memory), |server| server.with_admin_token(admin())).await;
    (server, others)
}

#[tokio::test]
async fn operators_are_obeyed_where_the_budget_is_spent() {
    let (server, _others) = spent().await;
    server.post("/v1/topics/t/updates", r#"{"kind":"k","payload":1}"#).await.problem(503, "memory_limit");
    for (path, body, status) in [
        (REVOCATIONS, r#"{"by":"sub","id":"ada"}"#, 201),
        (RETENTION, r#"{"dry_run":true}"#, 200),
        (DRAIN, "{}", 202),
    ] {
        let request = Request::post(path)
            .header("host", "x")
            .header("authorization", format!("Bearer {ADMIN}"))
            .header("content-type", "application/json");
        let answer = server.send(request.body(Full::from(body)).unwrap()).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    until(|| server.khala.memory().taken_by(MemoryPart::Bodies) == 0).await;
}

#[tokio::test]
async fn a_request_is_let_in_before_it_takes_memory() {
    let (server, _others) = spent().await;
    for path in ["/v1/topics", "/v1/topics/t/updates", "/v1/topics/t/snapshot", "/v1/topics/t/documents/d"] {
        let request = Request::get(path).header("host", "x").body(Full::default()).unwrap();
        server.send(request).await.problem(401, "missing_token");
        server.get(path).await.problem(503, "memory_limit");
    }
}
