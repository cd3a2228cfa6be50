//! Following a topic within the process: the promises of the wire, without it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt as _;
use khala_core::{
    Append, Batch, Bounds, Cursor, DocKey, Error, EventPage, Khala, Kind, NewUpdate, Payload, Start,
    Timestamp, Topic, Update, Watermark,
    documents::{Documents as _, Snapshot, SnapshotFrom},
    event::Pages,
    fanout::{Fanout, LocalFanout, Watch},
    journal::{Journal as _, Keep},
    position::StaleReason,
    session::SessionOptions,
};

use crate::{
    clock::{Task, TestClock},
    store::Store,
};

/// A fanout that watches and never announces.
#[derive(Debug, Default)]
struct Mute(LocalFanout);

#[async_trait]
impl Fanout for Mute {
    async fn announce(&self, _: &Topic, _: Cursor) -> Result<(), Error> {
        Ok(())
    }

    async fn watch(&self, topic: &Topic) -> Result<Watch, Error> {
        self.0.watch(topic).await
    }

    async fn announce_revoked(&self, _: Watermark) -> Result<(), Error> {
        Ok(())
    }

    async fn watch_revoked(&self) -> Result<Watch<Watermark>, Error> {
        self.0.watch_revoked().await
    }
}

struct Rig {
    khala: Khala,
    fanout: Arc<dyn Fanout>,
    store: Arc<Store>,
    clock: Arc<TestClock>,
    topic: Topic,
}

impl Rig {
    fn new(fanout: Arc<dyn Fanout>) -> Self {
        let (store, clock) = (Store::new(3, 1), TestClock::new());
        let khala = Khala::builder(crate::store::roles(&store))
            .with_clock(Arc::<TestClock>::clone(&clock))
            .with_fanout(Arc::clone(&fanout))
            .build();
        Self { khala, fanout, store, clock, topic: Topic::parse("t").unwrap() }
    }

    fn announced() -> Self {
        Self::new(Arc::new(LocalFanout::new()))
    }

    /// As another node does: what is published here need not be read.
    fn publish(&self, updates: Vec<NewUpdate>) -> Cursor {
        let (journal, batch) = (self.store.journal(), Batch::new(updates).unwrap());
        let append = journal.append(&self.topic, batch, self.khala.now()).now_or_never();
        let Append::Written(receipt) = append.unwrap().unwrap() else { panic!("nothing conflicts") };
        self.khala.announce(&self.topic, &receipt).now_or_never().unwrap();
        receipt.cursor()
    }

    /// Announces a head that may not be there, or not yet.
    fn announce(&self, head: Cursor) {
        self.fanout.announce(&self.topic, head).now_or_never().unwrap().unwrap();
    }

    fn bounds(&self) -> Bounds {
        self.store.journal().bounds(&self.topic).now_or_never().unwrap().unwrap()
    }

