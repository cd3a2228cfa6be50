//! Who sweeps, when, and that others get their turns meanwhile.

use std::time::Duration;

use futures::FutureExt as _;
use khala_core::{
    clock::Clock as _,
    node::NodeId,
    retention::{SweepOptions, SweepOrder, SweepOutcome, SweepTrigger, Sweeps as _, Swept},
};

use super::{Node, busy, done, failed};
use crate::{clock::Task, host::seconds};

#[test]
fn one_node_sweeps_at_a_time() {
    let one = Node::new(SweepOptions::default());
    let other = one.beside("b");
    one.publish("few:1", 10);
    one.journal.hold(true);
    let mut sweeping = one.sweeping(SweepOrder::new(SweepTrigger::Schedule));
    sweeping.run();
    assert!(sweeping.done.is_none());
    let (until, lease_duration) = (one.host.clock.now().plus(seconds(60)), seconds(60));
    assert_eq!(busy(other.sweep()), ("a".into(), until));
    assert_eq!(busy(one.sweep()), ("a".into(), until), "nor twice on the same node");
    // A plan is for everybody.
    assert_eq!(other.plan().updates, 7);

    // However long it takes, it leads.
    for _ in 0..30 {
        one.host.clock.pass(lease_duration / 6);
        sweeping.run();
        busy(other.sweep());
        busy(one.sweep());
    }
    one.journal.hold(false);
    sweeping.run();
    let record = done(sweeping.done.unwrap().unwrap());
    assert_eq!((record.updates, record.took_ms), (7, 5 * 60 * 1_000));
    // It has given the lead up.
    assert_eq!(done(other.sweep()).node.as_str(), "b");
    assert_eq!(done(one.sweep()).node.as_str(), "a");
}

#[test]
fn a_lead_that_has_ended_is_taken() {
    let one = Node::new(SweepOptions::default());
    let other = one.beside("b");
    one.publish("few:1", 10);
    one.journal.hold(true);
    let mut killed = one.sweeping(SweepOrder::new(SweepTrigger::Schedule));
    killed.run();
    drop(killed);
    one.journal.hold(false);
    busy(other.sweep());
    one.host.clock.pass(seconds(59));
    busy(other.sweep());
    one.host.clock.pass(seconds(1));
    assert_eq!(done(other.sweep()).updates, 7);
    assert_eq!(one.records().len(), 1, "what was killed is not recorded");

    // The node that dropped its run leads still, and goes on at once.
    one.publish("few:1", 1);
    one.journal.hold(true);
    let mut dropped = one.sweeping(SweepOrder::new(SweepTrigger::Schedule));
    dropped.run();
    drop(dropped);
    one.journal.hold(false);
    assert_eq!(done(one.sweep()).updates, 1);
}

#[test]
fn a_node_that_lost_its_lead_stops() {
    let one = Node::new(SweepOptions::default());
    let other = one.beside("b");
    for n in 0..4 {
        one.publish(&format!("few:{n}"), 10);
    }
    one.journal.hold(true);
    let mut stopped = one.sweeping(SweepOrder::new(SweepTrigger::Schedule));
    stopped.run();
    // Its process stands still.
    one.host.clock.pass(seconds(61));
    let mut taken = other.sweeping(SweepOrder::new(SweepTrigger::Schedule));
    taken.run();
    assert!(taken.done.is_none(), "it leads, and waits for the journal");
    stopped.run();
    let record = failed(stopped.done.unwrap().unwrap());
    assert_eq!(record.error.as_deref(), Some("sweep: the lease was lost: b has it"));
    assert_eq!((record.topics, record.updates), (4, 0));
    one.journal.hold(false);
    taken.run();
    assert_eq!(done(taken.done.unwrap().unwrap()).updates, 28);
}

#[test]
fn appends_go_on_between_the_topics_of_a_sweep() {
    let node = Node::new(SweepOptions::default());
    for n in 0..50 {
        node.publish(&format!("one:{n}"), 10);
    }
    let khala = node.host.khala.clone();
    let mut sweep = Box::pin(khala.retention().sweep(SweepOrder::new(SweepTrigger::Order)));
    let mut between = 0;
    let swept = loop {
        // One poll, as often as it takes.
        if let Some(swept) = sweep.as_mut().now_or_never() {
            break swept.unwrap();
        }
        between += 1;
        node.publish("all:1", 1);
    };
    assert!(between >= 100, "{between}: it lets others run after each plan and each trim");
    assert_eq!(done(swept).updates, 50 * 9);
    assert_eq!(node.bounds("all:1").1, between);
}

