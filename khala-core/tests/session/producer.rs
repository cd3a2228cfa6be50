//! The producer of a handle: order, room, what a failure does to what is behind it, and what is left when it is dropped.

use std::{sync::atomic::Ordering, time::Duration};

use futures::FutureExt as _;
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Batch, Conflict, Event, EventPage, Grant, Khala, Payload, Producer, PublishError, Start, Ticket,
    Timestamp, Topic, Update,
    auth::{Access, Denied},
    class::{Classes, TopicClass, TopicPattern},
    journal::Journal as _,
    publish::Refusal,
    update::PayloadHash,
};
use tokio::time::timeout;

use crate::store::{Store, roles};

const LONG: Duration = Duration::from_secs(20);

#[expect(clippy::disallowed_methods, reason = "a bound on how long a test waits")]
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("in time")
}

async fn submit(producer: &Producer, number: u64) -> Ticket {
    soon(producer.submit(Update::json("k", &number).unwrap())).await.unwrap()
}

fn head(store: &Store) -> u64 {
    let (journal, topic) = (store.journal(), Topic::from_static("t"));
    let bounds = journal.bounds(&topic).now_or_never();
    bounds.unwrap().unwrap().head.as_u64()
}

#[tokio::test]
async fn what_is_submitted_is_stored_in_order_and_announced() {
    let khala = Khala::open(roles(&Store::new(200, 200)));
    let topic = khala.topic("t").unwrap();
    let mut events = topic.subscribe(Start::head()).await.unwrap();
    let producer = topic.producer();
    let mut tickets = Vec::new();
    for number in 0..3_000 {
        tickets.push(submit(&producer, number).await);
    }
    for (ticket, seq) in tickets.into_iter().zip(1..) {
        let receipt = soon(ticket).await.unwrap();
        assert_eq!((receipt.first.as_u64(), receipt.last.as_u64()), (seq, seq));
    }
    soon(producer.flush()).await.unwrap();
    for number in 0..3_000_u64 {
        let Some(Ok(Event::Update(update))) = soon(events.next()).await else { panic!("they come") };
        assert_eq!(update.json::<u64>().unwrap(), number);
    }
}

#[tokio::test]
async fn after_a_failure_nothing_behind_it_is_stored() {
    let store = Store::new(200, 200);
    store.fail_append.store(6, Ordering::Relaxed);
    let topic = Khala::open(roles(&store)).topic("t").unwrap();
    let producer = topic.producer();
    let held = store.turns.lock().await;
    let mut tickets = Vec::new();
    for number in 0..10 {
        tickets.push(submit(&producer, number).await);
    }
    drop(held);
    for (index, ticket) in tickets.into_iter().enumerate() {
        let answer = soon(ticket).await;
        match index {
            0..5 => assert_eq!(answer.unwrap().first.as_u64(), index as u64 + 1),
            5 => assert!(matches!(answer, Err(PublishError::Failed(error)) if error.is_retryable())),
            _ => assert!(matches!(answer, Err(PublishError::NotAttempted)), "{index}: {answer:?}"),
        }
    }
    let late = soon(producer.submit(Update::json("k", &1).unwrap())).await;
    assert!(matches!(late, Err(PublishError::NotAttempted)));
    assert!(matches!(soon(producer.flush()).await, Err(PublishError::NotAttempted)));
    assert_eq!(head(&store), 5);
    let again = topic.producer();
    assert_eq!(soon(submit(&again, 5).await).await.unwrap().first.as_u64(), 6);
}

#[tokio::test]
async fn a_conflict_is_its_own_alone_and_is_never_lost() {
    let topic = Khala::open(roles(&Store::new(200, 200))).topic("t").unwrap();
    let producer = topic.producer();
    let version = |version| Update::json("k", &version).unwrap().doc_key("d").doc_version(version);
    for number in [5, 4, 6] {
        // Nobody waits for the tickets.
        drop(soon(producer.submit(version(number))).await.unwrap());
    }
    let flushed = soon(producer.flush()).await;
    assert!(matches!(flushed, Err(PublishError::Conflict(Conflict::DocVersion { given: 4, found: 5, .. }))));
    soon(producer.flush()).await.expect("it is told once");
    assert_eq!(topic.document("d").await.unwrap().unwrap().doc_version, Some(6));
    let ticket = soon(producer.submit(version(1))).await.unwrap();
    assert!(matches!(soon(ticket).await, Err(PublishError::Conflict(_))));
    soon(producer.flush()).await.expect("its ticket told it");
}

