//! The tail under the node's budget of memory: what it lets go of, in which order, and that no follower notices.

use futures::FutureExt as _;
use khala_core::{
    Append, Batch, Cursor, Khala, Kind, MemoryStore, NewUpdate, Payload, Timestamp, Topic, Watermark,
    budget::{MemoryBudget, MemoryPart},
    clock::Moment,
    journal::Journal as _,
    replay::ReplayOptions,
    tail::{CacheLookup, FollowResult, Freshness},
};
use serde_json::json;

use crate::{
    clock::TestClock,
    guards::Ledger,
    host::{HOUR, Host, seconds, seqs},
};

const NOW: Moment = Moment::from_millis(1_000_000);
const ANY_AGE: Freshness = Freshness { head: None, not_older_than: Moment::from_millis(0) };
const LIMIT: u64 = 400_000;

struct Rig(Khala);

impl Rig {
    fn new() -> Self {
        let khala = Khala::builder(MemoryStore::new())
            .with_clock(TestClock::new())
            .with_memory(MemoryBudget::new(Some(LIMIT)));
        Self(khala.build())
    }

    /// A topic that is followed from its start on.
    fn followed(&self, name: &str) -> (Topic, Cursor) {
        let topic = Topic::parse(name).unwrap();
        let start = self.0.journal().bounds(&topic).now_or_never().unwrap().unwrap().at_head();
        self.next(&topic, start);
        (topic, start)
    }

    /// Appends one update of 1,000 bytes at a time; each is handed to a follower before the next one comes.
    fn append(&self, topic: &Topic, count: usize) {
        for _ in 0..count {
            let payload = Payload::parse(&format!("\"{}\"", "x".repeat(1_000))).unwrap();
            let batch = Batch::new(vec![NewUpdate::new(Kind::parse("k").unwrap(), payload)]).unwrap();
            let append = self.0.journal().append(topic, batch, Timestamp::from_millis(1)).now_or_never();
            let Append::Written(receipt) = append.unwrap().unwrap() else { panic!("nothing conflicts") };
            let before = Watermark::new(receipt.first.as_u64() - 1).unwrap();
            self.next(topic, Cursor::new(receipt.epoch, before));
        }
    }

    fn next(&self, topic: &Topic, cursor: Cursor) -> FollowResult {
        self.0.journal().follow(topic, cursor, ANY_AGE, NOW).now_or_never().expect("nothing pauses").unwrap()
    }

    /// Which watermarks of the first `count` a follower need not ask the journal at.
    fn in_memory(&self, (topic, start): &(Topic, Cursor), count: u64) -> Vec<u64> {
        let found = |after: &u64| {
            let cursor = Cursor::new(start.epoch, Watermark::new(*after).unwrap());
            matches!(self.0.journal().get(topic, cursor, ANY_AGE, NOW), CacheLookup::Hit(_))
        };
        (0..count).filter(found).collect()
    }

    fn tail(&self) -> u64 {
        self.0.memory().taken_by(MemoryPart::Tail)
    }

    /// Everything that a follower is given that comes back to the start.
    fn seqs(&self, (topic, start): &(Topic, Cursor)) -> Vec<u64> {
        let (mut cursor, mut seqs) = (*start, Vec::new());
        while let FollowResult::Page { page, .. } = self.next(topic, cursor) {
            cursor = page.page().cursor();
            seqs.extend(page.page().updates.iter().map(|update| update.seq.as_u64()));
        }
        seqs
    }
}