#[test]
fn it_sweeps_by_schedule() {
    let every = seconds(600);
    let one = Node::new(SweepOptions::default());
    let other = one.beside("b");
    let keeping = |node: &Node| {
        let khala = node.host.khala.clone();
        Task::new(async move { khala.retention().run_sweeper(every).await })
    };
    let (mut first, mut second) = (keeping(&one), keeping(&other));
    first.run();
    second.run();
    one.publish("few:1", 10);
    one.host.clock.pass(every - seconds(1));
    first.run();
    assert_eq!(one.records(), []);
    // At most a tenth later.
    one.host.clock.pass(seconds(61));
    first.run();
    second.run();
    let records = one.records();
    assert_eq!(records.len(), 1, "the other node sees that it was swept just now");
    assert_eq!((records[0].node.as_str(), records[0].trigger), ("a", SweepTrigger::Schedule));
    assert_eq!(records[0].updates, 7);

    // What fails is tried again at the next turn.
    drop(second);
    one.journal.fail(&[""]);
    one.publish("few:1", 10);
    one.host.clock.pass(every * 11 / 10);
    first.run();
    one.journal.fail(&["(topics)"]);
    one.host.clock.pass(every * 11 / 10);
    first.run();
    one.journal.fail(&[]);
    one.host.clock.pass(every * 11 / 10);
    first.run();
    let outcomes: Vec<_> = one.records().iter().map(|record| (record.outcome, record.updates)).collect();
    assert_eq!(
        outcomes,
        [
            (SweepOutcome::Swept, 10),
            (SweepOutcome::Failed, 0),
            (SweepOutcome::Failed, 0),
            (SweepOutcome::Swept, 7)
        ]
    );
    assert!(first.done.is_none());
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[test]
fn a_clock_that_was_ahead_for_one_sweep_does_not_end_the_schedule() {
    let every = seconds(600);
    let node = Node::new(SweepOptions::default());
    node.publish("few:1", 10);
    // The clock is wrong while one sweep runs, and then set right.
    node.host.clock.pass(YEAR);
    assert_eq!(done(node.sweep()).updates, 7);
    node.host.clock.set_back(YEAR);
    node.publish("few:1", 10);
    let khala = node.host.khala.clone();
    let mut keeping = Task::new(async move { khala.retention().run_sweeper(every).await });
    keeping.run();
    for _ in 0..100 {
        node.host.clock.pass(every * 11 / 10);
        keeping.run();
    }
    assert_eq!(node.bounds("few:1"), (17, 20), "it was time a hundred times");
}

#[test]
fn a_lead_that_a_clock_took_that_was_ahead_is_taken_over_and_no_other() {
    let one = Node::new(SweepOptions::default());
    one.publish("few:1", 10);
    let there = NodeId::parse("there").unwrap();
    let leads = |from: Duration| {
        let now = one.host.clock.now();
        let until = now.plus(from).plus(seconds(600));
        one.sweeps.try_acquire(&there, now.plus(from), until).now_or_never().unwrap().unwrap();
    };
    leads(Duration::ZERO);
    assert!(matches!(one.sweep(), Swept::Busy { .. }), "ten minutes are a lead");
    // Its clock was a year ahead, and it died.
    leads(YEAR);
    assert_eq!(done(one.sweep()).updates, 7);
}

#[test]
fn a_lead_that_was_given_up_is_given_up_whatever_the_clock_said() {
    let one = Node::new(SweepOptions::default());
    let other = one.beside("b");
    one.publish("few:1", 10);
    one.host.clock.pass(YEAR);
    assert_eq!(done(one.sweep()).updates, 7);
    one.host.clock.set_back(YEAR);
    one.publish("few:1", 10);
    // Another node, or the same after a restart: without a setting, its name is random.
    assert_eq!(done(other.sweep()).updates, 10);
}
