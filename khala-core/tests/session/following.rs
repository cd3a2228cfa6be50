//! Following a topic, over a connection and within the process: the same promises, tried on both.
//!
//! Each test takes a side. What a subscriber was handed is told in the same words on both, and so are the node's figures.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
};
use khala_core::{
    Batch, Bounds, Cursor, DocKey, Error, EventPage, Khala, Kind, NewUpdate, Payload, Start, Timestamp,
    Watermark,
    admission::Rate,
    auth::Access,
    class::{Classes, TopicClass, TopicPattern},
    fanout::Fanout as _,
    journal::{Journal as _, Keep},
    position::StaleReason,
    replay::ReplayOptions,
    stats::Counters,
    tail::TailOptions,
    wire::JoinRequest,
};
use serde_json::Value;

use crate::{
    clock::Task,
    guards::Ledger,
    host::{HOUR, Host, Peer, seconds, topic},
};

/// Runs each test on both sides.
macro_rules! on_both_sides {
    ($($name:ident,)*) => {$(
        mod $name {
            #[test]
            fn over_a_connection() {
                super::$name(super::Side::Connection);
            }

            #[test]
            fn within_the_process() {
                super::$name(super::Side::Process);
            }
        }
    )*};
}

on_both_sides! {
    a_failed_read_leaves_a_subscriber_where_it_stood_and_is_tried_again_later_each_time,
    a_false_head_hides_no_announcement_after_it,
    a_head_that_is_not_there_yet_is_looked_for_soon_and_then_left_to_polling,
    a_history_that_was_put_back_is_told_by_the_next_poll,
    a_cursor_past_the_replay_budget_is_stale,
    a_cursor_that_names_another_update_is_stale,
    a_new_epoch_is_told,
    a_snapshot_starts_again_where_the_log_no_longer_continues_from_it,
    a_replay_is_complete_once_from_the_head_of_its_start,
    a_stale_cursor_is_told_or_leads_to_a_snapshot_and_counts,
    a_subscriber_behind_the_tail_is_counted_as_long_as_it_is,
    a_subscriber_that_is_left_behind_is_told_and_that_is_the_end,
    every_start_begins_where_it_says,
    history_takes_its_turn_and_is_put_off,
    snapshots_are_shared_with_whom_it_may_concern,
    with_every_announcement_lost_polling_completes_delivery,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Connection,
    Process,
}

/// What a subscriber was handed.
#[derive(Clone, Debug, PartialEq)]
enum Handed {
    Updates { seqs: Vec<u64>, complete: bool },
    Documents { keys: Vec<String>, at: u64, complete: bool },
    Stale(Vec<StaleReason>),
}

use Handed::{Documents, Stale, Updates};

enum Subscriber {
    Connection(Peer),
    Process {
        task: Task<()>,
        handed: Arc<Mutex<Vec<Handed>>>,
        failed: Arc<Mutex<u32>>,
        /// While it is there, only the first page is taken.
        slow: Option<UnboundedSender<()>>,
    },
}

fn updates(seqs: impl IntoIterator<Item = u64>, complete: bool) -> Handed {
    Updates { seqs: seqs.into_iter().collect(), complete }
}

fn handed(page: EventPage) -> Handed {
    match page {
        EventPage::Updates(page) => Updates {
            seqs: page.updates().iter().map(|update| update.seq.as_u64()).collect(),
            complete: page.is_complete(),
        },
        EventPage::Snapshot(page) => Documents {
            keys: page.documents.iter().map(|update| update.doc_key.clone().unwrap().to_string()).collect(),
            at: page.at.watermark.as_u64(),
            complete: page.complete,
        },
        EventPage::Stale(stale) => Stale(stale.reasons),
    }
}

