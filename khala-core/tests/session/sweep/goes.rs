//! What goes by a sweep, as it was planned, and what the guard holds back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::FutureExt as _;
use khala_core::{
    Append, Batch, DocKey, Kind, NewUpdate, Payload, Subscription, Topic,
    class::TopicClass,
    clock::Clock as _,
    journal::{DEDUP_FOR, Keep},
    retention::{
        ClassRetention, Retention, RetentionInput, SweepOptions, SweepOrder, SweepOutcome, SweepTrigger,
        Swept,
    },
    update::DedupKey,
};
use serde_json::json;

use super::{Node, Trimming, done, finished};
use crate::{
    clock::TestClock,
    host::{HOUR, seconds, topic},
    rig::update,
};

#[test]
fn a_plan_names_what_goes_and_a_sweep_does_that() {
    let node = Node::new(SweepOptions::default());
    let begun = node.host.clock.now();
    for (name, updates) in [("few:1", 10), ("few:2", 2), ("one:1", 5), ("all:1", 9), ("other", 7)] {
        node.publish(name, updates);
        node.host.clock.pass(seconds(1));
    }
    let plan = node.plan();
    assert_eq!((plan.topics, plan.topics_trimmed, plan.topics_failed, plan.updates), (5, 2, 0, 11));
    assert_eq!((plan.guard, plan.held_back, plan.error.clone()), (None, false, None));
    let worst: Vec<_> = plan.worst.iter().map(|plan| (plan.topic.as_str(), &*plan.class)).collect();
    assert_eq!(worst, [("few:1", "few"), ("one:1", "one")]);
    let few = &plan.worst[0];
    assert_eq!((few.floor.as_u64(), few.floor_after.as_u64(), few.head.as_u64(), few.updates), (0, 7, 10, 7));
    let classes: Vec<_> = (plan.classes.iter())
        .map(|class| (&*class.class, class.topics, class.topics_trimmed, class.updates))
        .collect();
    assert_eq!(
        classes,
        [("few", 2, 1, 7), ("one", 1, 1, 4), ("all", 1, 0, 0), ("unread", 0, 0, 0), ("none", 1, 0, 0)]
    );
    let oldest: Vec<_> = plan.classes.iter().map(|class| class.oldest_kept).collect();
    let at = |n| Some(begun.plus(seconds(n)));
    assert_eq!(oldest, [at(0), at(2), at(3), None, at(4)]);
    assert_eq!(node.bounds("few:1"), (0, 10), "a plan changes nothing");
    assert_eq!(node.journal.trims.load(Ordering::Relaxed), 0);
    assert_eq!(node.records(), []);

    let record = done(node.sweep());
    assert_eq!((record.node.as_str(), record.outcome), ("a", SweepOutcome::Swept));
    assert_eq!((record.began_at, record.trigger), (node.host.clock.now(), SweepTrigger::Order));
    assert_eq!((record.topics, record.topics_trimmed, record.updates), (5, 2, 11));
    assert_eq!((record.bytes, &record.classes), (plan.bytes, &plan.classes));
    assert_eq!((record.topics_failed, record.error.clone()), (0, None));
    let bounds = ["few:1", "few:2", "one:1", "all:1", "other"].map(|name| node.bounds(name));
    assert_eq!(bounds, [(7, 10), (0, 2), (4, 5), (0, 9), (0, 7)]);
    assert_eq!(node.records(), [record]);

    let again = done(node.sweep());
    assert_eq!((again.topics, again.updates, again.bytes), (0, 0, 0), "nothing is due");
    assert_eq!(node.records().len(), 2);
}

/// A node on whose topic `few:1` of twenty updates somebody stands at the start, and somebody left at five.
fn with_followers(options: SweepOptions) -> (Node, Subscription) {
    let node = Node::new(options);
    node.publish("few:1", 5);
    let reading = node.follow("few:1");
    let mut peer = node.host.connect(HOUR);
    let reply = peer.join("few:1", &json!({"from": "floor"}));
    assert_eq!(reply[0][4]["status"], "ok", "{reply:?}");
    drop(peer);
    node.publish("few:1", 15);
    (node, reading)
}

