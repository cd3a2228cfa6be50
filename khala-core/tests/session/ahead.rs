//! Reading ahead behind the tail: a read of the journal brings several pages, for the same reader and for all others.

use std::{
    num::NonZeroUsize,
    sync::{Arc, atomic::Ordering},
};

use futures::FutureExt as _;
use khala_core::{
    Batch, Cursor, Kind, NewUpdate, Payload, Timestamp, Topic, Watermark,
    journal::{Journal as _, Keep, ReadLimit, Replay},
    position::StaleReason,
    tail::{FollowResult, Freshness, TailJournal, TailOptions},
};

use crate::clock::steady;
use crate::store::Store;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

struct Rig {
    store: Arc<Store>,
    tail: TailJournal,
    topic: Topic,
}

impl Rig {
    /// A log of so many updates behind a tail that knows its end.
    fn new(updates: usize, options: TailOptions) -> Self {
        let store = Store::new(10_000, 200);
        let tail = TailJournal::new(Arc::<Store>::clone(&store), options);
        let rig = Self { store, tail, topic: Topic::parse("t").unwrap() };
        let payload = Payload::parse(&format!("\"{}\"", "x".repeat(198))).unwrap();
        let update = NewUpdate::new(Kind::parse("step").unwrap(), payload);
        for _ in 0..updates / 1_000 {
            let batch = Batch::new(vec![update.clone(); 1_000]).unwrap();
            rig.store.journal().append(&rig.topic, batch, NOW).now_or_never().unwrap().unwrap();
        }
        rig.tail.recent_bounds(&rig.topic, steady(NOW), steady(NOW)).now_or_never().unwrap().unwrap();
        rig
    }

    fn at(&self, watermark: u64) -> Cursor {
        let bounds = self.store.journal().bounds(&self.topic).now_or_never().unwrap().unwrap();
        Cursor::new(bounds.epoch, Watermark::new(watermark).unwrap())
    }

    fn follow(&self, cursor: Cursor) -> FollowResult {
        self.tail
            .follow(&self.topic, cursor, Freshness::default(), steady(NOW))
            .now_or_never()
            .unwrap()
            .unwrap()
    }

    /// Reads one page, and says how many updates it holds.
    fn step(&self, cursor: &mut Cursor) -> usize {
        let FollowResult::Page { page, .. } = self.follow(*cursor) else { return 0 };
        assert_eq!(page.page().after, cursor.watermark);
        *cursor = page.page().cursor();
        page.page().updates.len()
    }

    fn reads(&self) -> usize {
        self.store.reads.load(Ordering::Relaxed)
    }
}

#[test]
fn one_read_brings_five_pages() {
    let rig = Rig::new(100_000, TailOptions::default());
    let mut cursor = rig.at(0);
    while cursor.watermark.as_u64() < 100_000 {
        assert_eq!(rig.step(&mut cursor), 200);
    }
    assert_eq!(rig.reads(), 100);
}

#[test]
fn reads_do_not_grow_with_those_who_replay_the_same() {
    let rig = Rig::new(10_000, TailOptions::default());
    let replay = |start: u64| {
        let mut cursor = rig.at(start);
        while cursor.watermark.as_u64() < 10_000 {
            rig.step(&mut cursor);
        }
    };
    (0..200).for_each(|_| replay(9_000));
    assert_eq!(rig.reads(), 1);
    // Those who left a little later or earlier.
    (0..200).for_each(|n| replay(9_000 + n));
    assert_eq!(rig.reads(), 1);
    (0..200).for_each(|n| replay(8_801 + n % 199));
    assert_eq!(rig.reads(), 2);
}

#[test]
fn readers_that_stand_far_apart_read_little_twice() {
    let rig = Rig::new(100_000, TailOptions::default());
    let mut cursors: Vec<_> = (0..100).map(|n| rig.at(n * 600)).collect();
    for _ in 0..100 {
        for cursor in &mut cursors {
            assert_eq!(rig.step(cursor), 200);
        }
    }
    let pages = rig.store.updates.load(Ordering::Relaxed) / 200;
    assert!(pages <= 12_500, "{pages} pages were read for 10,000 that were taken");
}

#[test]
fn what_was_read_ahead_and_trimmed_is_not_handed_out() {
    let rig = Rig::new(10_000, TailOptions::default());
    let mut cursor = rig.at(0);
    rig.step(&mut cursor);
    let keep = Keep { updates: Some(9_500), ..Keep::everything() };
    rig.tail.trim(&rig.topic, keep, NOW).now_or_never().unwrap().unwrap();
    let FollowResult::Stale(stale) = rig.follow(cursor) else { panic!("300 more went") };
    assert_eq!(stale.reasons, [StaleReason::RetentionFloorBreach]);
    // Those who stand at the floor go on, in pages that start there.
    let mut cursor = rig.at(500);
    assert_eq!((rig.step(&mut cursor), rig.step(&mut cursor)), (100, 200));
}

#[test]
fn without_room_for_history_a_read_brings_what_was_asked_for() {
    let rig = Rig::new(10_000, TailOptions { history_bytes: 0, ..TailOptions::default() });
    let mut cursor = rig.at(0);
    (0..50).for_each(|_| assert_eq!(rig.step(&mut cursor), 200));
    let updates = rig.store.updates.load(Ordering::Relaxed);
    assert!(updates <= 11_000, "{updates}");
}

#[test]
fn what_is_read_ahead_is_what_the_journal_holds() {
    let rig = Rig::new(3_000, TailOptions::default());
    let mut seen = Vec::new();
    let mut cursor = rig.at(130);
    while let FollowResult::Page { page, bounds, .. } = rig.follow(cursor) {
        assert_eq!(page.page().bounds, bounds);
        seen.extend(page.page().updates.clone());
        cursor = page.page().cursor();
    }
    let all = ReadLimit::new(NonZeroUsize::MAX, usize::MAX);
    let journal = rig.store.journal();
    let read = journal.read(&rig.topic, rig.at(130).into(), all);
    let Replay::Page(page) = read.now_or_never().unwrap().unwrap() else { panic!("nothing was trimmed") };
    assert_eq!(seen, page.updates);
}
