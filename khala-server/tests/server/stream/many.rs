//! `POST /v1/updates`: lines that name their topics.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use http::{Method, StatusCode};
use khala_core::{
    Grant, Topic,
    admission::Rate,
    auth::{Access, Authorizer, Denied},
    class::{Classes, TopicClass, TopicPattern},
    journal::Journal as _,
};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{NDJSON, Producer, code, line, on_a_file, running, unlimited};
use crate::support::{LONG, Running, running_on, token, topic};

const MANY: &str = "/v1/updates";

fn to(topic: &str, payload: impl std::fmt::Display) -> String {
    format!("{{\"topic\":\"{topic}\",\"kind\":\"k\",\"payload\":{payload}}}\n")
}

async fn all(server: &Running, text: String) -> Vec<serde_json::Value> {
    let mut producer = Producer::to(&server.address, MANY).await;
    producer.send(text);
    producer.end();
    producer.rest().await
}

async fn heads(server: &Running, topics: &[&str]) -> Vec<u64> {
    let mut heads = Vec::new();
    for name in topics {
        heads.push(server.khala.journal().bounds(&topic(name)).await.unwrap().head.as_u64());
    }
    heads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_topics_share_commits_and_keep_their_orders() {
    const LINES: u64 = 10_000;
    const TOPICS: u64 = 1_000;
    let (_folder, store, address) = on_a_file().await;
    let text: String = (0..LINES).map(|number| to(&format!("t{}", number % TOPICS), number)).collect();
    let mut producer = Producer::to(&address, MANY).await;
    producer.send(text);
    producer.end();
    let answers = producer.rest().await;
    assert_eq!(answers.len() as u64, LINES);
    for (answer, number) in answers.iter().zip(0..) {
        let (name, seq) = (format!("t{}", number % TOPICS), number / TOPICS + 1);
        assert_eq!(
            (&answer["line"], &answer["topic"], &answer["first"], &answer["last"], &answer["duplicate"]),
            (&json!(number + 1), &json!(name), &json!(seq), &json!(seq), &json!(false)),
            "{answer}"
        );
    }
    let stats = store.stats();
    assert_eq!(stats.updates, LINES);
    assert!(stats.commits <= LINES / 10, "{stats:?}");
}

#[tokio::test]
async fn lines_name_their_topics_and_those_of_one_topic_do_not() {
    let server = running().await;
    for (bad, named) in [
        (line(2), "missing field `topic`"),
        (to("no topic", 2), "topic"),
        ("{\"topic\":7,\"kind\":\"k\",\"payload\":1}\n".to_owned(), "topic"),
        ("{\"topic\":\"a\",\"topic\":\"b\",\"kind\":\"k\",\"payload\":1}\n".to_owned(), "topic"),
    ] {
        let answers = all(&server, [to("a", 1), bad.clone(), to("a", 3)].concat()).await;
        assert_eq!((answers.len(), code(&answers[1])), (2, "invalid"), "{bad}: {answers:?}");
        assert!(answers[1]["error"]["detail"].as_str().unwrap().contains(named), "{answers:?}");
    }
    assert_eq!(heads(&server, &["a"]).await, [4], "the first line of each");
    let answers = Producer::all(&server.address, [line(1), to("t", 2), line(3)].concat()).await;
    assert_eq!((answers.len(), code(&answers[1])), (2, "invalid"), "{answers:?}");
    assert_eq!(answers[1]["error"]["field"], "topic");
    assert!(answers[0].get("topic").is_none(), "it is in the path");
}

#[tokio::test]
async fn a_topic_that_is_not_open_ends_the_stream() {
    let mine = TopicClass {
        publish_rate: None,
        ..TopicClass::new("mine", TopicPattern::parse("user:{sub}").unwrap()).with_publish(["khala:publish"])
    };
    let closed = TopicClass::new("closed", TopicPattern::parse("closed").unwrap());
    let special = TopicClass::new("special", TopicPattern::parse("special").unwrap()).with_publish(["s"]);
    let mut classes = vec![mine, closed, special];
    classes.extend(unlimited().iter().cloned());
    let classes = Classes::new(classes).unwrap();
    let server = running_on(|khala| khala.with_classes(classes), |server| server).await;
    for (name, expected) in
        [("user:eve", "owner_mismatch"), ("closed", "forbidden_topic"), ("special", "missing_scope")]
    {
        let text = [to("user:ada", 1), to(name, 2), to("user:ada", 3)].concat();
        let answers = all(&server, text).await;
        assert_eq!((answers.len(), code(&answers[1])), (2, expected), "{answers:?}");
        assert_eq!((&answers[1]["line"], &answers[1]["error"]["status"]), (&json!(2), &json!(403)));
    }
    assert_eq!(heads(&server, &["user:ada", "user:eve", "closed", "special"]).await, [3, 0, 0, 0]);
}

/// Answers for `slow` when it is let to, and counts how often it is asked.
#[derive(Debug)]
struct Slow {
    asked: AtomicUsize,
    leave: Semaphore,
}

#[async_trait]
impl Authorizer for Slow {
    async fn authorize(&self, _: &Grant, topic: &Topic, access: Access) -> Result<(), Denied> {
        assert_eq!(access, Access::Publish);
        self.asked.fetch_add(1, Ordering::SeqCst);
        if topic.as_str() == "slow" {
            self.leave.acquire().await.unwrap().forget();
        }
        Ok(())
    }
}

#[tokio::test]
async fn while_it_is_asked_about_a_topic_what_was_before_is_answered() {
    let slow = Arc::new(Slow { asked: AtomicUsize::new(0), leave: Semaphore::new(0) });
    let authorizer = Arc::clone(&slow);
    let server =
        running_on(|khala| khala.with_classes(unlimited()).with_authorizer(authorizer), |server| server)
            .await;
    let mut producer = Producer::to(&server.address, MANY).await;
    producer.send([to("a", 1), to("a", 2), to("slow", 3), to("a", 4), to("slow", 5)].concat());
    for number in 1..=2 {
        assert_eq!(producer.hear().await.unwrap()["line"], number);
    }
    assert_eq!(heads(&server, &["a", "slow"]).await, [2, 0], "what is behind it waits");
    slow.leave.add_permits(1);
    for number in 3..=5 {
        assert_eq!(producer.hear().await.unwrap()["line"], number);
    }
    producer.end();
    assert_eq!(producer.hear().await, None);
    assert_eq!(slow.asked.load(Ordering::SeqCst), 2, "once for each topic");
    assert_eq!(heads(&server, &["a", "slow"]).await, [3, 2]);
}

#[tokio::test]
async fn each_topic_has_the_rate_and_the_bounds_of_its_class() {
    let class = |name: &str| TopicClass::new(name, TopicPattern::parse(name).unwrap());
    let rate = Rate::new(50.try_into().unwrap(), 5.try_into().unwrap());
    let limited = TopicClass { publish_rate: Some(rate), ..class("limited").with_publish(["khala:publish"]) };
    let small = TopicClass {
        payload_bytes: Some(10),
        hashes: true,
        ..class("small").with_publish(["khala:publish"])
    };
    let mut classes = vec![limited, small];
    classes.extend(unlimited().iter().cloned());
    let classes = Classes::new(classes).unwrap();
    let server = running_on(|khala| khala.with_classes(classes), |server| server).await;
    let begun = std::time::Instant::now();
    let text: String = (0..15).map(|number| [to("limited", number), to("free", number)].concat()).collect();
    let answers = all(&server, text).await;
    assert_eq!(answers.len(), 30);
    assert!(answers.iter().all(|answer| answer["last"].is_u64()), "{answers:?}");
    assert!(begun.elapsed() >= std::time::Duration::from_millis(150), "ten of them waited");

    let large = format!("\"{}\"", "x".repeat(20));
    let answers = all(&server, [to("free", &large), to("small", &large), to("free", 1)].concat()).await;
    assert_eq!((answers.len(), code(&answers[1])), (2, "khala_frame_payload_too_large"), "{answers:?}");
    let hashed = all(&server, to("small", 1)).await;
    assert!(hashed[0]["last"].is_u64(), "{hashed:?}");
    let wrong = format!("1,\"payload_hash\":\"sha256:{}\"", "0".repeat(64));
    let answers = all(&server, [to("free", &wrong), to("small", &wrong)].concat()).await;
    assert_eq!((answers.len(), code(&answers[1])), (2, "payload_hash_mismatch"), "{answers:?}");
}

#[tokio::test]
async fn a_dedup_is_one_of_its_topic() {
    let server = running().await;
    let keyed = |topic: &str| to(topic, "1,\"dedup\":\"k\"");
    let answers = all(&server, [keyed("a"), keyed("b"), keyed("a")].concat()).await;
    let duplicates: Vec<_> = answers.iter().map(|answer| answer["duplicate"] == true).collect();
    assert_eq!(duplicates, [false, false, true]);
    let by_topic: HashMap<_, _> =
        answers.iter().map(|answer| (answer["topic"].as_str().unwrap(), &answer["first"])).collect();
    assert_eq!(by_topic, HashMap::from([("a", &json!(1)), ("b", &json!(1))]));
}

#[tokio::test]
async fn only_a_stream_is_taken_and_only_with_a_token() {
    let server = running().await;
    let body = || http_body_util::Full::from(to("a", 1));
    let json = server.request(Method::POST, MANY).header("content-type", "application/json");
    server.send(json.body(body()).unwrap()).await.problem(415, "unsupported_media_type");
    let get = server.send(server.request(Method::GET, MANY).body(body()).unwrap()).await;
    get.problem(405, "method_not_allowed");
    assert_eq!(get.header("allow"), "POST");
    let stranger = http::Request::post(MANY).header("host", "x").header("content-type", NDJSON);
    server.send(stranger.body(body()).unwrap()).await.problem(401, "missing_token");
    let nothing = format!("Bearer {}", token(&[], LONG));
    let request = http::Request::post(MANY)
        .header("host", "x")
        .header("content-type", NDJSON)
        .header("authorization", nothing);
    let answer = server.send(request.body(body()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK, "which topics it may publish to, their lines ask");
    assert!(answer.text.contains("missing_scope"), "{answer:?}");
    assert_eq!(heads(&server, &["a"]).await, [0]);
}
