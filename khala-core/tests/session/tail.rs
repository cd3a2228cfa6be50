//! The tail: what it costs the journal, what it may hold, and what happens when the journal changes underneath.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::join_all, task::noop_waker_ref};
use khala_core::{
    Append, Batch, Bounds, Cursor, Kind, MemoryStore, NewUpdate, Payload, Timestamp, Topic, Watermark,
    clock::Moment,
    journal::{Journal as _, Keep, ReadFrom, ReadLimit, Replay},
    position::StaleReason,
    tail::{CacheLookup, FollowResult, Freshness, SharedPage, TailJournal, TailOptions},
    wire::Serializer,
};

use crate::store::Store;

const START: Timestamp = Timestamp::from_millis(1_000_000);
const NOW: Moment = Moment::from_millis(1_000_000);
/// Nobody asks for news that are fresher than this.
const ANY_AGE: Freshness = Freshness { head: None, not_older_than: Moment::from_millis(0) };

fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

fn updates(count: usize, bytes: usize) -> Batch {
    let payload = Payload::parse(&format!("\"{}\"", "x".repeat(bytes))).unwrap();
    let update = NewUpdate::new(Kind::parse("k").unwrap(), payload);
    Batch::new(vec![update; count]).unwrap()
}

fn at(epoch: Cursor, watermark: u64) -> Cursor {
    Cursor::new(epoch.epoch, Watermark::new(watermark).unwrap())
}

fn since(now: Moment) -> Freshness {
    Freshness { head: None, not_older_than: now }
}

fn heard(head: Cursor) -> Freshness {
    Freshness { head: Some(head), ..ANY_AGE }
}

struct Rig {
    store: Arc<Store>,
    tail: TailJournal,
}

impl Rig {
    fn new(options: TailOptions) -> Self {
        let store = Store::new(200, 200);
        Self { tail: TailJournal::new(Arc::<Store>::clone(&store), options), store }
    }

    /// Appends behind the tail's back.
    fn append(&self, name: &str, batch: Batch) -> Cursor {
        let (journal, topic) = (self.store.journal(), topic(name));
        let append = journal.append(&topic, batch, START).now_or_never().unwrap().unwrap();
        let Append::Written(receipt) = append else { panic!("nothing conflicts") };
        receipt.cursor()
    }

    fn bounds(&self, name: &str) -> Bounds {
        let (journal, topic) = (self.store.journal(), topic(name));
        journal.bounds(&topic).now_or_never().unwrap().unwrap()
    }

    fn trim(&self, name: &str, keep: u64) {
        let (journal, topic) = (self.store.journal(), topic(name));
        let keep = Keep { updates: Some(keep), ..Keep::everything() };
        journal.trim(&topic, keep, START).now_or_never().unwrap().unwrap();
    }

    fn follow(&self, name: &str, cursor: Cursor, wanted: Freshness) -> FollowResult {
        self.follow_at(name, cursor, wanted, NOW)
    }

    fn follow_at(&self, name: &str, cursor: Cursor, wanted: Freshness, now: Moment) -> FollowResult {
        let topic = topic(name);
        self.tail.follow(&topic, cursor, wanted, now).now_or_never().expect("nothing pauses").unwrap()
    }

    /// Follows to the end; gives the pages.
    fn follow_all(&self, name: &str, mut cursor: Cursor) -> Vec<Arc<SharedPage>> {
        let mut pages = Vec::new();
        while let FollowResult::Page { page, .. } = self.follow(name, cursor, ANY_AGE) {
            cursor = page.page().cursor();
            pages.push(page);
        }
        pages
    }

    fn in_memory(&self, name: &str, cursor: Cursor) -> bool {
        matches!(self.tail.get(&topic(name), cursor, ANY_AGE, Moment::default()), CacheLookup::Hit(_))
    }
}

fn page(followed: FollowResult) -> Arc<SharedPage> {
    let FollowResult::Page { page, .. } = followed else { panic!("there is a page: {followed:?}") };
    page
}

