//! What is left of a run in which something fails, and that the next one works.

use std::sync::atomic::Ordering;

use khala_core::retention::SweepOptions;

use super::{Node, done, failed, finished};

#[test]
fn a_topic_that_cannot_be_trimmed_fails_the_run_and_does_not_end_it() {
    let node = Node::new(SweepOptions::default());
    for name in ["few:1", "few:2", "one:1", "one:2", "unread:1"] {
        node.publish(name, 10);
    }
    node.journal.fail(&["few:1", "one:1", "unread:1"]);
    let plan = node.plan();
    assert_eq!((plan.topics, plan.topics_failed, plan.updates), (5, 1, 2 * 7 + 2 * 9));
    assert_eq!(plan.error.as_deref(), Some("\"unread:1\": test: no space is left"));

    let record = failed(node.sweep());
    assert_eq!((record.topics, record.topics_trimmed, record.topics_failed), (5, 2, 3));
    assert_eq!(
        (record.updates, record.error.as_deref()),
        (7 + 9, Some("\"unread:1\": test: no space is left"))
    );
    let oldest: Vec<bool> = record.classes.iter().map(|class| class.oldest_kept.is_some()).collect();
    assert_eq!(oldest, [false; 4], "of no class with a topic that failed it is known");
    assert_eq!(node.records(), [record]);
    node.journal.fail(&[]);
    let next = done(node.sweep());
    assert_eq!((next.updates, next.topics_failed, next.error), (7 + 9 + 10, 0, None));
}

#[test]
fn where_nothing_works_a_run_ends() {
    let node = Node::new(SweepOptions::default());
    for n in 0..20 {
        node.publish(&format!("few:{n}"), 10);
        node.publish(&format!("unread:{n}"), 1);
    }
    // No trim works.
    node.journal.fail(&(0..20).map(|n| format!("few:{n}")).collect::<Vec<_>>().each_str());
    let record = failed(node.sweep());
    assert_eq!((record.topics, record.topics_failed, record.updates), (40, 3, 0));
    assert_eq!(node.journal.trims.load(Ordering::Relaxed), 3);
    // Nor any plan.
    node.journal.fail(&[""]);
    let khala = node.host.khala.clone();
    finished(async move { khala.retention().plan_sweep().await }).unwrap_err();
    let record = failed(node.sweep());
    assert_eq!((record.topics, record.topics_failed, record.updates), (22, 2, 0));
    node.journal.fail(&["(topics)"]);
    let record = failed(node.sweep());
    assert_eq!((record.topics, record.error.as_deref()), (0, Some("test: out of order")));
    node.journal.fail(&[]);
    assert_eq!(done(node.sweep()).updates, 20 * 7 + 20);
    assert_eq!(node.records().len(), 4);
}

trait EachStr {
    fn each_str(&self) -> Vec<&str>;
}

impl EachStr for Vec<String> {
    fn each_str(&self) -> Vec<&str> {
        self.iter().map(String::as_str).collect()
    }
}

#[test]
fn a_trim_that_ends_early_fails_the_run() {
    let node = Node::new(SweepOptions::default());
    node.publish("few:1", 13);
    *node.journal.half.lock().unwrap() = true;
    let record = failed(node.sweep());
    assert_eq!(
        record.error.as_deref(),
        Some("\"few:1\": its trim ended at 5, and not at 10"),
        "as when the disk is full amid its steps"
    );
    assert_eq!((record.updates, node.bounds("few:1")), (5, (5, 13)));
    *node.journal.half.lock().unwrap() = false;
    assert_eq!(done(node.sweep()).updates, 5);
}