/// What a frame hands over, if anything.
fn of_frame(frame: &Value) -> Option<Handed> {
    let (event, payload) = (frame[3].as_str()?, &frame[4]);
    let stale = |told: &Value| {
        (told["code"] == "stale_cursor")
            .then(|| serde_json::from_value(told["reason_codes"].clone()).unwrap())
    };
    match event {
        "sync:update_batch" => Some(Updates {
            seqs: payload["updates"]
                .as_array()?
                .iter()
                .map(|update| update["seq"].as_u64().unwrap())
                .collect(),
            complete: payload["replay_complete"].as_bool()?,
        }),
        "sync:snapshot" => Some(Documents {
            keys: payload["documents"]
                .as_array()?
                .iter()
                .map(|document| document["doc_key"].as_str().unwrap().to_owned())
                .collect(),
            at: payload["watermark"].as_u64()?,
            complete: payload["complete"].as_bool()?,
        }),
        "sync:error" => stale(payload).map(Stale),
        "phx_reply" => stale(&payload["response"]).map(Stale),
        _ => None,
    }
}

impl Subscriber {
    fn run(&mut self) {
        match self {
            Self::Connection(peer) => peer.task.run(),
            Self::Process { task, .. } => task.run(),
        }
    }

    /// What it was handed since the last time.
    fn handed(&mut self) -> Vec<Handed> {
        self.run();
        match self {
            Self::Connection(peer) => peer.sent().iter().filter_map(of_frame).collect(),
            Self::Process { handed, .. } => std::mem::take(&mut *handed.lock().unwrap()),
        }
    }

    /// It takes what it is handed from now on.
    fn takes_all(&mut self) {
        match self {
            Self::Connection(peer) => peer.take(usize::MAX),
            Self::Process { slow, .. } => *slow = None,
        }
    }

    fn seqs(&mut self) -> Vec<u64> {
        let seqs = |handed| if let Updates { seqs, .. } = handed { seqs } else { panic!("{handed:?}") };
        self.handed().into_iter().flat_map(seqs).collect()
    }

    /// The errors that were told: none over a connection, which tries again by itself.
    fn failed(&self) -> u32 {
        match self {
            Self::Connection(_) => 0,
            Self::Process { failed, .. } => *failed.lock().unwrap(),
        }
    }
}

/// Follows until the end, and notes what it is handed.
async fn note(
    khala: Khala,
    start: Start,
    handed_out: Arc<Mutex<Vec<Handed>>>,
    failed: Arc<Mutex<u32>>,
    mut may_go_on: UnboundedReceiver<()>,
) {
    let subscription = khala.topic("t").unwrap().subscribe(start).await.expect("it is opened");
    let mut pages = subscription.pages();
    while let Some(page) = pages.next().await {
        match page {
            Ok(page) => handed_out.lock().unwrap().push(handed(page)),
            Err(error) => {
                assert!(Error::is_retryable(&error));
                *failed.lock().unwrap() += 1;
            }
        }
        may_go_on.next().await;
    }
}

/// A node whose class lets a subscriber replay 10,000 updates.
fn host() -> Host {
    built(ReplayOptions::default(), TailOptions::default())
}

fn built(replays: ReplayOptions, tail: TailOptions) -> Host {
    let class = TopicClass {
        replay_budget: Some(10_000),
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_read([Access::Read.scope()])
    };
    let classes = Classes::new(vec![class]).unwrap();
    Host::built(200, Ledger::default(), |khala| {
        khala.with_classes(classes).with_replays(replays).with_tail(tail)
    })
}

impl Host {
    fn subscriber(&self, side: Side, start: Start) -> Subscriber {
        let mut subscriber = self.slow_subscriber(side, start);
        subscriber.takes_all();
        subscriber.run();
        subscriber
    }

    /// One that takes the answer and the first page, and then nothing.
    fn slow_subscriber(&self, side: Side, start: Start) -> Subscriber {
        let mut subscriber = match side {
            Side::Connection => {
                let mut peer = self.connect(HOUR);
                peer.take(2);
                peer.say("t", "phx_join", &serde_json::to_value(JoinRequest::from(start)).unwrap());
                Subscriber::Connection(peer)
            }
            Side::Process => {
                let (handed, failed) = (Arc::default(), Arc::default());
                let (slow, may_go_on) = unbounded();
                let noting =
                    note(self.khala.clone(), start, Arc::clone(&handed), Arc::clone(&failed), may_go_on);
                Subscriber::Process { task: Task::new(noting), handed, failed, slow: Some(slow) }
            }
        };
        subscriber.run();
        subscriber
    }