fn seqs(page: &SharedPage) -> Vec<u64> {
    page.page().updates.iter().map(|update| update.seq.as_u64()).collect()
}

#[test]
fn an_update_is_read_once_and_encoded_once_however_many_follow() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    for n in 1..=5 {
        let head = rig.append("t", updates(1, 10));
        let before = rig.store.reads();
        let pages: Vec<_> = (0..100).map(|_| page(rig.follow("t", at(start, n - 1), heard(head)))).collect();
        assert_eq!(rig.store.reads() - before, 1, "one read for a hundred followers");
        assert!(pages.iter().all(|page| Arc::ptr_eq(page, &pages[0])));
        for serializer in [Serializer::V1, Serializer::V2] {
            let (one, other) = (pages[0].frame(serializer, true), pages[99].frame(serializer, true));
            assert_eq!(one.as_ptr(), other.as_ptr());
        }
    }
}

#[test]
fn followers_that_come_together_share_the_read() {
    for behind in [false, true] {
        let rig = Rig::new(TailOptions::default());
        let start = rig.bounds("t").at_head();
        if !behind {
            rig.follow("t", start, since(NOW));
        }
        let head = rig.append("t", updates(1, 10));
        rig.store.pause(u64::MAX);
        let before = rig.store.reads();
        let topic = topic("t");
        let mut followers = join_all((0..50).map(|_| rig.tail.follow(&topic, start, heard(head), NOW)));
        let mut context = Context::from_waker(noop_waker_ref());
        let pages: Vec<_> = loop {
            if let Poll::Ready(followed) = followers.poll_unpin(&mut context) {
                break followed.into_iter().map(|followed| page(followed.unwrap())).collect();
            }
        };
        assert_eq!(rig.store.reads() - before, 1, "behind the ring: {behind}");
        assert!(pages.iter().all(|page| Arc::ptr_eq(page, &pages[0])), "behind the ring: {behind}");
    }
}

#[test]
fn a_reader_who_goes_away_takes_nobodys_read_along() {
    for behind in [false, true] {
        let rig = Rig::new(TailOptions::default());
        let start = rig.bounds("t").at_head();
        if !behind {
            rig.follow("t", start, since(NOW));
        }
        let head = rig.append("t", updates(1, 10));
        rig.store.pause(u64::MAX);
        let topic = topic("t");
        let mut context = Context::from_waker(noop_waker_ref());
        let mut first = rig.tail.follow(&topic, start, heard(head), NOW).boxed();
        let mut second = rig.tail.follow(&topic, start, heard(head), NOW).boxed();
        assert!(first.poll_unpin(&mut context).is_pending() && second.poll_unpin(&mut context).is_pending());
        drop(first);
        let followed = (0..10).find_map(|_| match second.poll_unpin(&mut context) {
            Poll::Ready(followed) => Some(followed.unwrap()),
            Poll::Pending => None,
        });
        assert_eq!(seqs(&page(followed.expect("it comes"))), [1], "behind the ring: {behind}");
    }
}

#[test]
fn fresh_cursors_cost_one_read_per_topic() {
    let rig = Rig::new(TailOptions::default());
    for name in ["a", "b", "c"] {
        let head = rig.append(name, updates(3, 10));
        let before = rig.store.reads();
        for _ in 0..100 {
            assert!(matches!(rig.follow(name, head, since(NOW)), FollowResult::CaughtUp { .. }));
        }
        assert_eq!(rig.store.reads() - before, 1);
    }
    let asked = rig.store.bounds.load(Ordering::Relaxed);
    for _ in 0..100 {
        let bounds = rig.tail.recent_bounds(&topic("d"), NOW, NOW).now_or_never().unwrap().unwrap();
        assert_eq!(bounds, (rig.bounds("d"), NOW));
    }
    assert_eq!(rig.store.bounds.load(Ordering::Relaxed) - asked, 1);
    let before = rig.store.reads();
    assert!(matches!(rig.follow("d", rig.bounds("d").at_head(), since(NOW)), FollowResult::CaughtUp { .. }));
    assert_eq!(rig.store.reads(), before, "the bounds are enough");
}

