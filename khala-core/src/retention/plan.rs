//! The plan of a sweep, and the sums that a plan and a run are made of. Pure.
//!
//! # Invariants
//! It is bounded by the number of classes and by a constant, however many topics there are.

use serde::{Deserialize, Serialize};

use super::{
    cursors::StaleCursorCount,
    record::{ClassSwept, FailedTopic, SweepRecord},
};
use crate::{
    class::{Classes, NO_CLASS, TopicClass},
    journal::Trimmed,
    position::{Bounds, Watermark},
    topic::Topic,
    update::Timestamp,
};

/// How many topics a plan names.
const WORST: usize = 20;
/// How many topics that failed are named.
const NAMED: usize = 20;

/// What the next sweep would do, as far as is known now. Nothing was changed by making it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweepPlan {
    /// When it was made.
    pub at: Timestamp,
    /// Topics that there are.
    pub topics: u64,
    /// Topics that would lose updates.
    pub topics_trimmed: u64,
    /// Topics of which nothing is known, because they could not be read.
    pub topics_failed: u64,
    /// Updates that would go.
    pub updates: u64,
    /// Bytes that they are.
    pub bytes: u64,
    /// Cursors of those who are connected to this node that would become stale.
    pub stale_connected: u64,
    /// The same of those who were until recently.
    pub stale_seen: u64,
    /// How many cursors a sweep may make stale. None: as many as there are.
    pub guard: Option<u64>,
    /// Whether the guard would hold it back.
    pub held_back: bool,
    /// What would go, by class.
    pub classes: Vec<ClassSwept>,
    /// The topics that would lose the most, at most twenty: those that leave the most cursors behind first, then those
    /// that lose the most bytes.
    pub worst: Vec<TopicPlan>,
    /// The topics of which nothing is known, and why: the first twenty.
    #[serde(default)]
    pub failed: Vec<FailedTopic>,
    /// The first thing that could not be read.
    pub error: Option<String>,
}

/// What the next sweep would do to one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TopicPlan {
    /// Which.
    pub topic: Topic,
    /// Its class; `none` where it has none.
    pub class: String,
    /// The floor that it has.
    pub floor: Watermark,
    /// The floor that it would have.
    pub floor_after: Watermark,
    /// Its head.
    pub head: Watermark,
    /// Updates that would go.
    pub updates: u64,
    /// Bytes that they are.
    pub bytes: u64,
    /// Cursors of those who are connected to this node that would become stale.
    pub stale_connected: u64,
    /// The same of those who were until recently.
    pub stale_seen: u64,
    /// When the oldest update that would be kept was published.
    pub oldest_kept: Option<Timestamp>,
}

impl TopicPlan {
    fn badness(&self) -> (u64, u64) {
        (self.stale_connected + self.stale_seen, self.bytes)
    }
}

/// One topic of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned<'a> {
    pub(crate) topic: &'a Topic,
    pub(crate) class: Option<&'a TopicClass>,
    pub(crate) bounds: Bounds,
    pub(crate) plan: Trimmed,
    /// Whom it would leave behind that is not yet.
    pub(crate) left: StaleCursorCount,
}

/// The name of a class in records and plans.
fn name(class: Option<&TopicClass>) -> &str {
    class.map_or(NO_CLASS, |class| &class.name)
}

/// Whether a guard of that many cursors holds back a sweep that would make these stale.
pub(crate) fn is_too_much(left: StaleCursorCount, guard: Option<u64>) -> bool {
    guard.is_some_and(|most| left.connected + left.seen > most)
}

/// The sums of a plan or of a run, while it goes on.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    topics: u64,
    topics_trimmed: u64,
    topics_failed: u64,
    updates: u64,
    bytes: u64,
    pub(crate) stale: StaleCursorCount,
    failed: Vec<FailedTopic>,
    pub(crate) error: Option<String>,
    classes: Vec<ClassTally>,
    worst: Vec<TopicPlan>,
}

#[derive(Clone, Debug)]
struct ClassTally {
    swept: ClassSwept,
    /// Topics of which is not known yet what they keep.
    open: u64,
}

