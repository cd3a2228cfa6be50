//! What one subject and one address may do over HTTP.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use khala_core::{Access, AdmissionOptions, Classes, Rate, TopicClass, TopicPattern};
use khala_server::Limits;
use serde_json::{Value, json};

use crate::support::{Answer, Hand, LONG, Running, running_on, token_of};

const ONE: &str = r#"{"kind":"k","payload":1}"#;

fn rate(per_second: u32, burst: u32) -> Option<Rate> {
    Some(Rate::new(per_second.try_into().unwrap(), burst.try_into().unwrap()))
}

fn open() -> Classes {
    let all = TopicClass::new("all", TopicPattern::parse("**").unwrap())
        .with_publish(["khala:publish"])
        .with_read(["khala:read"])
        .with_publish_rate(None);
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
    let (own, limits) = (clock.clone(), limits.with_new_topics_per_principal(rate(2, 3)));
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
        let limits = AdmissionOptions::unlimited().with_new_topics_per_principal(rate);
        let patience = Limits::default().with_body_timeout(Duration::from_millis(500));
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
    let (own, limits) = (clock.clone(), limits.with_publishes_per_principal(rate(10, 5)));
    let server = running_on(
        |khala| khala.with_clock(own).with_classes(open()).with_admission(limits),
        |server| server,
    )
    .await;
    let batch = format!(r#"{{"updates":[{}]}}"#, vec![ONE; 10].join(","));
    let answer = publish(&server, "ada", "t0", batch, "application/json").await;
    assert_eq!(answer.status, 201, "there was room for the first");
    let problem = post(&server, "ada", "t1").await.problem(429, "khala_publish_rate_limited");
    let facts = ["limited_by", "limit_per_second", "retry_after_ms"].map(|name| problem[name].clone());
    assert_eq!(facts, [json!("subject"), json!(10), json!(600)]);
    assert_eq!(post(&server, "bob", "t1").await.status, 201);
    clock.advance(Duration::from_millis(600));
    assert_eq!(post(&server, "ada", "t1").await.status, 201);
}