    fn trim(&self, keep: u64) {
        let keep = Keep::everything().with_updates(keep);
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
fn every_start_begins_where_it_says() {
    let rig = Rig::announced();
    rig.publish((1..=10).map(update).collect());
    rig.trim(8);
    let cursor = Cursor::new(rig.bounds().epoch, Watermark::new(5).unwrap());
    for (start, first) in [(Start::head(), 11), (Start::floor(), 3), (Start::after(cursor), 6)] {
        let mut subscription = rig.subscribe(start);
        let mut deliveries = ready(&mut subscription);
        let head = rig.publish(vec![update(0)]).watermark.as_u64();
        deliveries.extend(ready(&mut subscription));
        let first = if start == Start::head() { head } else { first };
        assert_eq!(seqs(&deliveries), (first..=head).collect::<Vec<_>>(), "{start:?}");
        assert_eq!(subscription.cursor(), Some(rig.bounds().at_head()));
    }
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
fn a_stale_cursor_is_told_at_once_or_leads_to_a_snapshot() {
    let rig = Rig::announced();
    rig.publish(vec![document("a"), document("b"), update(3)]);
    rig.trim(1);
    let origin = Start::after(Cursor::new(rig.bounds().epoch, Watermark::ORIGIN));
    let refused = ready(&mut rig.subscribe(origin));
    let [EventPage::Stale(stale)] = &refused[..] else { panic!("it is stale, and that is all: {refused:?}") };
    assert_eq!((&stale.reasons[..], stale.bounds), (&[StaleReason::RetentionFloorBreach][..], rig.bounds()));
    let deliveries = ready(&mut rig.subscribe(origin.or_snapshot()));
    let [EventPage::Snapshot(one), EventPage::Snapshot(two)] = &deliveries[..] else {
        panic!("a snapshot is no refusal")
    };
    assert_eq!(one.stale.as_ref().unwrap().reasons, [StaleReason::RetentionFloorBreach]);
    assert!(one.first && !one.complete && !two.first && two.complete && two.at == rig.bounds().at_head());
    assert_eq!(two.stale, None, "it is said once");
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
fn a_new_epoch_is_told() {
    let rig = Rig::announced();
    rig.publish(vec![update(1)]);
    let mut subscription = rig.subscribe(Start::head());
    assert!(ready(&mut subscription).is_empty());
    rig.store.wipe();
    rig.publish(vec![update(1)]);
    let deliveries = ready(&mut subscription);
    assert!(
        matches!(&deliveries[..], [EventPage::Stale(stale)] if stale.reasons == [StaleReason::EpochMismatch])
    );
}

#[test]
fn after_a_false_head_announcements_are_heard_as_before_it() {
    let rig = Rig::announced();
    let mut subscription = rig.subscribe(Start::head());
    let mut task = Task::new(async move {
        let mut seen = Vec::new();
        while seen.len() < 4 {
            if let EventPage::Updates(page) = subscription.next().await.unwrap().unwrap() {
                seen.extend(page.updates().iter().map(|update| update.seq.as_u64()));
            }
        }
        seen
    });
    task.run();
    let never = Watermark::new((1 << 53) - 1).unwrap();
    for n in 1..=4 {
        rig.announce(Cursor::new(rig.bounds().epoch, never));
        task.run();
        // The second look at what was doubted, and then it waits for the poll.
        rig.clock.pass(SessionOptions::default().retry_after);
        task.run();
        rig.publish(vec![update(n)]);
        // No time passes, so that it is not found by polling.
        task.run();
    }
    assert_eq!(task.done, Some(vec![1, 2, 3, 4]));
}

#[test]
fn with_every_announcement_lost_polling_completes_delivery() {
    let rig = Rig::new(Arc::new(Mute::default()));
    let mut subscription = rig.subscribe(Start::head());
    let khala = rig.khala.clone();
    let mut task = Task::new(async move {
        let first = subscription.next().await.unwrap().unwrap();
        let second = subscription.next().await.unwrap().unwrap();
        drop(khala);
        seqs(&[first, second])
    });
    task.run();
    // Through this handle, which knows at once, and by another process, which nobody here hears of.
    let journal = rig.store.journal();
    for n in 1..=2 {
        let batch = Batch::new(vec![update(n)]).unwrap();
        let now = Timestamp::from_millis(1_000_000);
        journal.append(&rig.topic, batch, now).now_or_never().unwrap().unwrap();
        task.run();
        for _ in 0..20 {
            rig.clock.pass(Duration::from_secs(1));
            task.run();
        }
    }
    assert_eq!(task.done, Some(vec![1, 2]));
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
    rig.publish(vec![document("a"), document("b")]);
    let mut subscription = rig.subscribe(Start::snapshot());
    let mut fail_then_go_on = || {
        rig.store.fail(1);
        let failed = subscription.next().now_or_never().expect("there is something to read");
        assert!(failed.unwrap().unwrap_err().is_retryable());
        assert!(subscription.next().now_or_never().is_none(), "it waits before it asks again");
        rig.clock.pass(Duration::from_secs(1));
        subscription.next().now_or_never().expect("there still is").unwrap().unwrap()
    };
    assert!(matches!(fail_then_go_on(), EventPage::Snapshot(page) if !page.complete));
    assert!(matches!(fail_then_go_on(), EventPage::Snapshot(page) if page.complete));
    for n in 3..6 {
        rig.publish(vec![update(n)]);
        assert_eq!(seqs(&[fail_then_go_on()]), [n]);
    }
}

#[test]
fn after_an_error_it_waits_once_whoever_gives_up_the_wait() {
    let rig = Rig::announced();
    rig.publish(vec![update(1)]);
    let mut subscription = rig.subscribe(Start::floor());
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
    rig.clock.pass(Duration::from_secs(1));
    assert_eq!(seqs(&ready(&mut subscription)), [1]);
}

#[test]
fn a_floor_that_moves_before_the_first_update_is_where_it_is_now() {
    let rig = Rig::announced();
    rig.publish((1..=10).map(update).collect());
    let mut subscription = rig.subscribe(Start::floor());
    rig.trim(3);
    assert_eq!(seqs(&ready(&mut subscription)), [8, 9, 10]);
    rig.publish((11..=15).map(update).collect());
    rig.trim(1);
    let deliveries = ready(&mut subscription);
    assert!(matches!(&deliveries[..], [EventPage::Stale(_)]), "only as long as nothing was delivered");
}

#[test]
fn an_announced_head_that_is_not_there_yet_is_looked_for_soon_and_then_left_to_polling() {
    let rig = Rig::announced();
    rig.publish(vec![update(1)]);
    let mut subscription = rig.subscribe(Start::head());
    let mut task = Task::new(async move { seqs(&[subscription.next().await.unwrap().unwrap()]) });
    task.run();
    let next = |number| Cursor::new(rig.bounds().epoch, Watermark::new(number).unwrap());
    rig.announce(next(7));
    task.run();
    let reads = rig.store.reads();
    for (millis, looks) in [(999, 0), (1, 1), (5_000, 1), (4_999, 1), (1, 2)] {
        rig.clock.pass(Duration::from_millis(millis));
        task.run();
        assert_eq!(rig.store.reads() - reads, looks, "{millis}");
    }
    // It becomes visible a moment after it was announced.
    rig.announce(next(8));
    task.run();
    let batch = Batch::new(vec![update(2)]).unwrap();
    let append =
        rig.store.journal().append(&rig.topic, batch, Timestamp::from_millis(1_000_000)).now_or_never();
    append.unwrap().unwrap();
    task.run();
    assert_eq!(task.done, None);
    rig.clock.pass(Duration::from_secs(1));
    task.run();
    assert_eq!(task.done, Some(vec![2]));
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