impl Tally {
    /// Of nothing, with a line for every class.
    pub(crate) fn new(classes: &Classes) -> Self {
        let line = |class: &TopicClass| ClassTally { swept: ClassSwept::new(&*class.name), open: 0 };
        Self {
            topics: 0,
            topics_trimmed: 0,
            topics_failed: 0,
            updates: 0,
            bytes: 0,
            stale: StaleCursorCount::default(),
            failed: Vec::new(),
            error: None,
            classes: classes.iter().map(line).collect(),
            worst: Vec::new(),
        }
    }

    /// A topic that is planned for.
    pub(crate) fn plan(&mut self, planned: &Planned<'_>) {
        let Planned { topic, class, bounds, plan, left } = *planned;
        self.look(class);
        self.leave_behind(left);
        self.take(class, &plan);
        if plan.updates > 0 {
            self.name_if_bad(TopicPlan {
                topic: topic.clone(),
                class: name(class).to_owned(),
                floor: bounds.floor,
                floor_after: plan.bounds.floor,
                head: plan.bounds.head,
                updates: plan.updates,
                bytes: plan.bytes,
                stale_connected: left.connected,
                stale_seen: left.seen,
                oldest_kept: plan.oldest,
            });
        }
    }

    /// A topic that is trimmed later, if at all: what it keeps is known then.
    pub(crate) fn expect(&mut self, class: Option<&TopicClass>) {
        self.look(class);
        self.line(class).open += 1;
    }

    /// What a topic that was [expected](Self::expect) lost.
    pub(crate) fn trimmed(&mut self, class: Option<&TopicClass>, trimmed: &Trimmed) {
        let line = self.line(class);
        // One that was planned for anew was not expected, if it is new.
        line.open = line.open.saturating_sub(1);
        self.take(class, trimmed);
    }

    /// A topic that could not be looked at.
    pub(crate) fn unread(&mut self, topic: &Topic, class: Option<&TopicClass>, error: &impl ToString) {
        self.expect(class);
        self.failed(topic.as_str(), error);
    }

    /// A topic that is stored in a form that no store has written, perhaps under a name that is none: of no class.
    pub(crate) fn corrupt(&mut self, name: &str, error: &impl ToString) {
        self.topics += 1;
        self.failed(name, error);
    }

    /// A topic that could not be looked at or trimmed, so that what it keeps stays unknown.
    pub(crate) fn failed(&mut self, topic: &str, error: &impl ToString) {
        self.topics_failed += 1;
        let (topic, error) = (topic.to_owned(), error.to_string());
        self.note(&format!("{topic:?}: {error}"));
        if self.failed.len() < NAMED {
            self.failed.push(FailedTopic { topic, error });
        }
    }

    /// Something that went wrong; the first is remembered.
    pub(crate) fn note(&mut self, error: &impl ToString) {
        self.error.get_or_insert_with(|| error.to_string());
    }

    /// Cursors that became stale, or would.
    pub(crate) fn leave_behind(&mut self, left: StaleCursorCount) {
        self.stale.connected += left.connected;
        self.stale.seen += left.seen;
    }

    /// What is known by class.
    pub(crate) fn classes(&self) -> Vec<ClassSwept> {
        let known = self.classes.iter().map(|ClassTally { swept, open }| {
            let oldest_kept = swept.oldest_kept.filter(|_| *open == 0);
            ClassSwept { oldest_kept, ..swept.clone() }
        });
        known.collect()
    }

    /// Into the record of the run.
    pub(crate) fn write_into(self, record: &mut SweepRecord) {
        record.classes = self.classes();
        record.topics = self.topics;
        record.topics_trimmed = self.topics_trimmed;
        record.topics_failed = self.topics_failed;
        record.updates = self.updates;
        record.bytes = self.bytes;
        record.stale_connected = self.stale.connected;
        record.stale_seen = self.stale.seen;
        record.failed = self.failed;
        record.error = self.error;
    }

    /// As a plan, made at that moment under that guard.
    pub(crate) fn into_plan(mut self, at: Timestamp, guard: Option<u64>) -> SweepPlan {
        self.worst.sort_by_key(|plan| std::cmp::Reverse(plan.badness()));
        self.worst.truncate(WORST);
        SweepPlan {
            at,
            topics: self.topics,
            topics_trimmed: self.topics_trimmed,
            topics_failed: self.topics_failed,
            updates: self.updates,
            bytes: self.bytes,
            stale_connected: self.stale.connected,
            stale_seen: self.stale.seen,
            guard,
            held_back: is_too_much(self.stale, guard),
            classes: self.classes(),
            worst: self.worst,
            failed: self.failed,
            error: self.error,
        }
    }