#[tokio::test]
async fn a_producer_waits_for_room_and_what_waits_is_not_submitted() {
    let store = Store::new(200, 200);
    let producer = Khala::open(roles(&store)).topic("t").unwrap().producer();
    let held = store.turns.lock().await;
    for number in 0..1_024 {
        drop(submit(&producer, number).await);
    }
    for _ in 0..3 {
        assert!(producer.submit(Update::json("k", &1).unwrap()).now_or_never().is_none());
    }
    drop(held);
    soon(producer.flush()).await.unwrap();
    assert_eq!(head(&store), 1_024);
    let bad = soon(producer.submit(Update::json("k", &1).unwrap().doc_key("\n"))).await;
    assert!(matches!(&bad, Err(PublishError::Invalid(fault)) if fault.to_string().contains("doc_key")));
}

#[tokio::test]
async fn what_was_submitted_outlives_its_producer() {
    let store = Store::new(200, 200);
    let topic = Khala::open(roles(&store)).topic("t").unwrap();
    let mut events = topic.subscribe(Start::head()).await.unwrap();
    let producer = topic.producer();
    let held = store.turns.lock().await;
    for number in 0..100 {
        drop(submit(&producer, number).await);
    }
    drop(producer);
    drop(held);
    for _ in 0..100 {
        assert!(matches!(soon(events.next()).await, Some(Ok(Event::Update(_)))));
    }
}

#[tokio::test]
async fn one_call_publishes_for_the_holder_of_a_grant() {
    let all = TopicClass {
        hashes: true,
        ..TopicClass::new("all", TopicPattern::parse("open:**").unwrap())
            .with_publish([Access::Publish.scope()])
    };
    let classes = Classes::new(vec![all]).unwrap();
    let khala = Khala::builder(roles(&Store::new(200, 200))).with_classes(classes).build();
    let grant = |scope: &'static str, ends| {
        Grant::from_verified(VerifiedClaims::new("ann", [scope], Timestamp::from_millis(ends)))
    };
    let good = grant(Access::Publish.scope(), u64::MAX);
    let (open, closed) = (Topic::from_static("open:1"), Topic::from_static("closed"));
    let batch = |hash: Option<PayloadHash>| {
        let mut update = Update::json("k", &1).unwrap();
        update.payload_hash = hash;
        Batch::try_from(update).unwrap()
    };
    khala.publish_as(&good, &open, batch(None)).await.unwrap();
    let right = PayloadHash::of(&Payload::of(&1).unwrap());
    khala.publish_as(&good, &open, batch(right)).await.unwrap();
    let wrong = PayloadHash::of(&Payload::of(&2).unwrap());
    let refused = khala.publish_as(&good, &open, batch(wrong)).await.unwrap_err();
    assert_eq!((refused.code(), refused.retry_after()), ("payload_hash_mismatch", None));
    let refused = khala.publish_as(&good, &closed, batch(None)).await.unwrap_err();
    assert!(matches!(refused, Refusal::Denied(Denied::ForbiddenTopic)), "{refused:?}");
    let reader = grant(Access::Read.scope(), u64::MAX);
    assert_eq!(khala.publish_as(&reader, &open, batch(None)).await.unwrap_err().code(), "missing_scope");
    let over = grant(Access::Publish.scope(), 1);
    assert_eq!(khala.publish_as(&over, &open, batch(None)).await.unwrap_err().code(), "token_expired");
    assert_eq!(khala.topic(&open).unwrap().bounds().await.unwrap().head.as_u64(), 2);
}

/// Pages and single updates are the same log, whenever one changes over.
#[tokio::test]
async fn a_subscription_becomes_pages_without_a_gap() {
    let topic = Khala::open(roles(&Store::new(200, 200))).topic("t").unwrap();
    for number in 0..10 {
        topic.publish(Update::json("k", &number).unwrap()).await.unwrap();
    }
    let mut events = topic.subscribe(Start::floor()).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(soon(events.next()).await, Some(Ok(Event::Update(_)))));
    }
    let at = events.cursor().unwrap();
    assert_eq!(at.watermark.as_u64(), 3);
    let mut pages = events.pages();
    let Some(Ok(EventPage::Updates(page))) = soon(pages.next()).await else { panic!("it goes on") };
    let seqs: Vec<_> = page.updates().iter().map(|update| update.seq.as_u64()).collect();
    assert_eq!(seqs, [4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(pages.cursor(), Some(page.cursor()));
}