#[test]
fn the_guard_holds_back_and_force_does_not_ask_it() {
    let (node, reading) =
        with_followers(SweepOptions { max_stale_cursors: Some(1), ..SweepOptions::default() });
    let plan = node.plan();
    assert_eq!((plan.stale_connected, plan.stale_seen), (1, 1));
    assert_eq!((plan.guard, plan.held_back), (Some(1), true));
    assert_eq!((plan.worst[0].stale_connected, plan.worst[0].stale_seen), (1, 1));

    let Swept::HeldBack(record) = node.sweep() else { panic!("the guard allows one") };
    assert_eq!((record.outcome, record.stale_connected, record.stale_seen), (SweepOutcome::HeldBack, 1, 1));
    assert_eq!((record.topics, record.updates, record.classes[0].oldest_kept), (1, 0, None));
    assert_eq!(node.bounds("few:1"), (0, 20));
    let forced = done(node.ordered(SweepOrder { force: true, ..SweepOrder::new(SweepTrigger::Order) }));
    assert_eq!((forced.updates, forced.stale_connected, forced.stale_seen), (17, 1, 1));
    assert_eq!(node.bounds("few:1"), (17, 20));
    assert_eq!(node.records(), [forced, record]);

    // Who is behind already is left behind by nobody else.
    node.publish("few:1", 1);
    let next = done(node.sweep());
    assert_eq!((next.updates, next.stale_connected, next.stale_seen), (1, 0, 0));
    drop(reading);
}

#[test]
fn a_cursor_that_was_seen_too_long_ago_counts_no_more() {
    let options =
        SweepOptions { max_stale_cursors: Some(0), recent_cursor: seconds(60), ..SweepOptions::default() };
    let (node, reading) = with_followers(options);
    drop(reading);
    node.host.clock.pass(seconds(60));
    assert!(node.plan().held_back);
    node.host.clock.pass(seconds(1));
    assert!(!node.plan().held_back);
    done(node.sweep());
}

#[test]
fn a_rule_of_ones_own_may_spare_readers() {
    #[derive(Debug)]
    struct ForReaders;

    impl Retention for ForReaders {
        fn keep(&self, topic: &Topic, class: &TopicClass, input: &RetentionInput) -> Keep {
            let keep = ClassRetention.keep(topic, class, input);
            input.slowest_connected.map_or(keep, |slowest| Keep { never_past: Some(slowest), ..keep })
        }
    }

    let options = SweepOptions { max_stale_cursors: Some(0), ..SweepOptions::default() };
    let (sweeps, clock) = (Arc::default(), TestClock::new());
    let node = Node::of("a", options, Trimming::new(), sweeps, clock, Arc::new(ForReaders));
    node.publish("few:1", 10);
    let reading = node.follow("few:1");
    assert_eq!(done(node.sweep()).updates, 0);
    drop(reading);
    assert_eq!(done(node.sweep()).updates, 7);
}

#[test]
fn old_dedup_keys_go_from_topics_that_lose_nothing_else() {
    let node = Node::new(SweepOptions::default());
    let quiet = topic("unread:1");
    let named = || Batch::new(vec![update(1)]).unwrap().with_dedup(DedupKey::parse("once").unwrap());
    let publish = || node.host.khala.publish(&quiet, named()).now_or_never().unwrap().unwrap();
    assert!(matches!(publish(), Append::Written(_)));
    node.publish("few:1", 3);
    let trims = || node.journal.trims.swap(0, Ordering::Relaxed);
    assert_eq!((done(node.sweep()).updates, trims()), (1, 1));
    // Emptied, it has nothing to lose; it is not looked after at every sweep.
    assert_eq!((done(node.sweep()).updates, trims()), (0, 0));
    node.host.clock.pass(DEDUP_FOR - seconds(1));
    assert_eq!((done(node.sweep()).updates, trims()), (0, 0));
    assert!(matches!(publish(), Append::Duplicate(_)));
    node.host.clock.pass(seconds(1));
    assert_eq!((done(node.sweep()).updates, trims()), (0, 1));
    assert!(matches!(publish(), Append::Written(_)));
}

