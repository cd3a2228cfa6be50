//! Health: what the long-lived parts of a node say of themselves, and the supervision that restarts them.
//!
//! A part is a task or a thread that must not end while the node serves: a writer, a listener, a sweeper, a source of keys.
//! Readiness is made from what they say.
//!
//! # Invariants
//! A supervised task that panics or returns runs again; while it does not run, its part says so. A part that is gone says
//! nothing any more.

use std::{
    collections::BTreeMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;

pub use crate::error::panic_message;
use crate::{clock::Clock, telemetry};

/// The state of one part of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "readiness must answer every state")]
pub enum Condition {
    /// It works.
    Healthy,
    /// The node serves without it, more slowly or with less: a note in the readiness answer.
    Degraded(String),
    /// The node must not be sent clients: readiness is off, with this reason.
    Failed(String),
}

/// What the parts of a node say of themselves. Cloning it gives another handle to the same.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<Parts>>);

#[derive(Default)]
struct Parts {
    next: u64,
    /// Several parts may have one name: two stores in one process, say.
    conditions: BTreeMap<(&'static str, u64), Condition>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.report()).finish()
    }
}

impl Health {
    /// Health of no parts.
    pub fn new() -> Self {
        Self::default()
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // Each change under the lock is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a part, healthy so far. Its name is a metric label: one of a few, never made from data.
    pub fn part(&self, name: &'static str) -> Part {
        let mut parts = self.parts();
        let id = parts.next;
        parts.next += 1;
        parts.conditions.insert((name, id), Condition::Healthy);
        drop(parts);
        telemetry::part_begins(name);
        Part { health: self.clone(), name, id }
    }

    /// Every part with its condition, by name.
    pub fn report(&self) -> Vec<(&'static str, Condition)> {
        let parts = self.parts();
        parts.conditions.iter().map(|((name, _), condition)| (*name, condition.clone())).collect()
    }

    /// The parts that have failed, each with its reason.
    pub fn failures(&self) -> Vec<(&'static str, String)> {
        self.reasons(|condition| match condition {
            Condition::Failed(reason) => Some(reason),
            Condition::Degraded(_) | Condition::Healthy => None,
        })
    }

    /// The parts that are degraded, each with its reason.
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        self.reasons(|condition| match condition {
            Condition::Degraded(reason) => Some(reason),
            Condition::Failed(_) | Condition::Healthy => None,
        })
    }

    fn reasons(&self, of: impl Fn(Condition) -> Option<String>) -> Vec<(&'static str, String)> {
        self.report().into_iter().filter_map(|(name, condition)| Some((name, of(condition)?))).collect()
    }
}

/// One part's entry in [`Health`], until it is dropped.
#[derive(Debug)]
pub struct Part {
    health: Health,
    name: &'static str,
    id: u64,
}

impl Part {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// It works.
    pub fn healthy(&self) {
        self.set(Condition::Healthy);
    }

    /// The node goes on without it.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(Condition::Degraded(reason.into()));
    }

    /// The node must not be sent clients.
    pub fn failed(&self, reason: impl Into<String>) {
        self.set(Condition::Failed(reason.into()));
    }

    /// It has panicked, with that message, or has ended by itself, and is started again: logged, and counted in
    /// [`telemetry::TASK_RESTARTS`]. Until it runs, it is `meanwhile` with the reason. The message is for the log alone.
    pub fn restarts(&self, panic: Option<&str>, meanwhile: fn(String) -> Condition) {
        telemetry::task_restarted(self.name);
        let how = if panic.is_some() { "panicked" } else { "ended by itself" };
        tracing::error!(task = self.name, how, message = panic, "a task is started again");
        self.set(meanwhile(format!("{} {how}", self.name)));
    }

    /// Says how it is; logs a change, and counts it in [`telemetry::PART_HEALTHY`].
    pub fn set(&self, condition: Condition) {
        let before = self.health.parts().conditions.insert((self.name, self.id), condition.clone());
        if before.as_ref() == Some(&condition) {
            return;
        }
        // The metric is of all parts of that name: each writer of a pool is one.
        let healthy = self
            .health
            .report()
            .iter()
            .all(|(name, condition)| *name != self.name || *condition == Condition::Healthy);
        telemetry::part_healthy(self.name, healthy);
        match condition {
            Condition::Healthy => tracing::info!(part = self.name, "a part of this node works again"),
            Condition::Degraded(reason) => {
                tracing::warn!(part = self.name, reason, "a part of this node is degraded");
            }
            Condition::Failed(reason) => {
                tracing::error!(part = self.name, reason, "a part of this node has failed");
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.health.parts().conditions.remove(&(self.name, self.id));
    }
}

/// The pauses between the runs of something that keeps ending: each is twice as long as the one before.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
    /// A run of this length is followed by the first pause again.
    ran_well: Duration,
    next: Duration,
}

impl Pauses {
    /// Pauses from `first` to `longest`, which begin again after a run of `ran_well`.
    pub const fn new(first: Duration, longest: Duration, ran_well: Duration) -> Self {
        Self { first, longest, ran_well, next: first }
    }

    /// The pause after a run of that length.
    pub fn after(&mut self, run: Duration) -> Duration {
        let pause = if run >= self.ran_well { self.first } else { self.next };
        self.next = (pause * 2).min(self.longest);
        pause
    }
}

/// The pauses of a supervised task.
const PAUSES: Pauses =
    Pauses::new(Duration::from_millis(100), Duration::from_secs(30), Duration::from_secs(60));

/// Runs `task` for ever: when it returns or panics, it is started again, after a rest that doubles while it keeps ending.
///
/// While it rests, `part` is `while_down` with the reason. The task itself may say more through the same part.
///
/// # Cancellation
/// Dropping the future drops the task.
pub async fn supervise<Fut: Future<Output = ()>>(
    part: &Part,
    clock: &dyn Clock,
    while_down: fn(String) -> Condition,
    mut task: impl FnMut() -> Fut,
) {
    let mut pauses = PAUSES;
    loop {
        let begun = clock.moment();
        let ended = AssertUnwindSafe(task()).catch_unwind().await;
        let panic = ended.as_ref().err().map(|panic| panic_message(&**panic));
        let pause = pauses.after(clock.moment().since(begun));
        part.restarts(panic, while_down);
        clock.sleep(pause).await;
        part.healthy();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::{clock::Moment, update::Timestamp};

    #[derive(Debug, Default)]
    struct Rests(Mutex<Vec<Duration>>);

    #[async_trait]
    impl Clock for Rests {
        fn now(&self) -> Timestamp {
            Timestamp::default()
        }

        fn moment(&self) -> Moment {
            Moment::default()
        }

        async fn sleep(&self, duration: Duration) {
            self.0.lock().unwrap().push(duration);
            if self.0.lock().unwrap().len() == 4 {
                std::future::pending::<()>().await;
            }
        }

        fn finish(&self, _: futures::future::BoxFuture<'static, ()>) {}
    }

    #[test]
    fn parts_say_how_they_are_until_they_are_gone() {
        let health = Health::new();
        let (writer, fanout) = (health.part("writer"), health.part("fanout"));
        assert!(health.failures().is_empty() && health.notes().is_empty());
        writer.failed("disk full");
        fanout.degraded("not heard");
        assert_eq!(health.failures(), [("writer", "disk full".to_owned())]);
        assert_eq!(health.notes(), [("fanout", "not heard".to_owned())]);
        writer.healthy();
        drop(fanout);
        assert_eq!(health.report(), [("writer", Condition::Healthy)]);
    }

    #[test]
    fn a_task_that_ends_or_panics_runs_again_after_a_rest_that_doubles() {
        let (health, clock, runs) = (Health::new(), Rests::default(), AtomicU32::new(0));
        let part = health.part("task");
        let supervised = supervise(&part, &clock, Condition::Failed, || async {
            assert!(!runs.fetch_add(1, Ordering::Relaxed).is_multiple_of(2), "even runs panic");
        });
        assert!(supervised.now_or_never().is_none(), "it goes on for ever");
        assert_eq!(runs.load(Ordering::Relaxed), 4);
        assert_eq!(*clock.0.lock().unwrap(), [100, 200, 400, 800].map(Duration::from_millis));
        assert_eq!(health.failures(), [("task", "task ended by itself".to_owned())]);
    }
}
