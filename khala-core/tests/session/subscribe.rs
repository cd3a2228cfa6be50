//! A subscription within the process, as far as it differs from a connection: how it is polled, and given up. What is the same for
//! both is tried in `following.rs`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::FutureExt as _;
use khala_core::{
    Append, Batch, Cursor, DocKey, EventPage, Khala, Kind, NewUpdate, Payload, Start, Timestamp, Topic,
    Update,
    documents::{Documents as _, Snapshot, SnapshotFrom},
    event::Pages,
    journal::{Journal as _, Keep},
    position::StaleReason,
};

use crate::{
    clock::{Task, TestClock},
    store::Store,
};

struct Rig {
    khala: Khala,
    store: Arc<Store>,
    clock: Arc<TestClock>,
    topic: Topic,
}

impl Rig {
    fn announced() -> Self {
        let (store, clock) = (Store::new(3, 1), TestClock::new());
        let khala =
            Khala::builder(crate::store::roles(&store)).with_clock(Arc::<TestClock>::clone(&clock)).build();
        Self { khala, store, clock, topic: Topic::parse("t").unwrap() }
    }

    /// As another node does: what is published here need not be read.
    fn publish(&self, updates: Vec<NewUpdate>) -> Cursor {
        let (journal, batch) = (self.store.journal(), Batch::new(updates).unwrap());
        let append = journal.append(&self.topic, batch, self.khala.now()).now_or_never();
        let Append::Written(receipt) = append.unwrap().unwrap() else { panic!("nothing conflicts") };
        self.khala.announce(&self.topic, &receipt).now_or_never().unwrap();
        receipt.cursor()
    }

    fn trim(&self, keep: u64) {
        let keep = Keep { updates: Some(keep), ..Keep::everything() };
        let now = Timestamp::from_millis(1_000_000);
        self.store.journal().trim(&self.topic, keep, now).now_or_never().unwrap().unwrap();
    }

    fn subscribe(&self, start: Start) -> Pages {
        let subscribe = self.khala.topic(&self.topic).unwrap().subscribe(start).now_or_never();
        subscribe.unwrap().unwrap().pages()
    }
}

fn update(n: u64) -> NewUpdate {
    NewUpdate::new(Kind::parse("k").unwrap(), Payload::of(&n).unwrap())
}

fn document(key: &str) -> NewUpdate {
    update(0).doc_key(DocKey::parse(key).unwrap())
}

fn tombstone(key: &str) -> NewUpdate {
    NewUpdate::tombstone(Kind::parse("k").unwrap(), DocKey::parse(key).unwrap())
}

#[test]
fn a_snapshot_of_a_log_is_told_of_once() {
    let rig = Rig::announced();
    rig.publish(vec![update(1)]);
    for _ in 0..2 {
        let mut subscription = rig.subscribe(Start::snapshot());
        let [EventPage::Snapshot(page)] = &ready(&mut subscription)[..] else {
            panic!("one page, and nothing else")
        };
        assert!(page.documents.is_empty() && page.complete);
    }
    assert_eq!(rig.khala.stats().counters().topics_without_documents, 1);
}

/// What is there without waiting.
fn ready(subscription: &mut Pages) -> Vec<EventPage> {
    let mut all = Vec::new();
    while let Some(Some(page)) = subscription.next().now_or_never() {
        all.push(page.unwrap());
    }
    all
}

fn seqs(deliveries: &[EventPage]) -> Vec<u64> {
    let mut seqs = Vec::new();
    for delivery in deliveries {
        if let EventPage::Updates(page) = delivery {
            for update in page.updates() {
                assert!(seqs.last().is_none_or(|last| last + 1 == update.seq.as_u64()), "without a gap");
                seqs.push(update.seq.as_u64());
            }
        }
    }
    seqs
}

#[test]
fn a_next_that_is_dropped_loses_nothing() {
    let rig = Rig::announced();
    rig.publish(vec![document("a"), document("b"), update(3)]);
    let mut subscription = rig.subscribe(Start::snapshot());
    rig.store.pause(u64::MAX);
    let mut deliveries = Vec::new();
    for n in 0..400u64 {
        // The first of them when the snapshot has begun.
        if n % 10 == 5 && n < 300 {
            rig.publish(vec![update(n)]);
        }
        // Given up after so many polls, wherever it stands.
        let mut next = Box::pin(subscription.next());
        for _ in 0..n % 7 {
            if let Some(delivery) = (&mut next).now_or_never() {
                deliveries.push(delivery.unwrap().unwrap());
                break;
            }
        }
    }
    assert_eq!(seqs(&deliveries), (4..=33).collect::<Vec<_>>());
    let pages = deliveries.iter().filter(|delivery| matches!(delivery, EventPage::Snapshot(_))).count();
    assert_eq!(pages, 2, "each page of the snapshot once");
}

#[test]
fn a_subscription_that_is_left_behind_says_so_and_stays_so() {
    let rig = Rig::announced();
    let mut subscription = rig.subscribe(Start::head());
    rig.publish((1..=5).map(update).collect());
    rig.trim(1);
    let Some(Some(Ok(EventPage::Stale(stale)))) = subscription.next().now_or_never() else {
        panic!("it is stale")
    };
    assert_eq!(stale.reasons, [StaleReason::RetentionFloorBreach]);
    for _ in 0..2 {
        assert!(subscription.next().now_or_never().expect("the stream has ended").is_none());
    }
}