#[test]
fn however_many_topics_there_are_all_are_swept() {
    let node = Node::new(SweepOptions::default());
    // More than are remembered from planning to trimming, two times over.
    let topics = 20_500;
    for n in 0..topics {
        node.publish(&format!("one:{n}"), 2);
    }
    node.publish("few:1", 2);
    let (plans, trims) = (&node.journal.plans, &node.journal.trims);
    let record = done(node.sweep());
    assert_eq!((record.topics, record.topics_trimmed, record.updates), (topics + 1, topics, topics));
    assert_eq!(record.classes[1].topics, topics);
    assert!(record.classes.iter().take(2).all(|class| class.oldest_kept.is_some()));
    assert_eq!(trims.load(Ordering::Relaxed), usize::try_from(topics).unwrap());
    let plans = plans.load(Ordering::Relaxed);
    assert!(plans < 32_000, "{plans}: those that are remembered are not planned for again");
    assert_eq!(node.plan().updates, 0);
}

#[test]
fn who_reads_a_snapshot_counts_among_those_whom_a_sweep_leaves_behind() {
    let node = Node::new(SweepOptions { max_stale_cursors: Some(0), ..SweepOptions::default() });
    for n in 0..1_000 {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::null())
            .doc_key(DocKey::parse(&format!("d{n:04}")).unwrap());
        let batch = Batch::new(vec![update]).unwrap();
        node.host.khala.publish(&topic("few:1"), batch).now_or_never().unwrap().unwrap();
    }
    // The log continues from 1,000 for a client that has the answer and a page, and takes its time with the others.
    let mut peer = node.host.connect(HOUR);
    peer.take(2);
    assert_eq!(peer.join("few:1", &json!({"from": "snapshot"}))[0][4]["response"]["after"], 1_000);
    node.publish("few:1", 10);
    let plan = node.plan();
    assert_eq!(plan.worst[0].floor_after.as_u64(), 1_007);
    assert_eq!(
        (plan.stale_connected, plan.held_back),
        (1, true),
        "its snapshot is void, and it starts again"
    );
}

#[test]
fn one_client_that_comes_and_goes_does_not_make_the_guard_forget_the_others() {
    let (node, reading) =
        with_followers(SweepOptions { max_stale_cursors: Some(0), ..SweepOptions::default() });
    drop(reading);
    assert_eq!(node.plan().stale_seen, 1);
    // Within the hour another joins and leaves a topic, 30 times a second, and stands at its head all the while.
    let grant = node.host.grant(HOUR);
    let mut restless = node.host.admit(grant);
    for _ in 0..100_001 {
        restless.join("all:1", &json!({}));
        restless.say("all:1", "phx_leave", &json!({}));
        restless.sent();
        node.host.clock.pass(Duration::from_millis(30));
    }
    assert_eq!(node.plan().stale_seen, 1, "two cursors are remembered, and there is room for 100,000");
}

#[test]
fn what_is_published_after_the_guard_was_asked_leaves_nobody_behind() {
    let node = Node::new(SweepOptions { max_stale_cursors: Some(0), ..SweepOptions::default() });
    node.publish("few:1", 1);
    let mut reading = node.follow("few:1");
    let reading = finished(async move {
        reading.next().await.unwrap().unwrap();
        reading
    });
    node.publish("few:1", 3);
    assert!(!node.plan().held_back, "a cursor at the floor is good");
    // The sweep is under way, with other topics before this one; meanwhile more is published.
    node.journal.hold(true);
    let mut sweeping = node.sweeping(SweepOrder::new(SweepTrigger::Schedule));
    sweeping.run();
    node.publish("few:1", 5);
    node.journal.hold(false);
    sweeping.run();
    let record = done(sweeping.done.unwrap().unwrap());
    assert_eq!((record.stale_connected, node.bounds("few:1")), (0, (1, 9)), "the guard allows none");
    drop(reading);
}
