//! What a sweep looks at: what is due, and not what was ever created.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use khala_core::{
    Topic,
    class::{Retain, TopicClass},
    journal::Keep,
    retention::{ClassRetention, Retention, RetentionInput, SweepOptions},
};

use super::{Node, Trimming, class, done, few};
use crate::clock::TestClock;

const DAY: Duration = Duration::from_secs(86_400);

/// What the journal was asked since the last time: plans, trims, pages of what is due, and puttings off.
fn asked(node: &Node) -> [usize; 4] {
    let journal = &node.journal;
    [&journal.plans, &journal.trims, &journal.pages, &journal.settles]
        .map(|asked| asked.swap(0, Ordering::Relaxed))
}

#[test]
fn a_sweep_of_idle_topics_asks_about_none_of_them() {
    let node = Node::new(SweepOptions::default());
    for n in 0..5_000 {
        node.publish(&format!("all:{n}"), 1);
    }
    assert_eq!(done(node.sweep()).topics, 5_000);
    let [plans, _, pages, settles] = asked(&node);
    assert_eq!(plans, 5_000);
    assert!(pages <= 12 && settles <= 12, "{pages} {settles}: many at once, and not each");

    let record = done(node.sweep());
    assert_eq!((record.topics, record.updates), (0, 0));
    assert_eq!(asked(&node), [0, 0, 2, 1], "it costs as much as one of no topics");
    assert_eq!(node.plan().topics, 0);
    // What is appended to is due, and nothing else.
    node.publish("all:17", 1);
    node.publish("few:1", 10);
    asked(&node);
    let record = done(node.sweep());
    assert_eq!((record.topics, record.topics_trimmed, record.updates), (2, 1, 7));
    assert_eq!(asked(&node)[..2], [2, 1]);

    // Each is looked at once a week at least, and not all at one time.
    let mut looked_at = Vec::new();
    for _ in 0..14 {
        node.host.clock.pass(DAY / 2);
        looked_at.push(done(node.sweep()).topics);
    }
    assert!(looked_at.iter().sum::<u64>() >= 5_001, "{looked_at:?}");
    assert!(looked_at.iter().all(|topics| *topics < 2_000), "{looked_at:?}");
}

#[test]
fn an_empty_topic_that_nobody_publishes_to_is_retired() {
    let week = 7 * DAY;
    let node = aged(Trimming::new(), TestClock::new(), DAY);
    node.publish("aged:1", 2);
    done(node.sweep());
    node.host.clock.pass(DAY + Duration::from_millis(1));
    assert_eq!(done(node.sweep()).updates, 2);
    // Looked at now and then, it is retired, and not before a week has passed since it was published to.
    let (mut took, mut looks) = (DAY, 0);
    while node.listed() == ["aged:1"] {
        node.host.clock.pass(DAY / 4);
        took += DAY / 4;
        looks += done(node.sweep()).topics;
    }
    assert!((week..=2 * week).contains(&took) && (1..=4).contains(&looks), "{took:?}, {looks} looks");
    node.host.clock.pass(3 * week);
    assert_eq!(done(node.sweep()).topics, 0, "nobody looks at it again");
    assert_eq!(node.bounds("aged:1"), (2, 2));
    node.publish("aged:1", 1);
    assert_eq!((node.listed(), node.bounds("aged:1")), (vec!["aged:1".to_owned()], (2, 3)));
}

#[test]
fn a_topic_is_due_when_its_oldest_update_is_too_old() {
    let node = aged(Trimming::new(), TestClock::new(), DAY);
    node.publish("aged:1", 2);
    node.host.clock.pass(DAY / 2);
    node.publish("aged:1", 3);
    assert_eq!(done(node.sweep()).updates, 0);
    node.host.clock.pass(DAY / 2);
    assert_eq!(done(node.sweep()).topics, 0, "they are at most a day old");
    node.host.clock.pass(Duration::from_millis(1));
    assert_eq!(node.plan().updates, 2);
    assert_eq!(done(node.sweep()).updates, 2);
    node.host.clock.pass(DAY / 2);
    assert_eq!(done(node.sweep()).updates, 3);
    assert_eq!(node.bounds("aged:1"), (5, 5));
}

#[test]
fn other_rules_are_asked_about_everything() {
    let (journal, clock) = (Trimming::new(), TestClock::new());
    let long = aged(Arc::clone(&journal), Arc::clone(&clock), 30 * DAY);
    for n in 0..1_200 {
        long.publish(&format!("aged:{n}"), 1);
    }
    clock.pass(DAY);
    assert_eq!((done(long.sweep()).topics, done(long.sweep()).topics), (1_200, 0));
    // The same journal under a class that keeps less: by a new configuration, or by another node.
    let short = aged(Arc::clone(&journal), Arc::clone(&clock), DAY / 2);
    assert_eq!(short.plan().updates, 1_200, "also by a plan, before anything is swept");
    assert_eq!(done(long.sweep()).topics, 0, "a plan changes nothing");
    assert_eq!(done(short.sweep()).updates, 1_200);
    assert_eq!(done(short.sweep()).topics, 0);
    assert_eq!(done(long.sweep()).topics, 1_200, "and back");
}

#[test]
fn a_clock_that_was_ahead_puts_nothing_off() {
    let node = aged(Trimming::new(), TestClock::new(), 10 * DAY);
    node.publish("aged:1", 1);
    node.host.clock.pass(400 * DAY);
    node.publish("aged:2", 1);
    assert_eq!(done(node.sweep()).updates, 1);
    node.host.clock.set_back(400 * DAY);
    let record = done(node.sweep());
    assert_eq!(record.topics, 2, "both were put off for more than a year");
    assert_eq!(done(node.sweep()).topics, 1, "what the clock that was ahead stored is looked at each time");
}

#[test]
fn a_rule_of_ones_own_is_asked_about_every_topic_each_time() {
    #[derive(Debug)]
    struct Evenly;

    impl Retention for Evenly {
        fn keep(&self, topic: &Topic, class: &TopicClass, input: &RetentionInput) -> Keep {
            ClassRetention.keep(topic, class, input)
        }
    }

    let (sweeps, clock) = (Arc::default(), TestClock::new());
    let node = Node::of("a", SweepOptions::default(), Trimming::new(), sweeps, clock, Arc::new(Evenly));
    node.publish("few:1", 1);
    node.publish("all:1", 1);
    for _ in 0..3 {
        assert_eq!(done(node.sweep()).topics, 2);
    }
    // Unless the journal is swept by others, too.
    let other = node.beside("b");
    assert_eq!((done(other.sweep()).topics, done(other.sweep()).topics), (2, 0));
    assert_eq!(done(node.sweep()).topics, 2);
}

/// A node with a class `aged` that keeps updates for that long.
fn aged(journal: Arc<Trimming>, clock: Arc<TestClock>, age: Duration) -> Node {
    let classes =
        vec![class("aged", Retain { age: Some(age), ..Retain::everything() }), class("few", few(3))];
    let classes = khala_core::class::Classes::new(classes).unwrap();
    Node::with(
        classes,
        "a",
        SweepOptions::default(),
        journal,
        Arc::default(),
        clock,
        Arc::new(ClassRetention),
    )
}
