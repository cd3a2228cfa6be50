//! Reading the log over HTTP.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{Method, Request};
use http_body_util::Full;
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Grant, Timestamp, Topic,
    auth::{Access, Authorizer, Denied, Revocation, RevocationId, RevocationTarget},
    budget::MemoryPart,
    class::{Classes, Tier, TopicClass, TopicPattern},
    journal::{Journal as _, Keep},
    replay::ReplayOptions,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{Answer, LONG, running, running_on, token, topic, until};

fn seqs(page: &Value) -> Vec<u64> {
    page["updates"].as_array().unwrap().iter().map(|update| update["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn pages_concatenate() {
    let server = running().await;
    for payload in ["1", "2", "3", "4", "5"] {
        server.publish("t", payload).await;
    }
    let first = server.get("/v1/topics/t/updates?limit=2").await.json();
    let epoch = first["epoch"].as_str().unwrap().to_owned();
    let positions =
        [&first["topic"], &first["after"], &first["head"], &first["floor"], &first["replay_complete"]];
    assert_eq!(positions, [&json!("t"), &json!(0), &json!(5), &json!(0), &json!(false)]);
    assert_eq!(seqs(&first), [1, 2]);
    let rest = server.get(&format!("/v1/topics/t/updates?after=2&epoch={epoch}")).await.json();
    assert_eq!(seqs(&rest), [3, 4, 5]);
    assert_eq!(rest["replay_complete"], true);
    let end = server.get(&format!("/v1/topics/t/updates?after=5&epoch={epoch}")).await.json();
    assert_eq!((seqs(&end), &end["replay_complete"]), (vec![], &json!(true)));
}

#[tokio::test]
async fn a_stale_cursor_gets_every_fact() {
    let server = running().await;
    for payload in ["1", "2", "3"] {
        server.publish("a/b", payload).await;
    }
    let journal = server.khala.journal();
    journal
        .trim(&topic("a/b"), Keep { updates: Some(1), ..Keep::everything() }, Timestamp::default())
        .await
        .unwrap();
    let bounds = server.get("/v1/topics/a%2Fb").await.json();
    let epoch = bounds["epoch"].as_str().unwrap();
    assert_eq!(bounds, json!({"topic": "a/b", "epoch": epoch, "floor": 2, "head": 3}));

    let from_floor = server.get("/v1/topics/a%2Fb/updates").await.json();
    assert_eq!((seqs(&from_floor), &from_floor["after"]), (vec![3], &json!(2)));

    let stale = server.get(&format!("/v1/topics/a%2Fb/updates?after=1&epoch={epoch}")).await;
    let problem = stale.problem(410, "stale_cursor");
    assert_eq!(problem["reason_codes"], json!(["retention_floor_breach"]));
    let facts =
        [&problem["resume_after"], &problem["retention_floor"], &problem["head"], &problem["replay_lag"]];
    assert_eq!(facts, [1, 2, 3, 2].map(|n| json!(n)).each_ref());
    assert_eq!(problem["snapshot"], "/v1/topics/a%2Fb/snapshot");
    for (query, reason) in [
        (format!("after=9&epoch={epoch}"), "cursor_ahead"),
        ("after=1&epoch=0000000000000000".to_owned(), "epoch_mismatch"),
    ] {
        let stale = server.get(&format!("/v1/topics/a%2Fb/updates?{query}")).await;
        assert_eq!(stale.problem(410, "stale_cursor")["reason_codes"], json!([reason]));
    }
}

#[tokio::test]
async fn history_over_http_takes_turns_with_everybody_who_reads_it() {
    let one = ReplayOptions { concurrent_reads: NonZeroUsize::MIN, ..ReplayOptions::default() };
    let server = Arc::new(running_on(|khala| khala.with_replays(one), |server| server).await);
    server.publish("t", "1").await;
    for path in ["/v1/topics/t/updates", "/v1/topics/t/snapshot", "/v1/topics"] {
        let somebody = Grant::from_verified(VerifiedClaims::new(
            "bob",
            ["khala:read"],
            Timestamp::from_millis(u64::MAX),
        ));
        let turn = server.khala.acquire_read_permit(&somebody).await;
        let waited = server.khala.stats().counters().replays_queued;
        let asked = tokio::spawn({
            let server = Arc::clone(&server);
            async move { server.get(path).await }
        });
        let khala = server.khala.clone();
        until(move || khala.stats().counters().replays_queued > waited).await;
        assert!(!asked.is_finished(), "it is not its turn");
        assert_eq!(server.khala.memory().taken_by(MemoryPart::Answers), 0, "who waits holds nothing");
        drop(turn);
        assert_eq!(timeout(LONG, asked).await.expect("it has its turn").unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_token_that_is_revoked_while_its_read_waits_reads_nothing() {
    let at = "/v1/topics/t/updates?after=0&epoch=0000000000000000&published_at=1";
    for path in ["/v1/topics/t/updates", at, "/v1/topics/t/snapshot", "/v1/topics"] {
        let one = ReplayOptions { concurrent_reads: NonZeroUsize::MIN, ..ReplayOptions::default() };
        let server = Arc::new(running_on(|khala| khala.with_replays(one), |server| server).await);
        server.publish("t", "1").await;
        let khala = server.khala.clone();
        let somebody = Grant::from_verified(VerifiedClaims::new(
            "bob",
            ["khala:read"],
            Timestamp::from_millis(u64::MAX),
        ));
        let turn = khala.acquire_read_permit(&somebody).await;
        let asked = tokio::spawn(async move { server.get(path).await });
        until(|| khala.stats().counters().replays_queued > 0).await;
        let target = RevocationTarget::Sub(RevocationId::parse("ada").unwrap());
        khala.access().revoke(Revocation::new(target, khala.now())).await.unwrap();
        drop(turn);
        timeout(LONG, asked).await.expect("it has its turn").unwrap().problem(401, "token_revoked");
    }
}

#[tokio::test]
async fn a_budget_is_told_and_refuses_no_page_alone() {
    let class = |name: &str, shape: &str| {
        TopicClass::new(name, TopicPattern::parse(shape).unwrap()).with_read(["khala:read"])
    };
    let narrow = TopicClass { replay_budget: Some(2), tier: Tier::Warm, ..class("narrow", "n:*") };
    let classes = Classes::new(vec![
        narrow,
        TopicClass { replay_budget: None, tier: Tier::Cold, ..class("wide", "w:*") },
    ])
    .unwrap();
    let server = running_on(|khala| khala.with_classes(classes), |server| server).await;
    for name in ["n:1", "w:1"] {
        for _ in 0..5 {
            server.publish(name, "1").await;
        }
    }
    let epoch = server.get("/v1/topics/n:1").await.json()["epoch"].as_str().unwrap().to_owned();
    let page = server.get(&format!("/v1/topics/n:1/updates?after=0&epoch={epoch}")).await;
    assert_eq!(seqs(&page.json()), [1, 2, 3, 4, 5], "it is 5 behind, and 2 are the budget");

    let journal = server.khala.journal();
    for name in ["n:1", "w:1"] {
        journal
            .trim(&topic(name), Keep { updates: Some(4), ..Keep::everything() }, Timestamp::default())
            .await
            .unwrap();
    }
    let facts = async |name: &str| {
        let epoch =
            server.get(&format!("/v1/topics/{name}")).await.json()["epoch"].as_str().unwrap().to_owned();
        let stale = server.get(&format!("/v1/topics/{name}/updates?after=0&epoch={epoch}")).await;
        let problem = stale.problem(410, "stale_cursor");
        ["reason_codes", "replay_lag", "replay_budget_events", "qos_tier"].map(|fact| problem[fact].clone())
    };
    let both = json!(["retention_floor_breach", "replay_budget_exceeded"]);
    assert_eq!(facts("n:1").await, [both, json!(5), json!(2), json!("warm")]);
    let one = json!(["retention_floor_breach"]);
    assert_eq!(facts("w:1").await, [one, json!(5), json!(null), json!("cold")]);
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let server = running().await;
    for (query, field) in [
        ("after=1", "after"),
        ("epoch=0000000000000001", "epoch"),
        ("after=x&epoch=0000000000000001", "after"),
        ("after=9007199254740992&epoch=0000000000000001", "after"),
        ("after=1&epoch=xyz", "epoch"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=1&limit=2", "limit"),
        ("aftr=1", "aftr"),
    ] {
        let problem =
            server.get(&format!("/v1/topics/t/updates?{query}")).await.problem(400, "invalid_query");
        assert_eq!(problem["field"], field, "{query}");
    }
    server.get("/v1/topics/t?limit=1").await.problem(400, "invalid_query");
    server.get("/v1/topics/%3Aa").await.problem(400, "invalid_topic");
    server.get("/v1/topics/%ff").await.problem(400, "invalid_path");
}

#[tokio::test]
async fn topics_are_listed_in_pages() {
    let server = running().await;
    for name in ["b", "a:1", "a:2", "a:3", "c"] {
        server.publish(name, "1").await;
    }
    let mut names = Vec::new();
    let mut next = Some("/v1/topics?prefix=a%3A&limit=2".to_owned());
    while let Some(path) = next {
        let page = server.get(&path).await.json();
        names.extend(page["topics"].as_array().unwrap().iter().map(|entry| entry["topic"].clone()));
        next = page["next"].as_str().map(str::to_owned);
        assert_eq!(page["complete"], next.is_none());
    }
    assert_eq!(names, ["a:1", "a:2", "a:3"]);
    assert_eq!(server.get("/v1/topics").await.json()["topics"].as_array().unwrap().len(), 5);
    server.get("/v1/topics?after=%3A").await.problem(400, "invalid_query");
}

#[tokio::test]
async fn a_list_of_topics_holds_what_the_token_opens() {
    let class = |name: &str, pattern: &str| {
        TopicClass::new(name, TopicPattern::parse(pattern).unwrap()).with_read([Access::Read.scope()])
    };
    let classes = Classes::new(vec![class("own", "user:{sub}:**"), class("open", "news")]).unwrap();
    let server = running_on(|khala| khala.with_classes(classes), |server| server).await;
    // "ada" holds every token of these tests.
    for name in ["news", "secret", "user:ada:1", "user:ada:2", "user:adam:1", "user:bob:1", "user:zoe:1"] {
        server.publish(name, "1").await;
    }
    let (mut names, mut next) = (Vec::new(), Some("/v1/topics?limit=1".to_owned()));
    while let Some(path) = next {
        let page = server.get(&path).await;
        for others in ["adam", "bob", "zoe", "secret"] {
            assert!(!page.text.contains(others), "{page:?}");
        }
        let page = page.json();
        names.extend(page["topics"].as_array().unwrap().iter().map(|entry| entry["topic"].clone()));
        next = page["next"].as_str().map(str::to_owned);
        assert_eq!(page["complete"], next.is_none());
    }
    assert_eq!(names, ["news", "user:ada:1", "user:ada:2"]);
    server.get("/v1/topics/user:bob:1").await.problem(403, "owner_mismatch");
    server.get("/v1/topics/secret").await.problem(403, "forbidden_topic");
    server.get("/v1/topics/nowhere").await.problem(403, "forbidden_topic");
}

#[tokio::test]
async fn others_topics_are_in_nobodys_way() {
    let class = |name: &str, pattern: &str, scope: &str| {
        TopicClass::new(name, TopicPattern::parse(pattern).unwrap()).with_read([scope])
    };
    let read = Access::Read.scope();
    let classes = Classes::new(vec![
        class("first", "a:*", read),
        class("last", "z:*", read),
        class("others", "**", "others"),
    ]);
    let server = running_on(|khala| khala.with_classes(classes.unwrap()), |server| server).await;
    server.publish("a:1", "1").await;
    for n in 0..10_500 {
        server.publish(&format!("b:{n}"), "1").await;
    }
    for name in ["z:1", "z:2"] {
        server.publish(name, "1").await;
    }
    for limit in [1, 100] {
        let (mut names, mut next) = (Vec::new(), Some(format!("/v1/topics?limit={limit}")));
        while let Some(path) = next {
            let page = server.get(&path).await;
            assert!(page.status == 200 && !page.text.contains("b:"), "{page:?}");
            let page = page.json();
            names.extend(page["topics"].as_array().unwrap().iter().map(|entry| entry["topic"].clone()));
            next = page["next"].as_str().map(str::to_owned);
        }
        assert_eq!(names, ["a:1", "z:1", "z:2"]);
    }
    assert_eq!(server.get("/v1/topics?prefix=b").await.json(), json!({"topics": [], "complete": true}));
}

#[tokio::test]
async fn a_list_looks_at_a_bounded_number_of_topics() {
    let class = |name: &str, pattern: &str, scope: &str| {
        TopicClass::new(name, TopicPattern::parse(pattern).unwrap()).with_read([scope])
    };
    let classes =
        Classes::new(vec![class("last", "z:*", Access::Read.scope()), class("others", "**", "others")]);
    let server = running_on(|khala| khala.with_classes(classes.unwrap()), |server| server).await;
    for n in 0..22_000 {
        server.publish(&format!("b:{n}"), "1").await;
    }
    server.publish("z:1", "1").await;
    let refused = server.get("/v1/topics").await;
    let problem = refused.problem(400, "prefix_too_short");
    assert_eq!(
        (&problem["field"], refused.header("retry-after")),
        (&json!("prefix"), ""),
        "the next try would be the same"
    );
    assert_eq!(server.get("/v1/topics?prefix=z").await.json()["topics"][0]["topic"], "z:1");
}

/// Takes two seconds to say who may read what.
#[derive(Debug)]
struct Slow {
    opens: &'static str,
}

#[async_trait]
impl Authorizer for Slow {
    async fn authorize(&self, _: &Grant, topic: &Topic, _: Access) -> Result<(), Denied> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if topic.as_str().starts_with(self.opens) { Ok(()) } else { Err(Denied::ForbiddenTopic) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_takes_five_seconds_at_most() {
    for (opens, pages) in [("t:", 5), ("t:9", 0)] {
        let server =
            running_on(|khala| khala.with_authorizer(Arc::new(Slow { opens })), |server| server).await;
        for n in 0..10 {
            server.publish(&format!("t:{n}"), "1").await;
        }
        let get = async |path: &str| {
            let request = server.request(Method::GET, path).body(Full::<bytes::Bytes>::default()).unwrap();
            let started = tokio::time::Instant::now();
            let answer = Answer::of(server.server.handle(request).await).await;
            assert!(started.elapsed().as_secs() <= 5, "in the paused clock's own time");
            answer
        };
        if pages == 0 {
            let late = get("/v1/topics").await;
            late.problem(503, "unavailable");
            assert_eq!(late.header("retry-after"), "1");
            continue;
        }
        let (mut names, mut next) = (Vec::new(), Some("/v1/topics".to_owned()));
        let mut found = 0;
        while let Some(path) = next {
            let page = get(&path).await.json();
            names.extend(page["topics"].as_array().unwrap().iter().map(|entry| entry["topic"].clone()));
            next = page["next"].as_str().map(str::to_owned);
            found += 1;
        }
        assert_eq!((names.len(), found), (10, pages), "what was found in time is told, and the rest then");
    }
}

#[tokio::test]
async fn reading_takes_its_scope() {
    let server = running().await;
    let publisher = token(&[Access::Publish], LONG);
    server.publish("t", "1").await;
    for path in ["/v1/topics/t", "/v1/topics/t/updates", "/v1/topics/t/snapshot", "/v1/topics/t/documents/d"]
    {
        let request = |authorization: &str| {
            let request =
                Request::builder().uri(path).header("host", "x").header("authorization", authorization);
            request.body(Full::default()).unwrap()
        };
        let problem =
            server.send(request(&format!("Bearer {publisher}"))).await.problem(403, "missing_scope");
        assert_eq!(problem["scope"], "khala:read");
        server.send(request("Bearer ")).await.problem(401, "missing_token");
    }
    // A list is for those who may read something.
    let request = Request::builder().uri("/v1/topics").header("host", "x");
    let request =
        request.header("authorization", format!("Bearer {publisher}")).body(Full::default()).unwrap();
    let problem = server.send(request).await.problem(403, "missing_scope");
    assert_eq!(problem["scope"], "khala:read");
    assert_eq!(server.get("/v1/topics").await.json()["topics"][0]["topic"], "t");
}

#[tokio::test]
async fn what_is_no_route_and_what_it_does_not_take() {
    let server = running().await;
    for path in ["/", "/v1", "/v2/topics", "/v1/topics/a//b/updates", "/v1/topics/t/updates/"] {
        server.get(path).await.problem(404, "unknown_route");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/topics/t/updates", "GET, HEAD, POST"),
        (Method::POST, "/v1/topics/t", "GET, HEAD"),
        (Method::OPTIONS, "/v1/topics", "GET, HEAD"),
        (Method::POST, "/sync/v1/websocket", "GET"),
        (Method::from_bytes(b"BREW").unwrap(), "/healthz", "GET, HEAD"),
    ] {
        let answer = server.send(server.request(method, path).body(Full::default()).unwrap()).await;
        answer.problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), allow);
    }
    let head = server.send(server.request(Method::HEAD, "/v1/topics/t").body(Full::default()).unwrap()).await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    assert_ne!(head.header("content-length"), "0");
}
