//! What one subject and one address may do over HTTP.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use khala_core::{
    admission::{AdmissionOptions, Rate},
    auth::Access,
    class::{Classes, TopicClass, TopicPattern},
};
use khala_server::Limits;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Answer, Begun, Hand, LONG, Running, good_token, running_on, running_with, token_of};

const ONE: &str = r#"{"kind":"k","payload":1}"#;

fn rate(per_second: u32, burst: u32) -> Option<Rate> {
    Some(Rate::new(per_second.try_into().unwrap(), burst.try_into().unwrap()))
}

fn open() -> Classes {
    let all = TopicClass {
        publish_rate: None,
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap())
            .with_publish(["khala:publish"])
            .with_read(["khala:read"])
    };
    Classes::new(vec![all]).unwrap()
}

async fn publish(server: &Running, subject: &str, topic: &str, body: String, kind: &str) -> Answer {
    let path =
        if topic.is_empty() { "/v1/updates".to_owned() } else { format!("/v1/topics/{topic}/updates") };
    let request = Request::post(path)
        .header("host", &server.address)
        .header("authorization", format!("Bearer {}", token_of(subject, &[Access::Publish], LONG * 100)))
        .header("content-type", kind)
        .body(Full::<Bytes>::from(body))
        .unwrap();
    server.send(request).await
}

async fn post(server: &Running, subject: &str, topic: &str) -> Answer {
    publish(server, subject, topic, ONE.to_owned(), "application/json").await
}

async fn lines(server: &Running, subject: &str, topics: impl IntoIterator<Item = String>) -> Vec<Value> {
    let line = |topic: String| format!("{{\"topic\":\"{topic}\",\"kind\":\"k\",\"payload\":1}}\n");
    let text = topics.into_iter().map(line).collect();
    let answer = publish(server, subject, "", text, "application/x-ndjson").await;
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_subject_makes_new_topics_at_a_rate() {
    let (clock, limits) = (Hand::new(), AdmissionOptions::unlimited());
    let (own, limits) = (clock.clone(), AdmissionOptions { new_topics_per_subject: rate(2, 3), ..limits });
    let server = running_on(
        |khala| khala.with_clock(own).with_classes(open()).with_admission(limits),
        |server| server,
    )
    .await;
    for number in 0..3 {
        assert_eq!(post(&server, "ada", &format!("t{number}")).await.status, 201);
    }
    let refused = post(&server, "ada", "t3").await;
    let problem = refused.problem(429, "khala_publish_rate_limited");
    let facts = ["limited_by", "limit_per_second", "retry_after_ms"].map(|name| problem[name].clone());
    assert_eq!(facts, [json!("new_topics"), json!(2), json!(500)]);
    assert_eq!(refused.header("retry-after"), "1");
    let refused = publish(&server, "ada", "t3", format!("{ONE}\n"), "application/x-ndjson").await;
    refused.problem(429, "khala_publish_rate_limited");
    assert_eq!(post(&server, "ada", "t0").await.status, 201, "it is there already");
    assert_eq!(post(&server, "bob", "t3").await.status, 201, "another subject has its own");
    assert_eq!(post(&server, "ada", "t3").await.status, 201, "nor is what another made");
    clock.advance(Duration::from_millis(500));
    assert_eq!(post(&server, "ada", "t4").await.status, 201);
    post(&server, "ada", "t5").await.problem(429, "khala_publish_rate_limited");
    // The application's own calls pass by, and are not charged to anybody.
    server.publish("t5", "1").await;
}

#[tokio::test]
async fn lines_wait_for_new_topics_but_not_for_ever() {
    let running = async |rate| {
        let limits = AdmissionOptions { new_topics_per_subject: rate, ..AdmissionOptions::unlimited() };
        let patience = Limits { body_timeout: Duration::from_millis(500), ..Limits::default() };
        running_on(
            |khala| khala.with_classes(open()).with_admission(limits),
            |server| server.with_limits(patience),
        )
        .await
    };
    let server = running(rate(20, 2)).await;
    let started = Instant::now();
    let answers = lines(&server, "ada", (0..7).map(|number| format!("t{number}"))).await;
    assert_eq!(answers.iter().filter(|answer| answer["last"] == 1).count(), 7, "{answers:?}");
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());

    let server = running(rate(1, 1)).await;
    let answers = lines(&server, "ada", ["a", "a", "b"].map(str::to_owned)).await;
    assert_eq!((answers.len(), &answers[1]["last"]), (3, &json!(2)), "{answers:?}");
    let error = &answers[2]["error"];
    assert_eq!((&error["status"], &error["limited_by"]), (&json!(429), &json!("new_topics")), "{error}");
    assert!(error["retry_after_ms"].as_u64().unwrap() > 500, "{error}");
}

