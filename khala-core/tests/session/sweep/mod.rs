//! Sweeping: what goes, what the guard holds back, who sweeps, and what is left of a run that fails.

mod due;
mod fails;
mod goes;
mod journal;
mod who;

use std::{num::NonZeroUsize, sync::Arc};

use futures::FutureExt as _;
use khala_core::{
    Error, Khala, Start, Subscription, Timestamp,
    class::{Classes, Retain, TopicClass, TopicPattern},
    journal::Journal as _,
    node::NodeId,
    retention::{
        ClassRetention, MemorySweeps, Retention, SweepOptions, SweepOrder, SweepPlan, SweepRecord,
        SweepTrigger, Sweeps as _, Swept,
    },
};

use self::journal::Trimming;
use crate::{
    clock::{Task, TestClock},
    host::{Host, topic},
};

/// A class of the topics `{name}:{}` that keeps so many updates.
pub fn class(name: &str, retain: Retain) -> TopicClass {
    let pattern = TopicPattern::parse(&format!("{name}:{{n}}")).unwrap();
    TopicClass { retain, ..TopicClass::new(name, pattern).with_read(["khala:read"]) }
}

pub fn few(updates: u64) -> Retain {
    Retain { updates: Some(updates), ..Retain::everything() }
}

/// Three updates of `few:…`, one of `one:…`, all of `all:…`, and no class for anything else.
pub fn classes() -> Classes {
    Classes::new(vec![
        class("few", few(3)),
        class("one", few(1)),
        class("all", Retain::everything()),
        class("unread", few(0)),
    ])
    .unwrap()
}

/// A host over a journal that other hosts may share.
pub struct Node {
    pub host: Host,
    pub journal: Arc<Trimming>,
    pub sweeps: Arc<MemorySweeps>,
}

impl Node {
    pub fn new(options: SweepOptions) -> Self {
        Self::of("a", options, Trimming::new(), Arc::default(), TestClock::new(), Arc::new(ClassRetention))
    }

    pub fn of(
        name: &str,
        options: SweepOptions,
        journal: Arc<Trimming>,
        sweeps: Arc<MemorySweeps>,
        clock: Arc<TestClock>,
        retention: Arc<dyn Retention>,
    ) -> Self {
        Self::with(classes(), name, options, journal, sweeps, clock, retention)
    }

    pub fn with(
        classes: Classes,
        name: &str,
        options: SweepOptions,
        journal: Arc<Trimming>,
        sweeps: Arc<MemorySweeps>,
        clock: Arc<TestClock>,
        retention: Arc<dyn Retention>,
    ) -> Self {
        let mut host = Host::new(200);
        host.khala = Khala::builder(crate::store::roles(&journal))
            .with_clock(Arc::<TestClock>::clone(&clock))
            .with_classes(classes)
            .with_node(NodeId::parse(name).unwrap())
            .with_retention(retention)
            .with_roles(|roles| roles.sweeps = Arc::<MemorySweeps>::clone(&sweeps))
            .with_sweep(options)
            .build();
        host.clock = clock;
        Self { host, journal, sweeps }
    }

    /// Another node of the same journal.
    pub fn beside(&self, name: &str) -> Self {
        let (journal, sweeps, clock) =
            (Arc::clone(&self.journal), Arc::clone(&self.sweeps), Arc::clone(&self.host.clock));
        Self::of(
            name,
            self.host.khala.retention().options(),
            journal,
            sweeps,
            clock,
            Arc::new(ClassRetention),
        )
    }

    pub fn publish(&self, name: &str, updates: u64) {
        self.host.publish(name, updates);
    }

    pub fn bounds(&self, name: &str) -> (u64, u64) {
        let bounds = self.journal.inner.bounds(&topic(name)).now_or_never().unwrap().unwrap();
        (bounds.floor.as_u64(), bounds.head.as_u64())
    }

    /// The names of the topics that are listed.
    pub fn listed(&self) -> Vec<String> {
        let most = NonZeroUsize::new(100).unwrap();
        let page = self.journal.inner.topics("", None, most).now_or_never().unwrap().unwrap();
        page.topics.iter().map(|(topic, _)| topic.as_str().to_owned()).collect()
    }

    pub fn plan(&self) -> SweepPlan {
        let khala = self.host.khala.clone();
        finished(async move { khala.retention().plan_sweep().await }).unwrap()
    }

    pub fn sweeping(&self, order: SweepOrder) -> Task<Result<Swept, Error>> {
        let khala = self.host.khala.clone();
        Task::new(async move { khala.retention().sweep(order).await })
    }

    pub fn sweep(&self) -> Swept {
        self.ordered(SweepOrder::new(SweepTrigger::Order))
    }

    pub fn ordered(&self, order: SweepOrder) -> Swept {
        let mut task = self.sweeping(order);
        task.run();
        task.done.expect("nothing holds it").unwrap()
    }

    pub fn records(&self) -> Vec<SweepRecord> {
        self.sweeps.records(NonZeroUsize::MAX).now_or_never().unwrap().unwrap()
    }

    /// Follows a topic from its floor and reads nothing.
    pub fn follow(&self, name: &str) -> Subscription {
        let topic = self.host.khala.topic(topic(name)).unwrap();
        finished(async move { topic.subscribe(Start::floor()).await }).unwrap()
    }
}

pub fn finished<T>(future: impl Future<Output = T> + Send + 'static) -> T {
    let mut task = Task::new(future);
    task.run();
    task.done.expect("nothing holds it up")
}

pub fn done(swept: Swept) -> SweepRecord {
    match swept {
        Swept::Done(record) => record,
        other => panic!("not done: {other:?}"),
    }
}

pub fn failed(swept: Swept) -> SweepRecord {
    match swept {
        Swept::Failed(record) => record,
        other => panic!("not failed: {other:?}"),
    }
}

pub fn busy(swept: Swept) -> (String, Timestamp) {
    match swept {
        Swept::Busy { node, until } => (node.to_string(), until),
        other => panic!("not busy: {other:?}"),
    }
}
