//! `POST /v1/topics/{topic}/updates`.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use khala_core::{
    ErrorKind, Watermark,
    auth::{Access, Revocation, RevocationId, RevocationTarget},
    budget::{MemoryBudget, MemoryPart},
    class::{Classes, TopicClass, TopicPattern},
    journal::{Journal as _, ReadFrom, ReadLimit, Replay},
};
use khala_server::Limits;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    Begun, Hand, LONG, expired_token, running, running_on, running_with, token, token_of, topic,
};

const ONE: &str = r#"{"kind":"k","payload":1}"#;

#[tokio::test]
async fn one_and_many_are_written() {
    let server = running().await;
    let one = server.post("/v1/topics/a%2Fb/updates", ONE).await;
    assert_eq!(one.status, 201, "{one:?}");
    let epoch = one.json()["epoch"].clone();
    let expected = json!({"topic": "a/b", "epoch": epoch, "first": 1, "last": 1, "duplicate": false});
    assert_eq!(one.json(), expected);
    let many = r#"{"expect":1,"updates":[{"kind":"x","payload":{"a":[]},"doc_key":"d","doc_version":5},
        {"kind":"y","payload":null,"doc_key":"d","doc_version":6,"deleted":true}]}"#;
    let many = server.post("/v1/topics/a%2Fb/updates", many).await;
    assert_eq!((many.json()["first"].as_u64(), many.json()["last"].as_u64()), (Some(2), Some(3)), "{many:?}");
}

#[tokio::test]
async fn payloads_keep_their_bytes_and_traces_are_carried() {
    let server = running().await;
    let payload = r#"{ "b":1.0e0, "a" : "\u00e9" }"#;
    let body = format!(r#"{{"kind":"k","payload":{payload}}}"#);
    let headers = [("traceparent", "00-1-2-01"), ("tracestate", "a=b"), ("x-request-id", "r-1")];
    let answer = server.post_with("/v1/topics/t/updates", &body, &headers).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-request-id")), (201, "r-1"));
    let read = server.khala.journal().read(&topic("t"), ReadFrom::Origin, ReadLimit::PAGE).await.unwrap();
    let Replay::Page(page) = read else { panic!("{read:?}") };
    assert_eq!(page.updates[0].payload.as_str(), payload);
    let trace = page.updates[0].trace.clone().unwrap();
    let fields =
        [trace.traceparent, trace.tracestate, trace.request_id].map(|field| field.unwrap().to_string());
    assert_eq!(fields, ["00-1-2-01", "a=b", "r-1"]);
    let page = server.get("/v1/topics/t/updates").await;
    assert!(page.text.contains(payload), "{page:?}");
    assert_ne!(page.header("x-request-id"), "", "a request without an id gets one");
}

/// Nobody can take a key away from somebody else, over either route.
#[tokio::test]
async fn a_key_of_another_subject_is_another_key() {
    let server = running().await;
    let body = |whose: &str| format!(r#"{{"kind":"k","payload":"{whose}","dedup":"once"}}"#);
    for (number, whose) in [(1, "mallory"), (2, "ada")] {
        let token = token_of(whose, &[Access::Publish], LONG);
        let post = |path| {
            Request::post(path)
                .header("host", &server.address)
                .header("authorization", format!("Bearer {token}"))
        };
        let request = post("/v1/topics/lines/updates").header("content-type", "application/x-ndjson");
        let answer = server.send(request.body(Full::from(body(whose))).unwrap()).await;
        assert_eq!(answer.json()["last"], number, "{answer:?}");
        let request = post("/v1/topics/plain/updates")
            .header("content-type", "application/json")
            .header("idempotency-key", "once");
        let plain = format!(r#"{{"kind":"k","payload":"{whose}"}}"#);
        let answer = server.send(request.body(Full::from(plain)).unwrap()).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["last"]), (201, &json!(number)), "{answer:?}");
    }
}

#[tokio::test]
async fn an_idempotency_key_stores_once() {
    let server = running().await;
    let headers = [("idempotency-key", "once")];
    let first = server.post_with("/v1/topics/t/updates", ONE, &headers).await;
    let again = server.post_with("/v1/topics/t/updates", ONE, &headers).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 200));
    assert_eq!(again.json()["duplicate"], true);
    assert_eq!(again.json()["last"], 1);
    let other = r#"{"kind":"k","payload":"other"}"#;
    let mismatch = server.post_with("/v1/topics/t/updates", other, &headers).await;
    let mismatch = mismatch.problem(409, "dedup_mismatch");
    assert_eq!((&mismatch["conflict"], &mismatch["first"]), (&json!("dedup"), &json!(1)));
    assert_eq!(server.get("/v1/topics/t").await.json()["head"], 1, "it is not stored");
    for bad in ["", "x\u{e9}"] {
        let answer = server.post_with("/v1/topics/t/updates", ONE, &[("idempotency-key", bad)]).await;
        answer.problem(400, "invalid_idempotency_key");
    }
}