#[test]
fn nothing_new_is_never_older_than_was_asked_for() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    let later = NOW.plus(Duration::from_secs(9));
    rig.follow("t", start, since(NOW));
    rig.append("t", updates(1, 10));
    let FollowResult::CaughtUp { confirmed_at, .. } = rig.follow_at("t", start, since(NOW), later) else {
        panic!("nothing was announced, and this is new enough")
    };
    assert_eq!(confirmed_at, NOW);
    assert_eq!(seqs(&page(rig.follow_at("t", start, since(later), later))), [1]);
}

#[test]
fn the_tail_catches_up_with_a_log_that_went_on_and_was_trimmed_without_it() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    // Nobody follows while it grows, and is trimmed to nothing, through the tail.
    for _ in 0..3 {
        rig.tail.append(&topic("t"), updates(1, 10), START).now_or_never().unwrap().unwrap();
    }
    let keep = Keep { updates: Some(0), ..Keep::everything() };
    rig.tail.trim(&topic("t"), keep, START).now_or_never().unwrap().unwrap();
    for n in 4..=6 {
        let before = rig.store.reads();
        rig.tail.append(&topic("t"), updates(1, 10), START).now_or_never().unwrap().unwrap();
        let pages: Vec<_> = (0..20).map(|_| page(rig.follow("t", at(start, n - 1), ANY_AGE))).collect();
        assert!(pages.iter().all(|page| seqs(page) == [n]));
        assert_eq!(rig.store.reads() - before, 0, "at {n}");
    }
}

#[test]
fn what_is_appended_through_the_tail_is_not_read_and_what_stands_between_is() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    let own =
        |count| rig.tail.append(&topic("t"), updates(count, 10), START).now_or_never().unwrap().unwrap();
    let read = |after, before: usize| {
        (seqs(&page(rig.follow("t", at(start, after), ANY_AGE))), rig.store.reads() - before)
    };
    let before = rig.store.reads();
    own(1);
    own(2);
    assert_eq!(read(0, before), (vec![1, 2, 3], 0), "one page of all there is");
    own(1);
    assert_eq!(read(3, before), (vec![4], 0));
    assert_eq!(read(1, before), (vec![2, 3], 0), "what is in a page stays there");
    // Somebody else's comes between: from there on it is read.
    rig.append("t", updates(1, 10));
    own(1);
    assert_eq!(read(4, before), (vec![5, 6], 1));
    own(1);
    assert_eq!(read(6, before), (vec![7], 1), "and then it goes on by itself");
    for _ in 0..150 {
        own(2);
    }
    assert_eq!(read(7, before).0.len(), 200, "no page is larger than one that is sent at once");
    assert_eq!(read(207, before).0.len(), 100);
    assert_eq!(rig.store.reads() - before, 1);
}