#[test]
fn what_all_followers_have_goes_first_and_none_misses_anything() {
    let rig = Rig::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| rig.followed(name));
    for (topic, _) in [&a, &b, &c] {
        rig.append(topic, 10);
    }
    assert_eq!([&a, &b, &c].map(|topic| rig.in_memory(topic, 10).len()), [10, 10, 10]);

    // Unsent frames take all but room for two updates: the topic that grows lets its own old pages go, and no other does.
    let mut frames = rig.0.memory().share(MemoryPart::Frames);
    frames.hold(LIMIT - rig.tail() - 6_000);
    rig.append(&c.0, 5);
    let held = rig.in_memory(&c, 15);
    assert!((2..15).contains(&held.len()), "{held:?}");
    assert_eq!(
        held,
        (15 - held.len() as u64..15).collect::<Vec<_>>(),
        "the oldest went, the newest are here"
    );
    assert_eq!([&a, &b].map(|topic| rig.in_memory(topic, 10).len()), [10, 10]);
    assert!(rig.0.memory().taken() < LIMIT);

    // Of the growing topic the newest page stays, which its followers have not had yet. Of the others the one goes that was
    // filled longest ago, and no more than it takes.
    frames.hold(LIMIT - rig.tail() + 40_000);
    rig.append(&c.0, 1);
    assert_eq!(rig.in_memory(&c, 16), [15]);
    assert_eq!([&a, &b].map(|topic| rig.in_memory(topic, 10).len()), [0, 10]);
    assert!(rig.0.memory().taken() < LIMIT);

    // Where others have spent all of it, nothing is left but that page.
    frames.hold(LIMIT);
    rig.append(&c.0, 1);
    assert_eq!((rig.in_memory(&c, 17), rig.in_memory(&b, 10).len()), (vec![16], 0));
    assert!(rig.tail() < 4_000, "{}", rig.tail());

    for (topic, count) in [(&a, 10), (&b, 10), (&c, 17)] {
        assert_eq!(rig.seqs(topic), (1..=count).collect::<Vec<_>>(), "it is read from the journal again");
    }
    drop(frames);
    rig.append(&a.0, 5);
    assert_eq!(
        rig.in_memory(&a, 15)[..],
        (10..15).collect::<Vec<_>>()[..],
        "with memory it keeps what comes"
    );
}

#[test]
fn the_tail_leaves_half_of_the_budget_to_others() {
    let rig = Rig::new();
    let topics: Vec<_> = (0..20).map(|number| rig.followed(&format!("t{number}"))).collect();
    for (topic, _) in &topics {
        rig.append(topic, 20);
    }
    assert!((LIMIT / 4..=LIMIT / 2 + 4_000).contains(&rig.tail()), "{}", rig.tail());
    let mut body = rig.0.memory().share(MemoryPart::Bodies);
    body.grow(LIMIT / 2 - 10_000).expect("a body finds room beside a full tail");
    for topic in &topics {
        assert_eq!(rig.seqs(topic), (1..=20).collect::<Vec<_>>());
    }
}

#[test]
fn history_that_waits_for_others_makes_room_for_those_who_come() {
    let limit = 8 << 20;
    let budget = MemoryBudget::new(Some(limit));
    let mut host = Host::built(200, Ledger::default(), |khala| {
        khala
            .with_memory(budget.clone())
            .with_replays(ReplayOptions { rate_while_appending: None, ..ReplayOptions::default() })
    });
    let names = ["a", "b", "c", "d"];
    for name in names.iter().chain(&["e"]) {
        (0..3).for_each(|_| host.publish(name, 1_000));
    }
    // They take little, so what was read ahead for them waits; nothing of what is new is held.
    let mut slow: Vec<_> = names.iter().map(|_| host.connect(HOUR)).collect();
    for (peer, name) in slow.iter_mut().zip(names) {
        peer.take(2);
        peer.join(name, &json!({"from": "floor"}));
    }
    let held = budget.taken_by(MemoryPart::Tail);
    assert!(held > 1 << 20, "{held}");
    let mut bodies = budget.share(MemoryPart::Bodies);
    bodies.hold(limit - held / 2);
    assert!(budget.is_spent());
    let mut other = host.connect(HOUR);
    let mut sent = other.join("e", &json!({"from": "floor"}));
    host.pass(seconds(1), &mut [&mut other]);
    sent.extend(other.sent());
    assert_eq!(seqs(&sent).len(), 3_000, "it does not wait for the bodies");
}