#[tokio::test]
async fn conflicts_say_what_was_found() {
    let server = running().await;
    let body = r#"{"updates":[{"kind":"k","payload":1}],"expect":7}"#;
    let problem = server.post("/v1/topics/t/updates", body).await.problem(409, "conflict");
    let found = [&problem["conflict"], &problem["expected"], &problem["found"]];
    assert_eq!(found, [&json!("head"), &json!(7), &json!(0)]);
    let body = r#"{"kind":"k","payload":1,"doc_key":"d","doc_version":5}"#;
    assert_eq!(server.post("/v1/topics/t/updates", body).await.status, 201);
    let problem = server.post("/v1/topics/t/updates", body).await.problem(409, "conflict");
    let found = [&problem["conflict"], &problem["doc_key"], &problem["given"], &problem["found"]];
    assert_eq!(found, [&json!("doc_version"), &json!("d"), &json!(5), &json!(5)]);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = running().await;
    let answer =
        server.post("/v1/topics/t/updates", r#"{"updates":[{"kind":"k","payload":1},{"kind":7}]}"#).await;
    assert_eq!(answer.problem(400, "invalid")["field"], "updates[1].kind");
    server.post("/v1/topics/t/updates", "{").await.problem(400, "invalid_json");
    let long = format!("/v1/topics/{}/updates", "x".repeat(300));
    assert_eq!(server.post(&long, ONE).await.problem(400, "invalid_topic")["field"], "topic");
    server.post("/v1/topics/phoenix/updates", ONE).await.problem(400, "invalid_topic");

    for content_type in [None, Some("text/plain"), Some("application/jsonp")] {
        let mut request = server.request(Method::POST, "/v1/topics/t/updates");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let answer = server.send(request.body(Full::from(ONE)).unwrap()).await;
        answer.problem(415, "unsupported_media_type");
    }
    let request = server.request(Method::POST, "/v1/topics/t/updates");
    let request = request.header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(server.send(request.body(Full::from(ONE)).unwrap()).await.status, 201);
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let server = running().await;
    let payload = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(64 << 10));
    let problem = server.post("/v1/topics/t/updates", &payload).await;
    let problem = problem.problem(413, "khala_frame_payload_too_large");
    let facts = [&problem["index"], &problem["class"], &problem["limit_bytes"]];
    assert_eq!(facts, [&json!(0), &json!("fallback"), &json!(64 << 10)]);
    // Of another class, another size is allowed; and the first update that is too large is named.
    assert_eq!(server.post("/v1/topics/run:7:events/updates", &payload).await.status, 201);
    let second = format!(r#"{{"updates":[{ONE},{payload}]}}"#);
    let problem = server.post("/v1/topics/t/updates", &second).await;
    assert_eq!(problem.problem(413, "khala_frame_payload_too_large")["index"], 1);
    let many = format!(r#"{{"updates":[{}]}}"#, vec![ONE; 1001].join(","));
    server.post("/v1/topics/t/updates", &many).await.problem(413, "too_many_updates");
    let body = " ".repeat((256 << 10) + 1);
    server.post("/v1/topics/t/updates", &body).await.problem(413, "body_too_large");
    assert_eq!(server.get("/v1/topics/t").await.json()["head"], 0);
}

#[tokio::test]
async fn what_comes_too_fast_is_told_when_to_come_back() {
    let clock = Hand::new();
    let own = clock.clone();
    let server = running_on(|khala| khala.with_clock(own), |server| server).await;
    let many = |updates: usize| format!(r#"{{"updates":[{}]}}"#, vec![ONE; updates].join(","));
    let post =
        async |name: &str, updates| server.post(&format!("/v1/topics/{name}/updates"), &many(updates)).await;
    // 90 a second, and as many at once: there is room for the first of the second batch, so it goes whole.
    assert_eq!(post("t", 89).await.status, 201);
    assert_eq!(post("t", 91).await.status, 201);
    let refused = post("t", 1).await;
    let problem = refused.problem(429, "khala_publish_rate_limited");
    let facts = ["limited_by", "class", "tier", "limit_per_second", "retry_after_ms"];
    let facts = facts.map(|name| problem[name].clone());
    assert_eq!(facts, [json!("topic"), json!("fallback"), json!("cold"), json!(90), json!(1_012)]);
    assert_eq!(refused.header("retry-after"), "2");
    assert_eq!(post("other", 1).await.status, 201, "each topic has its own");
    // What is wrong anyway takes nothing.
    server.post("/v1/topics/other/updates", r#"{"updates":[]}"#).await.problem(400, "invalid");
    clock.advance(Duration::from_millis(1_011));
    post("t", 1).await.problem(429, "khala_publish_rate_limited");
    clock.advance(Duration::from_millis(1));
    assert_eq!(post("t", 1).await.status, 201);
    assert_eq!(server.get("/v1/topics/t").await.json()["head"], 181, "what was refused was not stored");
    // The application's own calls pass by.
    for _ in 0..200 {
        server.publish("t", "1").await;
    }
}

#[tokio::test]
async fn a_class_that_carries_hashes_adds_them_and_refuses_wrong_ones() {
    let class = TopicClass {
        hashes: true,
        ..TopicClass::new("hashed", TopicPattern::parse("**").unwrap())
            .with_read(["khala:read"])
            .with_publish(["khala:publish"])
    };
    let classes = Classes::new(vec![class]).unwrap();
    let server = running_on(|khala| khala.with_classes(classes), |server| server).await;
    let route = "/v1/topics/t/updates";
    let good = "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862";
    let own = format!(r#"{{"kind":"k","payload":{{"a":1.0}},"payload_hash":"{good}"}}"#);
    assert_eq!(server.post(route, &own).await.status, 201);
    assert_eq!(server.post(route, r#"{"kind":"k","payload":{ "a" : 1 }}"#).await.status, 201);
    let wrong = format!(r#"{{"updates":[{own},{}]}}"#, own.replace("1.0", "2"));
    let problem = server.post(route, &wrong).await.problem(400, "payload_hash_mismatch");
    assert_eq!(problem["index"], 1, "{problem}");
    let page = server.get(route).await.json();
    let hashes: Vec<_> =
        page["updates"].as_array().unwrap().iter().map(|one| one["payload_hash"].as_str()).collect();
    assert_eq!(hashes, [Some(good), Some(good)]);
    // What has no canonical form is no payload.
    let problem = server.post(route, r#"{"kind":"k","payload":1e400}"#).await;
    assert_eq!(problem.problem(400, "invalid_payload")["fault"], "number_out_of_range");
}

#[tokio::test]
async fn a_payload_that_readers_differ_about_is_refused_and_its_fault_named() {
    let server = running().await;
    let route = "/v1/topics/t/updates";
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for (payload, fault, at) in [
        (r#""\ud800""#, "unpaired_surrogate", 1),
        (r#"["\ufdd0"]"#, "noncharacter", 2),
        ("1e400", "number_out_of_range", 0),
        (r#"{"a":1,"\u0061":2}"#, "duplicate_name", 7),
        (&*deep(101), "too_deep", 100),
        (&*deep(128), "too_deep", 100),
    ] {
        let one = format!(r#"{{"kind":"k","payload":{payload}}}"#);
        let problem = server.post(route, &one).await.problem(400, "invalid_payload");
        let facts = [&problem["field"], &problem["index"], &problem["fault"], &problem["at"]];
        assert_eq!(facts, [&json!("payload"), &json!(0), &json!(fault), &json!(at)], "{payload}");
        let many = format!(r#"{{"updates":[{ONE},{one}]}}"#);
        let problem = server.post(route, &many).await.problem(400, "invalid_payload");
        assert_eq!((&problem["index"], &problem["fault"]), (&json!(1), &json!(fault)), "{payload}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("update 1") && detail.contains(&format!("at byte {at}")), "{detail}");
    }
    assert_eq!(server.get(route).await.json()["updates"], json!([]), "nothing was stored");
    let good = format!(r#"{{"kind":"k","payload":[{},"\ud83d\ude00",12345678901234567890]}}"#, deep(99));
    assert_eq!(server.post(route, &good).await.status, 201);
}

#[tokio::test]
async fn a_class_without_limits_has_none() {
    let all = TopicClass {
        publish_rate: None,
        payload_bytes: None,
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_publish(["khala:publish"])
    };
    let classes = Classes::new(vec![all]).unwrap();
    let server = running_on(|khala| khala.with_classes(classes), |server| server).await;
    let many = format!(r#"{{"updates":[{}]}}"#, vec![ONE; 1_000].join(","));
    for _ in 0..3 {
        assert_eq!(server.post("/v1/topics/t/updates", &many).await.status, 201);
    }
    let large = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(200 << 10));
    assert_eq!(server.post("/v1/topics/t/updates", &large).await.status, 201);
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let server = running().await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let head = format!(
        "POST /v1/topics/t/updates HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        crate::support::good_token()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    // The server may stop listening before all of it is sent.
    for _ in 0..65 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = [0; 12];
    timeout(LONG, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let limits = Limits { body_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let head = format!(
        "POST /v1/topics/t/updates HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{",
        crate::support::good_token()
    );
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(LONG, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");

    // One that is broken off is answered to nobody, and stores nothing.
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    assert_eq!(server.get("/v1/topics/t").await.json()["head"], 0);
}

#[tokio::test]
async fn publishing_takes_its_scope() {
    let server = running().await;
    let request = |authorization: Option<String>| {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/v1/topics/t/updates")
            .header("host", "x")
            .header("content-type", "application/json");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        request.body(Full::<Bytes>::from(ONE)).unwrap()
    };
    let read_only = format!("Bearer {}", token(&[Access::Read], LONG));
    let problem = server.send(request(Some(read_only))).await.problem(403, "missing_scope");
    assert_eq!(problem["scope"], "khala:publish");
    let answer = server.send(request(None)).await;
    answer.problem(401, "missing_token");
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    server.send(request(Some("Basic x".to_owned()))).await.problem(401, "invalid_authorization_scheme");
    server.send(request(Some("Bearer x".to_owned()))).await.problem(401, "invalid_token");
    let expired = format!("Bearer {}", expired_token(&[Access::Publish]));
    server.send(request(Some(expired))).await.problem(401, "token_expired");
}

#[tokio::test]
async fn faults_of_the_store_are_answered_by_kind() {
    let server = running().await;
    for (kind, status, retry) in [
        (ErrorKind::Full, 503, true),
        (ErrorKind::Unavailable, 503, true),
        (ErrorKind::ReadOnly, 503, false),
        (ErrorKind::Corrupt, 500, false),
        (ErrorKind::Schema, 500, false),
        (ErrorKind::Invalid, 400, false),
    ] {
        server.store.fail(Some(kind));
        let answer = server.post("/v1/topics/t/updates", ONE).await;
        let code = if kind == ErrorKind::Invalid { "invalid" } else { kind.as_str() };
        answer.problem(status, code);
        assert_eq!(answer.headers.contains_key("retry-after"), retry, "{answer:?}");
    }
}

#[tokio::test]
async fn a_token_that_ends_while_the_body_comes_publishes_nothing() {
    for code in ["token_expired", "token_revoked"] {
        let clock = Hand::new();
        let own = clock.clone();
        let server = running_on(|khala| khala.with_clock(own), |server| server).await;
        let request = server.request(Method::POST, "/v1/topics/t/updates");
        let request = request.header("content-type", "application/json");
        let begun = Begun::new(&server.server, request, r#"{"kind":"k","payload":1}"#).await;
        if code == "token_expired" {
            clock.advance(LONG * 101);
        } else {
            let target = RevocationTarget::Sub(RevocationId::parse("ada").unwrap());
            server.khala.access().revoke(Revocation::new(target, server.khala.now())).await.unwrap();
        }
        begun.end().await.problem(401, code);
        let bounds = server.khala.journal().bounds(&topic("t")).await.unwrap();
        assert_eq!(bounds.head, Watermark::ORIGIN);
    }
}

/// A body that is compressed, or says so, is refused with what is taken, on every route that reads one.
#[tokio::test]
async fn an_encoded_body_is_refused() {
    let server = running().await;
    let body = r#"{"kind":"k","payload":1}"#;
    for path in [
        "/v1/topics/t/updates",
        "/v1/updates",
        "/v1/token",
        "/internal/v1/khala/drain",
        "/internal/v1/khala/retention",
        "/internal/v1/khala/revocations",
    ] {
        for media_type in ["application/json", "application/x-ndjson"] {
            for encoding in ["gzip", "identity, br", "x"] {
                let request = server.request(Method::POST, path).header("content-type", media_type);
                let request = request.header("content-encoding", encoding);
                let answer = server.send(request.body(Full::from(body)).unwrap()).await;
                answer.problem(415, "unsupported_content_encoding");
                assert_eq!(answer.header("accept-encoding"), "identity");
            }
        }
    }
    let plain = server.post_with("/v1/topics/t/updates", body, &[("content-encoding", "Identity")]).await;
    assert_eq!(plain.status, 201, "{plain:?}");
    assert_eq!(plain.json()["last"], 1, "{plain:?}");
}

/// Past the budget of memory no more of a body is read, and no page is made; what was taken is given back.
#[tokio::test]
async fn without_memory_bodies_and_pages_are_refused() {
    let server =
        running_on(|khala| khala.with_memory(MemoryBudget::new(Some(9 << 20))), |server| server).await;
    let large = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(40_000));
    assert_eq!(server.post("/v1/topics/t/updates", &large).await.status, 201);
    assert_eq!(server.get("/v1/topics/t/updates").await.status, 200);
    let mut taken = server.khala.memory().share(MemoryPart::Frames);
    taken.grow((9 << 20) - (64 << 10)).unwrap();
    let answer = server.post("/v1/topics/t/updates", &large).await;
    answer.problem(503, "memory_limit");
    assert_eq!(answer.header("retry-after"), "1");
    for path in ["/v1/topics/t/updates", "/v1/topics/t/snapshot", "/v1/topics"] {
        server.get(path).await.problem(503, "memory_limit");
    }
    assert_eq!(server.post("/v1/topics/t/updates", ONE).await.status, 201, "a small body finds room");
    drop(taken);
    assert_eq!(server.post("/v1/topics/t/updates", &large).await.status, 201);
    for part in [MemoryPart::Answers, MemoryPart::Bodies, MemoryPart::Frames] {
        crate::support::until(|| server.khala.memory().taken_by(part) == 0).await;
    }
}