#[test]
fn a_ring_holds_so_many_bytes() {
    let rig = Rig::new(TailOptions { topic_bytes: 20_000, ..TailOptions::default() });
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    for n in 0..100 {
        let head = rig.append("t", updates(1, 1_000));
        rig.follow("t", at(start, n), heard(head));
    }
    let held = (0..100).filter(|n| rig.in_memory("t", at(start, *n))).count();
    assert!((4..20).contains(&held), "{held}");
    assert!(rig.in_memory("t", at(start, 99)), "the newest");
    let all = rig.follow_all("t", start);
    assert_eq!(all.iter().flat_map(|page| seqs(page)).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
}

#[test]
fn small_updates_count_for_what_they_take() {
    let rig = Rig::new(TailOptions { topic_bytes: 20_000, ..TailOptions::default() });
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    for n in 0..200 {
        let head = rig.append("t", updates(1, 0));
        rig.follow("t", at(start, n), heard(head));
    }
    let held = (0..200).filter(|n| rig.in_memory("t", at(start, *n))).count();
    assert!(held < 100, "{held} pages of their own cannot be had for 100 bytes each");
}

#[test]
fn all_rings_together_hold_so_many_bytes() {
    let rig = Rig::new(TailOptions { total_bytes: 50_000, ..TailOptions::default() });
    let names: Vec<_> = (0..10).map(|n| format!("t{n}")).collect();
    for name in &names {
        rig.follow(name, rig.bounds(name).at_head(), since(NOW));
    }
    for n in 0..30 {
        for name in &names {
            let cursor = rig.bounds(name).at_head();
            let head = rig.append(name, updates(1, 1_000));
            assert_eq!(seqs(&page(rig.follow(name, cursor, heard(head)))), [n + 1]);
        }
    }
    let held = |name: &String| {
        let bounds = rig.bounds(name);
        (0..30).filter(|n| rig.in_memory(name, at(bounds.at_head(), *n))).count()
    };
    let all: usize = names.iter().map(held).sum();
    assert!(all <= 50, "{all} thousands of bytes");
    assert!(names.iter().all(|name| held(name) >= 1), "each keeps its newest page");
}

#[test]
fn topics_that_nobody_follows_are_forgotten() {
    let rig = Rig::new(TailOptions::default());
    let head = rig.append("idle", updates(1, 10));
    rig.follow("idle", head, since(NOW));
    assert!(rig.in_memory("idle", head));
    let later = NOW.plus(Duration::from_secs(61));
    for n in 0..2_000 {
        let name = format!("t{n}");
        rig.follow_at(&name, rig.bounds(&name).at_head(), since(later), later);
    }
    assert!(!rig.in_memory("idle", head));
    assert!(rig.in_memory("t0", rig.bounds("t0").at_head()), "and those that are followed are not");
}

#[test]
fn reading_a_topic_does_not_make_it_followed() {
    let rig = Rig::new(TailOptions::default());
    let head = rig.append("t", updates(3, 10));
    let read = rig.tail.read(&topic("t"), ReadFrom::Origin, ReadLimit::PAGE).now_or_never().unwrap().unwrap();
    assert!(matches!(read, Replay::Page(page) if page.updates.len() == 3));
    assert!(!rig.in_memory("t", head) && !rig.in_memory("t", at(head, 0)));
}

#[test]
fn a_head_that_was_seen_is_never_taken_back() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    let head = rig.append("t", updates(10, 10));
    rig.follow("t", start, heard(head));
    rig.append("t", updates(500, 10));
    let read = |after: u64, limit: usize| {
        let limit = ReadLimit::new(limit.try_into().unwrap(), usize::MAX);
        let topic = topic("t");
        let replay = rig.tail.read(&topic, ReadFrom::After(at(start, after)), limit);
        let Replay::Page(page) = replay.now_or_never().unwrap().unwrap() else {
            panic!("nothing was trimmed")
        };
        page.bounds.head.as_u64()
    };
    assert_eq!(read(20, 5), 510, "a page from the middle of the log shows the head");
    assert_eq!(read(0, 5), 510, "and so does one from memory, from then on");
}

#[test]
fn a_new_epoch_underneath_is_noticed() {
    let rig = Rig::new(TailOptions::default());
    let head = rig.append("t", updates(3, 10));
    rig.follow("t", head, since(NOW));
    rig.store.wipe();
    let new = rig.append("t", updates(2, 10));
    let later = NOW.plus(Duration::from_secs(9));
    // By an announcement, and by polling.
    for wanted in [heard(new), since(later)] {
        let FollowResult::Stale(stale) = rig.follow_at("t", head, wanted, later) else {
            panic!("it is over")
        };
        assert_eq!((stale.reasons, stale.bounds), (vec![StaleReason::EpochMismatch], rig.bounds("t")));
    }
    assert_eq!(seqs(&page(rig.follow("t", at(new, 0), ANY_AGE))), [1, 2]);
    assert!(rig.in_memory("t", new));
}

