//! HTTP: what is tried again, under which key, and what is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use khala_client::{Client, ClientOptions, Error};
use khala_core::{
    Append, Batch, Bounds, Conflict, Cursor, Kind, NewUpdate, Payload, Token, Topic, Watermark,
    journal::{ReadLimit, Replay},
};

use crate::{
    client,
    fake::{Fake, Fault},
    topic,
};

fn batch(payloads: &[&str]) -> Batch {
    let update = |payload: &&str| NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse(payload).unwrap());
    Batch::new(payloads.iter().map(update).collect()).unwrap()
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_key() {
    let fake = Fake::start().await;
    let client = client(&fake).build().unwrap();
    fake.fault(Fault::LoseAnswer);
    fake.fault(Fault::CutBefore);
    fake.fault(Fault::Say(503, vec![], "busy"));
    fake.fault(Fault::Say(429, vec![("retry-after", "0")], r#"{"code":"rate_limited"}"#));
    let answer = client.publish(&topic(), batch(&[r#"{ "a" : 1.0 }"#, "2"])).await.unwrap();
    assert!(matches!(answer, Append::Duplicate(receipt) if receipt.last.as_u64() == 2), "{answer:?}");
    assert_eq!(fake.payloads(&topic()).await, [r#"{ "a" : 1.0 }"#, "2"]);
    let keys: Vec<_> = fake.requests().into_iter().map(|seen| seen.key.unwrap()).collect();
    assert_eq!(keys.len(), 5);
    assert!(keys.iter().all(|key| *key == keys[0]));
    let again = client.publish(&topic(), batch(&["3"])).await.unwrap();
    assert!(matches!(again, Append::Written(_)), "another batch has another key");
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let fake = Fake::start().await;
    let client = client(&fake).build().unwrap();
    fake.fault(Fault::Say(503, vec![("retry-after", "1")], ""));
    let started = Instant::now();
    client.publish(&topic(), batch(&["1"])).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_publish_that_is_too_fast_waits_as_it_is_told() {
    let fake = Fake::start().await;
    let waits = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = Arc::clone(&waits);
    let client = client(&fake).on_retry(move |retry| noted.lock().unwrap().push(retry.wait));
    let client = client.build().unwrap();
    // The exact word wins over the header, which knows whole seconds only.
    let body = r#"{"code":"khala_publish_rate_limited","detail":"too fast","retry_after_ms":150}"#;
    fake.fault(Fault::Say(429, vec![("retry-after", "1")], body));
    let answer = client.publish(&topic(), batch(&["1"])).await.unwrap();
    assert!(matches!(answer, Append::Written(_)), "{answer:?}");
    let waits = waits.lock().unwrap().clone();
    let within = Duration::from_millis(150)..Duration::from_secs(1);
    assert!(waits.len() == 1 && within.contains(&waits[0]), "{waits:?}");
    let keys: Vec<_> = fake.requests().into_iter().map(|seen| seen.key.unwrap()).collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");

    // What is too large stays so.
    let body = r#"{"code":"khala_frame_payload_too_large","detail":"too large","index":0}"#;
    fake.fault(Fault::Say(413, vec![], body));
    let error = client.publish(&topic(), batch(&["1"])).await.unwrap_err();
    assert_eq!(error.refused().unwrap().status, Some(413));
}

#[tokio::test]
async fn what_cannot_succeed_is_not_tried_again() {
    let fake = Fake::start().await;
    let client = client(&fake).build().unwrap();
    let said = r#"{"code":"missing_scope","detail":"no khala:publish"}"#;
    fake.fault(Fault::Say(403, vec![], said));
    let error = client.publish(&topic(), batch(&["1"])).await.unwrap_err();
    assert!(error.refused().is_some_and(|refused| refused.is_about_token()), "{error}");
    assert_eq!(fake.requests().len(), 1);
    client.publish(&topic(), batch(&["1"])).await.unwrap();
    let conflict = client.publish(&topic(), batch(&["2"]).with_expect(Watermark::ORIGIN)).await.unwrap();
    assert!(matches!(conflict, Append::Conflict(Conflict::Head { .. })), "{conflict:?}");
    fake.fault(Fault::Say(200, vec![], "<html>"));
    assert!(matches!(client.bounds(&topic()).await, Err(Error::Protocol(_))));
}

#[tokio::test]
async fn nobody_there_is_told_in_time_and_without_the_token() {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let retries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&retries);
    let client = Client::builder(format!("http://{address}"))
        .token(Token::new("secret-token"))
        .options(ClientOptions { retry_for: Some(Duration::from_millis(400)), ..ClientOptions::default() })
        .on_retry(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    let error = client.publish(&topic(), batch(&["1"])).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(retries.load(Ordering::Relaxed) >= 1);
    assert!(!format!("{error:?} {client:?}").contains("secret-token"));
}

#[tokio::test]
async fn a_spent_token_is_renewed_once() {
    let fake = Fake::start().await;
    let asked = Arc::new(AtomicU32::new(0));
    let source = Arc::clone(&asked);
    let client = client(&fake)
        .token_from(move || {
            let number = source.fetch_add(1, Ordering::Relaxed);
            async move { Ok(Token::new(format!("token-{number}"))) }
        })
        .build()
        .unwrap();
    let expired = || Fault::Say(401, vec![], r#"{"code":"token_expired","detail":"the token has expired"}"#);
    fake.fault(expired());
    client.bounds(&topic()).await.unwrap();
    client.bounds(&topic()).await.unwrap();
    let sent: Vec<_> = fake.requests().into_iter().map(|seen| seen.authorization.unwrap()).collect();
    assert_eq!(sent, ["Bearer token-0", "Bearer token-1", "Bearer token-1"]);
    fake.fault(expired());
    fake.fault(expired());
    let error = client.bounds(&topic()).await.unwrap_err();
    assert_eq!(error.refused().unwrap().code, "token_expired");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn topics_and_history_are_read_page_by_page() {
    let fake = Fake::start().await;
    let client = client(&fake).build().unwrap();
    let names = ["a/1", "a/2", "a/3", "b"].map(|name| Topic::parse(name).unwrap());
    for topic in &names {
        client.publish(topic, batch(&["1", "2", "3"])).await.unwrap();
    }
    let listed: Vec<_> = client.topics("a/").await.unwrap().into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(listed, names[..3]);

    let bounds: Bounds = client.bounds(&names[0]).await.unwrap();
    assert_eq!(bounds.head.as_u64(), 3);
    let handle = client.topic(&names[0]).unwrap();
    let two = ReadLimit::new(2.try_into().unwrap(), usize::MAX);
    let Replay::Page(page) = handle.history(bounds.at_floor(), two).await.unwrap() else {
        panic!("the floor can be read from");
    };
    assert_eq!((page.updates.len(), page.is_complete(), page.cursor().watermark.as_u64()), (2, false, 2));
    let ahead = Cursor::new(bounds.epoch, Watermark::new(9).unwrap());
    assert!(matches!(handle.history(ahead, two).await.unwrap(), Replay::Stale(_)));
}
