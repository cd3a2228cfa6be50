//! Who stops halfway holds nobody up: a client that takes nothing, a stream that is not polled on, a read that
//! somebody still has in hand.

#![expect(
    clippy::disallowed_methods,
    reason = "a real task stands for the connection, and a bound for a failure"
)]

use std::{
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt as _, Sink, Stream};
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Append, Batch, Bounds, Cursor, DocKey, Error, Grant, Khala, Kind, MemoryStore, NewUpdate, Payload, Start,
    Subscription, Timestamp, Topic, Update, Watermark,
    connection::{Progress, Received, Sent, Transport},
    documents::{Documents, Snapshot, SnapshotFrom},
    journal::{DueAfter, DuePage, Journal, Keep, ReadFrom, ReadLimit, Replay, Settled, TopicPage, Trimmed},
    tail::{FollowResult, Freshness, TailJournal, TailOptions},
    wire::Serializer,
};
use tokio::{
    sync::{Notify, mpsc},
    task::yield_now,
    time::timeout,
};

use crate::clock::steady;

const NOW: Timestamp = Timestamp::from_millis(1_000);
/// Far longer than anything here takes; only a failure waits for it.
const LONG: Duration = Duration::from_secs(20);

/// A journal that reads at once and, while its gate is closed, keeps the answer back.
#[derive(Debug, Default)]
struct Gated {
    inner: MemoryStore,
    closed: AtomicBool,
    reading: Notify,
    gate: Notify,
}

impl Gated {
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.gate.notify_one();
    }
}

#[async_trait]
impl Journal for Gated {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        self.inner.append(topic, batch, now).await
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        let answer = self.inner.read(topic, start, limit).await;
        if self.closed.load(Ordering::SeqCst) {
            self.reading.notify_one();
            self.gate.notified().await;
        }
        answer
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.inner.check_writable().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        self.inner.bounds(topic).await
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.inner.trim(topic, keep, now).await
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        self.inner.plan_trim(topic, keep, now).await
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        self.inner.topics(prefix, after, limit).await
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        self.inner.due(rules, after, until, limit).await
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        self.inner.settle(rules, settled).await
    }
}

#[async_trait]
impl Documents for Gated {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        self.inner.document(topic, key).await
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        self.inner.snapshot(topic, from, limit).await
    }
}

/// A client that takes frames until it is stuck.
struct Client {
    says: mpsc::UnboundedReceiver<Received>,
    stuck: Arc<AtomicBool>,
    taken: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    progress: Progress,
}

impl Client {
    fn poll_take(&self) -> Poll<Result<(), ()>> {
        if self.stuck.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream for Client {
    type Item = Received;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        self.says.poll_recv(cx)
    }
}

impl Sink<Sent> for Client {
    type Error = ();

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        self.poll_take()
    }

    fn start_send(self: Pin<&mut Self>, _: Sent) -> Result<(), ()> {
        self.taken.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        self.poll_take()
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }
}