#[test]
fn a_trim_underneath_is_noticed() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    let head = rig.append("t", updates(10, 10));
    rig.trim("t", 4);
    let FollowResult::Stale(stale) = rig.follow("t", start, heard(head)) else { panic!("it is left behind") };
    assert_eq!(stale.reasons, [StaleReason::RetentionFloorBreach]);
    assert_eq!(seqs(&page(rig.follow("t", at(start, 6), ANY_AGE))), [7, 8, 9, 10]);
    // What the tail is told itself, it acts on at once.
    let keep = Keep { updates: Some(1), ..Keep::everything() };
    rig.tail.trim(&topic("t"), keep, START).now_or_never().unwrap().unwrap();
    assert!(matches!(rig.follow("t", at(start, 6), ANY_AGE), FollowResult::Stale(_)));
    assert_eq!(seqs(&page(rig.follow("t", at(start, 9), ANY_AGE))), [10]);
}

#[test]
fn a_reader_behind_the_ring_is_promoted_back() {
    let rig = Rig::new(TailOptions { topic_bytes: 4_000, ..TailOptions::default() });
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    for n in 0..50 {
        let head = rig.append("t", updates(1, 500));
        rig.follow("t", at(start, n), heard(head));
    }
    let before = rig.store.reads();
    let pages = rig.follow_all("t", start);
    assert_eq!(pages.iter().flat_map(|page| seqs(page)).collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>());
    assert_eq!(rig.store.reads() - before, 1, "one page from the journal, and the end is in memory");
}

#[test]
fn a_page_that_starts_within_a_ring_page_is_its_rest() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.append("t", updates(10, 10));
    rig.follow("t", start, since(NOW));
    let before = rig.store.reads();
    let rest = page(rig.follow("t", at(start, 7), ANY_AGE));
    assert_eq!((seqs(&rest), rest.page().after.as_u64()), (vec![8, 9, 10], 7));
    assert_eq!(rig.store.reads(), before);
}

#[test]
fn a_failed_read_is_reported_and_the_next_one_works() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    for wanted in [since(NOW), since(NOW.plus(Duration::from_secs(1)))] {
        rig.store.fail(1);
        let topic = topic("t");
        let failed = rig.tail.follow(&topic, start, wanted, NOW).now_or_never().unwrap();
        assert!(failed.unwrap_err().is_retryable());
        rig.follow("t", start, wanted);
    }
}

/// Appends five updates through the tail, and five more that `go_back` takes away.
fn ten_of_which_five_will_be_lost(rig: &Rig) -> (Cursor, MemoryStore) {
    let append = |count| {
        let append = rig.tail.append(&topic("t"), updates(count, 10), START).now_or_never().unwrap().unwrap();
        let Append::Written(receipt) = append else { panic!("nothing conflicts") };
        receipt.cursor()
    };
    append(5);
    let backup = rig.store.backup();
    (append(5), backup)
}

#[test]
fn a_journal_that_went_back_is_believed_and_nothing_that_it_lost_is_served() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    let (lost, backup) = ten_of_which_five_will_be_lost(&rig);
    assert_eq!(seqs(&page(rig.follow("t", start, ANY_AGE))).len(), 10, "from memory");
    rig.store.go_back(backup);
    // A follower at the lost head looks whether there is more.
    let later = NOW.plus(Duration::from_secs(10));
    let FollowResult::Stale(stale) = rig.follow_at("t", lost, since(later), later) else {
        panic!("it stands ahead of the journal")
    };
    assert_eq!((stale.reasons, stale.bounds.head), (vec![StaleReason::CursorAhead], at(start, 5).watermark));
    let served = page(rig.follow_at("t", start, ANY_AGE, later));
    assert_eq!(seqs(&served), [1, 2, 3, 4, 5], "what was lost is served to nobody");
    let end = rig.follow_at("t", at(start, 5), since(later), later);
    assert!(matches!(end, FollowResult::CaughtUp { bounds, .. } if bounds.head == at(start, 5).watermark));
    // What the journal has regrown is what is served.
    rig.tail.append(&topic("t"), updates(1, 99), START).now_or_never().unwrap().unwrap();
    let regrown = page(rig.follow_at("t", at(start, 5), ANY_AGE, later));
    assert_eq!((seqs(&regrown), regrown.page().updates[0].payload.as_str().len()), (vec![6], 101));
}