    /// Lets time pass; a client beats.
    fn wait(&self, time: Duration, subscriber: &mut Subscriber) {
        let step = time.min(Duration::from_millis(500));
        for _ in 0..time.as_millis() / step.as_millis() {
            self.clock.pass(step);
            subscriber.run();
        }
        if let Subscriber::Connection(peer) = subscriber {
            peer.beat();
            peer.task.run();
        }
    }

    fn announce(&self, watermark: u64) {
        let head = self.cursor(watermark);
        self.fanout.announce(&topic("t"), head).now_or_never().unwrap().unwrap();
    }

    /// Appends as another node does, of which nobody here hears.
    fn append(&self, updates: Vec<NewUpdate>) {
        let (batch, now) = (Batch::new(updates).unwrap(), self.khala.now());
        self.store.journal().append(&topic("t"), batch, now).now_or_never().unwrap().unwrap();
    }

    fn put(&self, key: &str) {
        let update =
            NewUpdate::new(Kind::parse("k").unwrap(), Payload::null()).doc_key(DocKey::parse(key).unwrap());
        let batch = Batch::new(vec![update]).unwrap();
        self.khala.publish(&topic("t"), batch).now_or_never().unwrap().unwrap();
    }

    fn trim_to(&self, keep: u64) {
        let (keep, now) =
            (Keep { updates: Some(keep), ..Keep::everything() }, Timestamp::from_millis(1_000_000));
        self.store.journal().trim(&topic("t"), keep, now).now_or_never().unwrap().unwrap();
    }

    fn bounds_of_store(&self) -> Bounds {
        self.store.journal().bounds(&topic("t")).now_or_never().unwrap().unwrap()
    }

    fn cursor(&self, watermark: u64) -> Cursor {
        Cursor::new(self.bounds_of_store().epoch, Watermark::new(watermark).unwrap())
    }

    fn counters(&self) -> Counters {
        self.khala.stats().counters()
    }
}

fn every_start_begins_where_it_says(side: Side) {
    let host = host();
    for key in ["a", "b", "a", "c", "c"] {
        host.put(key);
    }
    host.trim_to(3);
    for (start, first) in [(Start::head(), 6), (Start::floor(), 3), (Start::after(host.cursor(4)), 5)] {
        let mut subscriber = host.subscriber(side, start);
        let mut seqs = subscriber.seqs();
        host.put("c");
        seqs.extend(subscriber.seqs());
        let head = host.bounds_of_store().head.as_u64();
        let first = if start == Start::head() { head } else { first };
        assert_eq!(seqs, (first..=head).collect::<Vec<_>>(), "{start:?}");
    }
    let head = host.bounds_of_store().head.as_u64();
    let mut subscriber = host.subscriber(side, Start::snapshot());
    let keys = ["a", "b", "c"].map(String::from).to_vec();
    assert_eq!(subscriber.handed(), [Documents { keys, at: head, complete: true }]);
    host.put("d");
    assert_eq!(subscriber.handed(), [updates([head + 1], true)]);
    let counters = host.counters();
    let joins = (
        counters.joins_from_head,
        counters.joins_from_floor,
        counters.joins_from_cursor,
        counters.joins_from_snapshot,
    );
    assert_eq!(joins, (1, 1, 1, 1));
}