#[test]
fn a_sleeper_is_woken_by_an_announcement_and_by_nothing_else() {
    let rig = Rig::announced();
    let mut subscription = rig.subscribe(Start::head());
    let mut task = Task::new(async move { seqs(&[subscription.next().await.unwrap().unwrap()]) });
    task.run();
    assert_eq!(rig.clock.sleepers(), 1);
    let before = rig.store.reads();
    task.run();
    assert_eq!((task.done.is_none(), rig.store.reads()), (true, before));
    rig.publish(vec![update(1)]);
    task.run();
    assert_eq!(task.done, Some(vec![1]));
}

#[test]
fn a_failed_read_leaves_the_subscription_where_it_stood() {
    let rig = Rig::announced();
    rig.publish(vec![document("a"), document("b"), document("c")]);
    rig.store.fail(1);
    let handle = rig.khala.topic(&rig.topic).unwrap();
    let refused = handle.subscribe(Start::snapshot()).now_or_never().unwrap();
    assert!(refused.unwrap_err().is_retryable(), "it was not opened");
    let mut subscription = rig.subscribe(Start::snapshot());
    let first = subscription.next().now_or_never().unwrap().unwrap().unwrap();
    assert!(matches!(first, EventPage::Snapshot(page) if page.first && !page.complete));
    let mut fail_then_go_on = || {
        rig.store.fail(1);
        let failed = subscription.next().now_or_never().expect("there is something to read");
        assert!(failed.unwrap().unwrap_err().is_retryable());
        let waits = subscription.next().now_or_never().is_none();
        assert!(waits, "it waits before it asks again");
        rig.clock.pass(Duration::from_secs(1));
        subscription.next().now_or_never().expect("there still is").unwrap().unwrap()
    };
    assert!(matches!(fail_then_go_on(), EventPage::Snapshot(page) if !page.complete));
    assert!(matches!(fail_then_go_on(), EventPage::Snapshot(page) if page.complete));
    for n in 4..7 {
        rig.publish(vec![update(n)]);
        assert_eq!(seqs(&[fail_then_go_on()]), [n]);
    }
}

#[test]
fn after_an_error_it_waits_once_whoever_gives_up_the_wait() {
    let rig = Rig::announced();
    let mut subscription = rig.subscribe(Start::floor());
    rig.publish(vec![update(1)]);
    rig.store.fail(2);
    assert!(subscription.next().now_or_never().unwrap().unwrap().is_err());
    let reads = rig.store.reads();
    for _ in 0..10 {
        assert!(subscription.next().now_or_never().is_none());
        rig.clock.pass(Duration::from_millis(99));
    }
    assert_eq!(rig.store.reads(), reads);
    rig.clock.pass(Duration::from_millis(10));
    assert!(
        subscription.next().now_or_never().unwrap().unwrap().is_err(),
        "a second after the error, and no later"
    );
    rig.clock.pass(Duration::from_secs(2));
    assert_eq!(seqs(&ready(&mut subscription)), [1], "and two after the second in a row");
}

#[test]
fn a_snapshot_and_the_log_stitch_whatever_is_written_meanwhile() {
    let rig = Rig::announced();
    rig.publish(["a", "b", "c", "d"].map(document).to_vec());
    let mut subscription = rig.subscribe(Start::snapshot());
    let mut here: BTreeMap<DocKey, Update> = BTreeMap::new();
    let mut at = None;
    let writes: [&dyn Fn(); 6] = [
        &|| _ = rig.publish(vec![document("a"), tombstone("b")]),
        // Now the log no longer continues from the watermark of page one.
        &|| rig.trim(0),
        &|| _ = rig.publish(vec![document("e"), tombstone("d"), document("c")]),
        &|| _ = rig.publish(vec![document("b"), tombstone("a")]),
        &|| _ = rig.publish(vec![tombstone("e")]),
        &|| _ = rig.publish(vec![document("f")]),
    ];
    let mut take = |delivery: EventPage| match delivery {
        EventPage::Snapshot(page) => {
            assert_eq!(page.first, at.replace(page.at) != Some(page.at));
            if page.first {
                here.clear();
            }
            here.extend(page.documents.into_iter().map(|doc| (doc.doc_key.clone().unwrap(), doc)));
        }
        EventPage::Updates(page) => {
            for update in page.updates() {
                let key = update.doc_key.clone().unwrap();
                if here.get(&key).is_none_or(|newer| newer.seq < update.seq) {
                    here.insert(key, update.clone());
                }
            }
        }
        EventPage::Stale(stale) => panic!("{stale:?}"),
    };
    for write in writes {
        take(subscription.next().now_or_never().expect("there is more").unwrap().unwrap());
        write();
    }
    ready(&mut subscription).into_iter().for_each(take);
    here.retain(|_, document| !document.deleted);
    let mut there = BTreeMap::new();
    let mut from = Some(SnapshotFrom::Start);
    while let Some(start) = from {
        let page = rig.store.snapshot(&rig.topic, start, khala_core::journal::ReadLimit::PAGE).now_or_never();
        let Snapshot::Page(page) = page.unwrap().unwrap() else { panic!("nothing is trimmed now") };
        from = page.next();
        there.extend(page.documents.into_iter().map(|doc| (doc.doc_key.clone().unwrap(), doc)));
    }
    assert_eq!(here, there);
}