impl Transport for Client {
    fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

fn topic() -> Topic {
    Topic::parse("t").unwrap()
}

fn updates(count: usize) -> Batch {
    let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse(r#""0123456789""#).unwrap());
    Batch::new(vec![update; count]).unwrap()
}

/// Another node appends, and tells this one.
async fn append_elsewhere(journal: &Gated, khala: &Khala) {
    let append = journal.append(&topic(), updates(1), NOW).await.unwrap();
    let Append::Written(receipt) = append else { panic!("nothing conflicts") };
    khala.announce(&topic(), &receipt).await;
}

async fn follow(khala: &Khala) -> Subscription {
    khala.topic(topic()).unwrap().subscribe(Start::head()).await.unwrap()
}

async fn origin(tail: &TailJournal) -> Cursor {
    Cursor::new(tail.bounds(&topic()).await.unwrap().epoch, Watermark::ORIGIN)
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_nobody() {
    let journal = Arc::new(Gated::default());
    let khala = Khala::builder(crate::store::roles(&journal)).build();
    let (say, says) = mpsc::unbounded_channel();
    let (stuck, taken, refused) =
        (Arc::<AtomicBool>::default(), Arc::default(), Arc::<AtomicUsize>::default());
    let client = Client {
        says,
        stuck: Arc::clone(&stuck),
        taken: Arc::clone(&taken),
        refused: Arc::clone(&refused),
        progress: Progress::new(),
    };
    let grant =
        Grant::from_verified(VerifiedClaims::new("b", ["khala:read"], Timestamp::from_millis(u64::MAX)));
    tokio::spawn(khala.connect(grant, None, Serializer::V2).unwrap().run(client));
    say.send(Received::Text(r#"["1","1","t","phx_join",{}]"#.into())).unwrap();
    while taken.load(Ordering::SeqCst) == 0 {
        yield_now().await;
    }
    let mut other = follow(&khala).await;
    // The client begins the read that all share, and takes nothing while its heartbeat is to be answered.
    journal.close();
    append_elsewhere(&journal, &khala).await;
    journal.reading.notified().await;
    stuck.store(true, Ordering::SeqCst);
    say.send(Received::Text(r#"[null,"2","phoenix","heartbeat",{}]"#.into())).unwrap();
    while refused.load(Ordering::SeqCst) == 0 {
        yield_now().await;
    }
    journal.open();
    timeout(LONG, other.next()).await.expect("another subscriber gets the update").unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_is_not_polled_on_holds_up_nobody() {
    let journal = Arc::new(Gated::default());
    let khala = Khala::builder(crate::store::roles(&journal)).build();
    let mut idle = follow(&khala).await;
    assert!(idle.next().now_or_never().is_none());
    let mut other = follow(&khala).await;
    journal.close();
    append_elsewhere(&journal, &khala).await;
    assert!(idle.next().now_or_never().is_none(), "it began the read, and is left alone with it");
    journal.open();
    timeout(LONG, other.next()).await.expect("another subscriber gets the update").unwrap().unwrap();
}

#[tokio::test]
async fn a_read_that_somebody_holds_answers_nobody_who_came_later() {
    let journal = Arc::new(Gated::default());
    let tail =
        TailJournal::new(journal.clone(), TailOptions { topic_bytes: 10_000, ..TailOptions::default() });
    let (start, topic) = (origin(&tail).await, topic());
    journal.close();
    let mut held = Box::pin(tail.follow(&topic, start, Freshness::default(), steady(NOW)));
    assert!((&mut held).now_or_never().is_none());
    journal.open();
    // An hour passes, others follow from the head, and the ring moves on.
    let later = steady(NOW).plus(Duration::from_secs(3600));
    let wanted = Freshness { head: None, not_older_than: later };
    let mut cursor = tail.recent_bounds(&topic, later, later).await.unwrap().0.at_head();
    for _ in 0..50 {
        tail.append(&topic, updates(50), NOW).await.unwrap();
        let FollowResult::Page { page, .. } = tail.follow(&topic, cursor, wanted, later).await.unwrap()
        else {
            panic!("there are 50 updates")
        };
        cursor = page.page().cursor();
    }
    for _ in 0..3 {
        let wanted = Freshness { head: Some(cursor), not_older_than: later };
        let followed = tail.follow(&topic, start, wanted, later).await.unwrap();
        assert!(matches!(followed, FollowResult::Page { .. }), "2,500 updates are there: {followed:?}");
    }
    drop(held);
}

#[tokio::test]
async fn a_large_exact_read_is_no_frame() {
    let tail = TailJournal::new(Arc::new(MemoryStore::new()), TailOptions::default());
    let topic = topic();
    let start = tail.recent_bounds(&topic, steady(NOW), steady(NOW)).await.unwrap().0.at_head();
    tail.append(&topic, updates(600), NOW).await.unwrap();
    let limit = ReadLimit::new(NonZeroUsize::new(1_000).unwrap(), 2 << 20);
    tail.read(&topic, start.into(), limit).await.unwrap();
    let FollowResult::Page { page, .. } =
        tail.follow(&topic, start, Freshness::default(), steady(NOW)).await.unwrap()
    else {
        panic!("there are 600 updates")
    };
    assert_eq!(page.page().updates.len(), 200);
}

#[tokio::test]
async fn a_head_that_was_told_is_not_taken_back_by_a_read_that_began_before() {
    let journal = Arc::new(Gated::default());
    let (tail, topic) = (TailJournal::new(journal.clone(), TailOptions::default()), topic());
    tail.append(&topic, updates(5), NOW).await.unwrap();
    let start = origin(&tail).await;
    journal.close();
    let mut cold = Box::pin(tail.follow(&topic, start, Freshness::default(), steady(NOW)));
    assert!((&mut cold).now_or_never().is_none());
    tail.append(&topic, updates(2), NOW).await.unwrap();
    let seen = tail.bounds(&topic).await.unwrap().head;
    journal.open();
    let FollowResult::Page { bounds, .. } = cold.await.unwrap() else { panic!("there are updates") };
    assert_eq!(bounds.head, seen);
}

#[tokio::test]
async fn a_head_that_a_listing_told_is_not_taken_back() {
    let journal = Arc::new(Gated::default());
    let (tail, topic) = (TailJournal::new(journal.clone(), TailOptions::default()), topic());
    tail.append(&topic, updates(5), NOW).await.unwrap();
    let start = origin(&tail).await;
    tail.follow(&topic, start, Freshness::default(), steady(NOW)).await.unwrap();
    journal.append(&topic, updates(2), NOW).await.unwrap(); // another process
    let seen = tail.topics("", None, NonZeroUsize::MIN).await.unwrap().topics[0].1.head;
    let FollowResult::Page { bounds, .. } =
        tail.follow(&topic, start, Freshness::default(), steady(NOW)).await.unwrap()
    else {
        panic!("there are updates")
    };
    assert_eq!(bounds.head, seen);
}