    fn look(&mut self, class: Option<&TopicClass>) {
        self.topics += 1;
        self.line(class).swept.topics += 1;
    }

    fn take(&mut self, class: Option<&TopicClass>, trimmed: &Trimmed) {
        let lost = u64::from(trimmed.updates > 0);
        self.topics_trimmed += lost;
        self.updates += trimmed.updates;
        self.bytes += trimmed.bytes;
        let line = &mut self.line(class).swept;
        line.topics_trimmed += lost;
        line.updates += trimmed.updates;
        line.bytes += trimmed.bytes;
        line.oldest_kept = match (line.oldest_kept, trimmed.oldest) {
            (Some(known), Some(other)) => Some(known.min(other)),
            (known, other) => known.or(other),
        };
    }

    fn line(&mut self, class: Option<&TopicClass>) -> &mut ClassTally {
        let name = name(class);
        let at = self.classes.iter().position(|line| line.swept.class == name).unwrap_or_else(|| {
            self.classes.push(ClassTally { swept: ClassSwept::new(name), open: 0 });
            self.classes.len() - 1
        });
        &mut self.classes[at]
    }

    /// Keeps twice as many as are named, and sorts only when those are full.
    fn name_if_bad(&mut self, plan: TopicPlan) {
        self.worst.push(plan);
        if self.worst.len() == 2 * WORST {
            self.worst.sort_by_key(|plan| std::cmp::Reverse(plan.badness()));
            self.worst.truncate(WORST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    fn topic(n: u64) -> Topic {
        Topic::parse(&format!("t{n}")).unwrap()
    }

    fn trimmed(updates: u64, oldest: Option<u64>) -> Trimmed {
        let bounds = Bounds::untouched(Epoch::from_bits(1));
        Trimmed { bounds, updates, bytes: updates * 10, oldest: oldest.map(Timestamp::from_millis) }
    }

    fn planned(topic: &Topic, updates: u64, connected: u64) -> Planned<'_> {
        let plan = trimmed(updates, Some(updates));
        Planned {
            topic,
            class: None,
            bounds: plan.bounds,
            plan,
            left: StaleCursorCount { connected, seen: 0 },
        }
    }

    #[test]
    fn the_worst_topics_are_named_and_no_more() {
        let mut tally = Tally::new(&Classes::default());
        for n in 0..1_000 {
            // Up and down, so that the worst come at any time.
            let updates = n * 7 % 1_000;
            tally.plan(&planned(&topic(n), updates, u64::from(n == 500)));
        }
        let plan = tally.into_plan(Timestamp::default(), Some(0));
        assert_eq!((plan.topics, plan.topics_trimmed, plan.stale_connected), (1_000, 999, 1));
        assert!(plan.held_back);
        let worst: Vec<u64> = plan.worst.iter().map(|topic| topic.updates).collect();
        let meant: Vec<u64> = [500].into_iter().chain((981..1_000).rev()).collect();
        assert_eq!(worst, meant, "who leaves a cursor behind, then who loses most");
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<SweepPlan>(&text).unwrap(), plan);
    }

    #[test]
    fn the_oldest_is_known_once_every_topic_is() {
        let mut tally = Tally::new(&Classes::default());
        let oldest = |tally: &Tally| {
            let classes = tally.classes();
            classes.last().and_then(|class| class.oldest_kept.map(Timestamp::as_millis))
        };
        tally.plan(&planned(&topic(1), 50, 0));
        assert_eq!(oldest(&tally), Some(50));
        tally.expect(None);
        assert_eq!(oldest(&tally), None);
        tally.trimmed(None, &trimmed(3, Some(40)));
        assert_eq!(oldest(&tally), Some(40));
        tally.trimmed(None, &trimmed(0, None));
        assert_eq!(oldest(&tally), Some(40), "a topic of which nothing is kept has no oldest");
        tally.unread(&topic(1), None, &"out of order");
        assert_eq!(oldest(&tally), None);
    }
}
