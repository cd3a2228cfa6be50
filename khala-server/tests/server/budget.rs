//! What requests take of the node's budget of memory, and how long they count.

use std::num::NonZeroU32;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use khala_core::budget::{MemoryBudget, MemoryPart};
use khala_server::Limits;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    select,
    time::timeout,
};

use crate::{
    admin::{ADMIN, DRAIN, RETENTION, REVOCATIONS, admin},
    support::{LONG, Running, good_token, running_on, running_with, until},
};

const LARGE: usize = 5 << 20;

fn one_request() -> Limits {
    Limits { requests_per_subject: NonZeroU32::new(1), ..Limits::default() }
}

/// Asks until the subject has no other request under way.
async fn until_nothing_is_under_way(server: &Running) {
    let asks = async { while server.get("/v1/topics/t").await.status != 200 {} };
    timeout(LONG, asks).await.expect("a request ends in time");
}

/// Asks for a page, and takes no more of it than its first byte.
async fn begin_to_read(server: &Running) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(server.address.parse().unwrap()).await.unwrap();
    let request = format!(
        "GET /v1/topics/t/updates HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        good_token()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    timeout(LONG, stream.read_exact(&mut [0])).await.expect("an answer in time").unwrap();
    stream
}

/// All of an answer counts, however large it is: its bytes, and its request.
#[tokio::test]
async fn an_answer_counts_until_its_client_has_taken_it() {
    let server = running_with(|server| server.with_limits(one_request())).await;
    let answers = || server.khala.memory().taken_by(MemoryPart::Answers);
    server.publish("t", &format!("\"{}\"", "x".repeat(LARGE))).await;
    for reads_on in [true, false] {
        let mut reader = begin_to_read(&server).await;
        assert!(answers() > LARGE as u64, "{}", answers());
        server.get("/v1/topics/t").await.problem(429, "too_many_requests");
        if reads_on {
            let mut rest = Vec::new();
            timeout(LONG, reader.read_to_end(&mut rest)).await.expect("an end in time").unwrap();
            assert!(rest.len() > LARGE);
        }
        drop(reader);
        until(|| answers() == 0).await;
        until_nothing_is_under_way(&server).await;
    }
}

#[tokio::test]
async fn a_publish_counts_until_its_batch_is_stored_also_where_its_client_is_gone() {
    let server = running_with(|server| server.with_limits(one_request())).await;
    let bodies = || server.khala.memory().taken_by(MemoryPart::Bodies);
    server.store.hold(true);
    let large = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(40_000));
    let request =
        server.request(Method::POST, "/v1/topics/t/updates").header("content-type", "application/json");
    let mut publish = Box::pin(server.server.handle(request.body(Full::<Bytes>::from(large)).unwrap()));
    select! {
        answer = &mut publish => panic!("nothing is stored yet: {answer:?}"),
        () = until(|| server.store.asked() == 1) => {}
    }
    drop(publish);
    assert!(bodies() > 120_000, "{}", bodies());
    server.get("/v1/topics/t").await.problem(429, "too_many_requests");
    server.store.hold(false);
    until(|| bodies() == 0).await;
    until_nothing_is_under_way(&server).await;
    assert_eq!(server.get("/v1/topics/t").await.json()["head"], 1);
}

/// A server whose budget others have spent.
async fn spent() -> (Running, khala_core::budget::MemoryShare) {
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