fn a_replay_is_complete_once_from_the_head_of_its_start(side: Side) {
    let host = built(ReplayOptions::default(), TailOptions { topic_bytes: 1, ..TailOptions::default() });
    host.publish("t", 500);
    let mut subscriber = host.slow_subscriber(side, Start::floor());
    host.publish("t", 700);
    subscriber.takes_all();
    let handed = subscriber.handed();
    let ends: Vec<_> = handed
        .iter()
        .map(|handed| match handed {
            Updates { seqs, complete } => (*seqs.last().unwrap(), *complete),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(ends.iter().any(|(last, complete)| *complete && *last < 1_200), "before the log's end: {ends:?}");
    for (last, complete) in ends {
        assert_eq!(complete, last >= 500, "up to {last}");
    }
}

fn a_stale_cursor_is_told_or_leads_to_a_snapshot_and_counts(side: Side) {
    let host = host();
    for key in ["a", "b", "a"] {
        host.put(key);
    }
    host.trim_to(1);
    let origin = Start::after(host.cursor(0));
    let mut refused = host.subscriber(side, origin);
    assert_eq!(refused.handed(), [Stale(vec![StaleReason::RetentionFloorBreach])]);
    host.put("c");
    assert_eq!(refused.handed(), [], "that was the end");
    let mut restarted = host.subscriber(side, origin.or_snapshot());
    let keys = ["a", "b", "c"].map(String::from).to_vec();
    assert_eq!(restarted.handed(), [Documents { keys, at: 4, complete: true }]);
    host.put("d");
    assert_eq!(restarted.handed(), [updates([5], true)], "then the log");
    let counters = host.counters();
    assert_eq!((counters.stale_cursors, counters.stale_below_floor, counters.joins_from_snapshot), (2, 2, 1));
    // One client twice within a minute goes round in a loop; two subscriptions of an application do not.
    assert_eq!(counters.stale_loops, u64::from(side == Side::Connection));
    assert_eq!(host.khala.stats().incidents(&topic("t")).stale_cursor, 2);
}

fn a_cursor_past_the_replay_budget_is_stale(side: Side) {
    let host = host();
    for _ in 0..10 {
        host.publish("t", 1_000);
    }
    host.publish("t", 1);
    let mut late = host.subscriber(side, Start::after(host.cursor(0)));
    assert_eq!(late.handed(), [Stale(vec![StaleReason::ReplayBudgetExceeded])]);
    let mut in_time = host.subscriber(side, Start::after(host.cursor(1)));
    host.wait(seconds(30), &mut in_time);
    assert_eq!(in_time.seqs().len(), 10_000);
    let mut from_the_floor = host.subscriber(side, Start::floor());
    host.wait(seconds(30), &mut from_the_floor);
    assert_eq!(from_the_floor.seqs().len(), 10_001, "a start that brings no cursor has no budget");
    assert_eq!(host.counters().stale_past_budget, 1);
}

fn a_cursor_that_names_another_update_is_stale(side: Side) {
    let host = host();
    host.publish("t", 5);
    let published_at = host.khala.now();
    let right = Start::after(host.cursor(3)).published_at(published_at);
    assert_eq!(host.subscriber(side, right).seqs(), [4, 5]);
    let wrong = Start::after(host.cursor(3)).published_at(published_at.plus(seconds(1)));
    assert_eq!(host.subscriber(side, wrong).handed(), [Stale(vec![StaleReason::EpochMismatch])]);
}

fn a_snapshot_starts_again_where_the_log_no_longer_continues_from_it(side: Side) {
    let host = host();
    for n in 0..700 {
        host.put(&format!("d{n:03}"));
    }
    let mut subscriber = host.slow_subscriber(side, Start::snapshot());
    // After the first pages of 200 documents.
    host.put("new");
    host.trim_to(0);
    subscriber.takes_all();
    let mut whole = Vec::new();
    for handed in subscriber.handed() {
        match handed {
            Documents { keys, at: 701, complete } => whole.push((keys.len(), complete)),
            Documents { at: 700, complete: false, .. } => assert!(whole.is_empty(), "of the first snapshot"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        whole,
        [(200, false), (200, false), (200, false), (101, true)],
        "all documents, of one later moment"
    );
    host.put("newer");
    assert_eq!(subscriber.handed(), [updates([702], true)], "and then the log");
}

fn a_subscriber_that_is_left_behind_is_told_and_that_is_the_end(side: Side) {
    let host = host();
    let mut subscriber = host.subscriber(side, Start::head());
    assert_eq!(subscriber.handed(), []);
    host.append((0..5).map(|_| NewUpdate::new(Kind::parse("k").unwrap(), Payload::null())).collect());
    host.trim_to(1);
    host.announce(5);
    assert_eq!(subscriber.handed(), [Stale(vec![StaleReason::RetentionFloorBreach])]);
    host.publish("t", 1);
    assert_eq!(subscriber.handed(), []);
    assert_eq!(host.counters().stale_below_floor, 1);
}

fn a_new_epoch_is_told(side: Side) {
    let host = host();
    host.publish("t", 1);
    let mut subscriber = host.subscriber(side, Start::head());
    host.store.wipe();
    host.publish("t", 1);
    assert_eq!(subscriber.handed(), [Stale(vec![StaleReason::EpochMismatch])]);
    assert_eq!(host.counters().stale_of_another_epoch, 1);
}

fn a_history_that_was_put_back_is_told_by_the_next_poll(side: Side) {
    // Who follows what is published, and who was given what a node did not know before.
    for (start, first) in [(Start::head(), 1), (Start::floor(), 6)] {
        let host = host();
        let early = (start == Start::head()).then(|| host.subscriber(side, start));
        host.publish("t", 5);
        let backup = host.store.backup();
        host.publish("t", 5);
        let mut subscriber = early.unwrap_or_else(|| host.subscriber(side, Start::after(host.cursor(5))));
        assert_eq!(subscriber.seqs(), (first..=10).collect::<Vec<_>>());
        host.store.go_back(backup);
        host.clock.pass(seconds(1));
        host.append((0..7).map(|_| NewUpdate::new(Kind::parse("k").unwrap(), Payload::null())).collect());
        host.wait(seconds(20), &mut subscriber);
        let handed = subscriber.handed();
        assert!(
            matches!(&handed[..], [Stale(reasons)] if reasons.contains(&StaleReason::EpochMismatch)),
            "what follows is another history's: {handed:?}"
        );
    }
}

fn a_false_head_hides_no_announcement_after_it(side: Side) {
    let host = host();
    let mut subscriber = host.subscriber(side, Start::head());
    let mut seen = Vec::new();
    for _ in 0..4 {
        host.announce((1 << 53) - 1);
        subscriber.run();
        // The second look at what was doubted, and then it waits for the poll.
        host.wait(seconds(1), &mut subscriber);
        host.publish("t", 1);
        // No time passes, so that it is not found by polling.
        seen.extend(subscriber.seqs());
    }
    assert_eq!(seen, [1, 2, 3, 4]);
}

fn with_every_announcement_lost_polling_completes_delivery(side: Side) {
    let host = host();
    let mut subscriber = host.subscriber(side, Start::head());
    for n in 1..=3 {
        host.append(vec![NewUpdate::new(Kind::parse("k").unwrap(), Payload::null())]);
        assert_eq!(subscriber.handed(), []);
        host.wait(seconds(20), &mut subscriber);
        assert_eq!(subscriber.seqs(), [n]);
    }
    assert_eq!(host.counters().missed_announcements, 3);
}

fn a_head_that_is_not_there_yet_is_looked_for_soon_and_then_left_to_polling(side: Side) {
    let host = host();
    host.publish("t", 1);
    let mut subscriber = host.subscriber(side, Start::head());
    host.announce(7);
    subscriber.run();
    let reads = host.store.reads();
    for (wait, looks) in [(500, 0), (500, 1), (8_500, 1), (500, 2)] {
        host.wait(Duration::from_millis(wait), &mut subscriber);
        assert_eq!(host.store.reads() - reads, looks, "after {wait} ms more");
    }
    // It becomes visible a moment after it was announced.
    host.announce(8);
    subscriber.run();
    host.append(vec![NewUpdate::new(Kind::parse("k").unwrap(), Payload::null())]);
    assert_eq!(subscriber.handed(), []);
    host.wait(seconds(1), &mut subscriber);
    assert_eq!(subscriber.seqs(), [2]);
}

fn a_failed_read_leaves_a_subscriber_where_it_stood_and_is_tried_again_later_each_time(side: Side) {
    let host = host();
    let mut subscriber = host.subscriber(side, Start::head());
    host.append(vec![NewUpdate::new(Kind::parse("k").unwrap(), Payload::null())]);
    host.store.fail(2);
    host.announce(1);
    assert_eq!(subscriber.handed(), []);
    assert_eq!(host.store.failing(), 1);
    host.wait(Duration::from_millis(500), &mut subscriber);
    assert_eq!(host.store.failing(), 1, "it waits before it asks again");
    if side == Side::Process {
        // A channel reads at once when more is announced; an application is told of each error, and may act on it.
        host.announce(1);
        subscriber.run();
        assert_eq!(host.store.failing(), 1, "whatever is announced meanwhile");
    }
    host.wait(Duration::from_millis(2_000), &mut subscriber);
    assert_eq!((host.store.failing(), subscriber.handed()), (0, vec![]), "a second later, and then two");
    host.wait(Duration::from_millis(500), &mut subscriber);
    assert_eq!(subscriber.seqs(), [1]);
    assert_eq!(subscriber.failed(), if side == Side::Process { 2 } else { 0 });
}

fn a_subscriber_behind_the_tail_is_counted_as_long_as_it_is(side: Side) {
    let host = built(ReplayOptions::default(), TailOptions { topic_bytes: 1, ..TailOptions::default() });
    host.publish("t", 600);
    let mut subscriber = host.subscriber(side, Start::floor());
    assert_eq!(subscriber.seqs(), (1..=600).collect::<Vec<_>>());
    host.wait(seconds(20), &mut subscriber);
    let counters = host.counters();
    assert_eq!((counters.promotions, counters.behind, counters.demotions), (1, 0, 0));
    drop(subscriber);
    assert_eq!((host.counters().updates_sent, host.counters().batches_sent), (600, 3));
}

fn snapshots_are_shared_with_whom_it_may_concern(side: Side) {
    let host = host();
    for key in ["a", "b"] {
        host.put(key);
    }
    let pages = || host.store.snapshots.load(Ordering::Relaxed);
    let before = pages();
    // Of the other side, and of this one.
    let other = if side == Side::Process { Side::Connection } else { Side::Process };
    let mut all = [other, side, side].map(|side| host.subscriber(side, Start::snapshot()));
    for subscriber in &mut all {
        assert_eq!(subscriber.handed().len(), 1);
    }
    assert_eq!(pages() - before, 1, "it is read once");
}

fn history_takes_its_turn_and_is_put_off(side: Side) {
    let one = NonZeroU32::MIN;
    let replays = ReplayOptions { rate: Some(Rate::new(one, one)), ..ReplayOptions::default() };
    let host = built(replays, TailOptions { topic_bytes: 1, ..TailOptions::default() });
    for _ in 0..4 {
        host.publish("t", 1_000);
    }
    // Somebody else takes what there is.
    let mut first = host.subscriber(Side::Connection, Start::after(host.cursor(3_000)));
    assert_eq!(first.seqs().len(), 1_000);
    let reads = host.store.reads();
    let far = Start::after(host.cursor(1_000));
    let mut second = host.subscriber(Side::Connection, far);
    let put_off = second.handed().is_empty();
    let mut subscriber = host.subscriber(side, far);
    assert_eq!((subscriber.handed(), host.store.reads()), (vec![], reads), "what is put off costs no read");
    assert!(put_off);
    assert_eq!(host.counters().replays_deferred, 2);
    for _ in 0..40 {
        host.wait(seconds(1), &mut subscriber);
    }
    match side {
        Side::Connection => assert_eq!(subscriber.handed(), [], "a client was told when to come back"),
        Side::Process => assert_eq!(subscriber.seqs().len(), 3_000, "an application waits for its turn"),
    }
    // The head is never put off.
    let mut fresh = host.subscriber(side, Start::head());
    host.publish("t", 1);
    assert_eq!(fresh.seqs(), [4_001]);
}