#[test]
fn a_resume_in_a_journal_that_went_back_is_answered_after_few_reads() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    let (_, backup) = ten_of_which_five_will_be_lost(&rig);
    let recent = |now| rig.tail.recent_bounds(&topic("t"), now, now).now_or_never().unwrap().unwrap().0.head;
    assert_eq!(recent(NOW), at(start, 10).watermark, "the tail knows the head, and has no page");
    rig.store.go_back(backup);
    let before = rig.store.reads();
    let topic = topic("t");
    let mut follow = rig.tail.follow(&topic, at(start, 5), ANY_AGE, NOW).boxed();
    // A loop without an end would not come back from being polled.
    rig.store.pause(0xAAAA_AAAA_AAAA_AAAA);
    let mut context = Context::from_waker(noop_waker_ref());
    let mut polls = 0..64;
    let followed = loop {
        assert!(polls.next().is_some(), "it is answered");
        if let Poll::Ready(followed) = follow.poll_unpin(&mut context) {
            break followed.unwrap();
        }
    };
    assert!(
        matches!(followed, FollowResult::CaughtUp { bounds, .. } if bounds.head == at(start, 5).watermark)
    );
    assert!(rig.store.reads() - before <= 3, "{} reads", rig.store.reads() - before);
    rig.store.pause(0);
    assert_eq!(recent(NOW), at(start, 5).watermark);
}

#[test]
fn an_append_below_the_known_head_shows_that_the_journal_went_back() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    let (_, backup) = ten_of_which_five_will_be_lost(&rig);
    rig.store.go_back(backup);
    rig.tail.append(&topic("t"), updates(1, 99), START).now_or_never().unwrap().unwrap();
    let seqs: Vec<_> = rig.follow_all("t", start).iter().flat_map(|page| seqs(page)).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn only_a_read_that_began_later_shows_that_the_journal_went_back() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    let topic = topic("t");
    let mut context = Context::from_waker(noop_waker_ref());
    // It has read that there is nothing, and is on its way while ten are appended.
    rig.store.pause(1 << 63);
    let mut early = rig.tail.bounds(&topic);
    assert!(early.poll_unpin(&mut context).is_pending());
    rig.store.pause(0);
    let (_, backup) = ten_of_which_five_will_be_lost(&rig);
    let Poll::Ready(Ok(bounds)) = early.poll_unpin(&mut context) else { panic!("it arrives") };
    assert_eq!(bounds.head, Watermark::ORIGIN);
    assert!(rig.in_memory("t", start), "it says nothing of what came after it began");
    rig.store.go_back(backup);
    let bounds = rig.tail.bounds(&topic).now_or_never().expect("nothing pauses").unwrap();
    assert_eq!(bounds.head, at(start, 5).watermark);
    assert!(!rig.in_memory("t", start), "what was remembered is gone");
}