#[tokio::test]
async fn a_subject_publishes_at_a_rate() {
    let (clock, limits) = (Hand::new(), AdmissionOptions::unlimited());
    let (own, limits) = (clock.clone(), AdmissionOptions { publishes_per_subject: rate(10, 5), ..limits });
    let server = running_on(
        |khala| khala.with_clock(own).with_classes(open()).with_admission(limits),
        |server| server,
    )
    .await;
    let batch = format!(r#"{{"updates":[{}]}}"#, [ONE; 10].join(","));
    let answer = publish(&server, "ada", "t0", batch, "application/json").await;
    assert_eq!(answer.status, 201, "there was room for the first");
    let problem = post(&server, "ada", "t1").await.problem(429, "khala_publish_rate_limited");
    let facts = ["limited_by", "limit_per_second", "retry_after_ms"].map(|name| problem[name].clone());
    assert_eq!(facts, [json!("subject"), json!(10), json!(600)]);
    assert_eq!(post(&server, "bob", "t1").await.status, 201);
    clock.advance(Duration::from_millis(600));
    assert_eq!(post(&server, "ada", "t1").await.status, 201);
}

/// Sends nothing, and keeps its place.
async fn idle(server: &Running) -> TcpStream {
    TcpStream::connect(&server.address).await.unwrap()
}

/// Asks until it is answered with `status`: a place is given back a moment after a connection ends.
async fn until_answered(server: &Running, path: &str, status: u16) {
    let asks = async { while server.get(path).await.status != status {} };
    timeout(LONG, asks).await.expect("a place in time");
}

#[tokio::test]
async fn connections_over_the_limit_are_told_to_come_back_and_operators_are_answered() {
    let limits = Limits { http_connections: NonZeroU32::new(2), ..Limits::default() };
    let server =
        running_with(|builder| builder.with_limits(limits).with_admin_token(crate::admin::admin())).await;
    let first = idle(&server).await;
    let second = idle(&server).await;
    let refused = server.get("/v1/topics").await;
    refused.problem(503, "too_many_connections");
    assert_eq!((refused.header("retry-after"), refused.header("connection")), ("1", "close"));
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let admin = server.get("/internal/v1/khala/connections").await;
    assert_eq!(admin.status, 401, "it is asked who that is");
    // There is room for four of one address that are told so, and the next one is closed.
    let mut refused = Vec::new();
    for _ in 0..4 {
        refused.push(idle(&server).await);
    }
    let mut closed = idle(&server).await;
    assert_eq!(timeout(LONG, closed.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    drop(refused);
    until_answered(&server, "/healthz", 200).await;
    drop(first);
    until_answered(&server, "/v1/topics", 200).await;
    drop(second);
    // A WebSocket counts among the others.
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(server.connect().await);
        until_answered(&server, "/v1/topics", 200).await;
    }
}

#[tokio::test]
async fn connections_of_an_address_are_limited_but_for_those_of_proxies() {
    let limits = Limits {
        http_connections_per_address: NonZeroU32::new(1),
        requests_per_address: NonZeroU32::new(1),
        ..Limits::default()
    };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let _idle = idle(&server).await;
    server.get("/v1/topics").await.problem(429, "too_many_connections");

    let proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let server = running_with(|builder| builder.with_limits(limits).with_trusted_proxies(proxies)).await;
    let _idle = idle(&server).await;
    // A stream that goes on is a request under way, of the client that the proxy names.
    let head = |from: &str| {
        format!(
            "POST /v1/updates HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-forwarded-for: {from}\r\n\
             content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
            good_token()
        )
    };
    let begin = async |from| {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(head(from).as_bytes()).await.unwrap();
        let mut status = [0; 12];
        timeout(LONG, stream.read_exact(&mut status)).await.expect("an answer in time").unwrap();
        (stream, String::from_utf8(status.to_vec()).unwrap())
    };
    let (first, status) = begin("198.51.100.1").await;
    assert_eq!(status, "HTTP/1.1 200");
    assert_eq!(begin("198.51.100.1").await.1, "HTTP/1.1 429");
    assert_eq!(begin("198.51.100.2").await.1, "HTTP/1.1 200");
    drop(first);
    let again = async { while begin("198.51.100.1").await.1 != "HTTP/1.1 200" {} };
    timeout(LONG, again).await.expect("what has ended does not count");
}

#[tokio::test]
async fn requests_under_way_of_a_subject_are_limited() {
    let limits = Limits { requests_per_subject: NonZeroU32::new(2), ..Limits::default() };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let request = || {
        Request::post("/v1/topics/t/updates")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", token_of("ada", &[Access::Publish], LONG)))
    };
    let first = Begun::new(&server.server, request(), ONE).await;
    let second = Begun::new(&server.server, request(), ONE).await;
    let refused = post(&server, "ada", "t").await;
    refused.problem(429, "too_many_requests");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(post(&server, "bob", "t").await.status, 201);
    assert_eq!(first.end().await.status, 201);
    assert_eq!(post(&server, "ada", "t").await.status, 201);
    assert_eq!(second.end().await.status, 201);
}