#[test]
fn a_read_that_began_before_the_evidence_brings_nothing_back() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    let (lost, backup) = ten_of_which_five_will_be_lost(&rig);
    let topic = topic("t");
    let mut context = Context::from_waker(noop_waker_ref());
    // It has read what is lost then, and is on its way.
    rig.store.pause(1 << 63);
    let mut early = rig.tail.bounds(&topic);
    assert!(early.poll_unpin(&mut context).is_pending());
    rig.store.pause(0);
    rig.store.go_back(backup);
    let later = NOW.plus(Duration::from_secs(10));
    assert!(matches!(rig.follow_at("t", lost, since(later), later), FollowResult::Stale(_)));
    let Poll::Ready(Ok(bounds)) = early.poll_unpin(&mut context) else { panic!("it arrives") };
    assert_eq!(bounds.head, at(start, 10).watermark);
    let (known, _) = rig.tail.recent_bounds(&topic, NOW, later).now_or_never().unwrap().unwrap();
    assert_eq!(known.head, at(start, 5).watermark);
}

#[test]
fn a_read_of_what_is_new_looks_back_at_one_update_and_is_whole_nevertheless() {
    let rig = Rig::new(TailOptions::default());
    let start = rig.bounds("t").at_head();
    rig.follow("t", start, since(NOW));
    let head = rig.append("t", updates(1, 10));
    assert_eq!(seqs(&page(rig.follow("t", start, heard(head)))), [1]);
    // A full page, in one read.
    let head = rig.append("t", updates(150, 10));
    let before = (rig.store.reads(), rig.store.updates.load(Ordering::Relaxed));
    assert_eq!(seqs(&page(rig.follow("t", at(start, 1), heard(head)))).len(), 150);
    let after = (rig.store.reads(), rig.store.updates.load(Ordering::Relaxed));
    assert_eq!((after.0 - before.0, after.1 - before.1), (1, 151));
    // An update that no page has room for beside another.
    let head = rig.append("t", updates(1, 3 << 20));
    assert_eq!(seqs(&page(rig.follow("t", at(start, 151), heard(head)))), [152]);
    // That one is too large to be read twice.
    let before = rig.store.updates.load(Ordering::Relaxed);
    let head = rig.append("t", updates(1, 10));
    assert_eq!(seqs(&page(rig.follow("t", at(start, 152), heard(head)))), [153]);
    assert_eq!(rig.store.updates.load(Ordering::Relaxed) - before, 1);
    // What is looked back at was trimmed.
    let head = rig.append("t", updates(2, 10));
    rig.trim("t", 2);
    assert_eq!(seqs(&page(rig.follow("t", at(start, 153), heard(head)))), [154, 155]);
    rig.trim("t", 0);
    let later = NOW.plus(Duration::from_secs(9));
    assert!(matches!(rig.follow_at("t", head, since(later), later), FollowResult::CaughtUp { .. }));
}

#[test]
fn other_updates_in_the_place_of_those_that_are_held_are_noticed_also_where_they_were_let_go() {
    for forgets in [false, true] {
        let rig = Rig::new(TailOptions {
            total_bytes: if forgets { 1 } else { 1 << 20 },
            ..TailOptions::default()
        });
        let start = rig.bounds("t").at_head();
        rig.follow("t", start, since(NOW));
        let (lost, backup) = ten_of_which_five_will_be_lost(&rig);
        rig.follow("t", start, ANY_AGE);
        if forgets {
            // What another topic is filled with takes its place.
            rig.follow("u", rig.bounds("u").at_head(), since(NOW));
            let head = rig.append("u", updates(1, 10));
            rig.follow("u", at(head, 0), heard(head));
            assert!(!rig.in_memory("t", at(start, 0)));
        }
        rig.store.go_back(backup);
        rig.append("t", updates(6, 11));
        let head = rig.bounds("t").at_head();
        let FollowResult::Stale(stale) = rig.follow("t", lost, heard(head)) else {
            panic!("it follows what was lost")
        };
        assert_eq!((stale.reasons, stale.bounds.head), (vec![StaleReason::EpochMismatch], head.watermark));
        assert!(!rig.in_memory("t", at(start, 5)), "what was lost is served to nobody");
        assert_eq!(rig.follow_all("t", start).iter().map(|page| seqs(page).len()).sum::<usize>(), 11);
    }
}
