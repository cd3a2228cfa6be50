//! The sweeper: it deletes what a topic's rule no longer keeps, on order or on a schedule, and keeps the records of that.
//!
//! It owns the order of things and no rule: `Retention` says what is kept, the journal trims in steps of its own, and a [`SweepRun`]
//! goes from topic to topic while the [`SweeperLease`] holds.
//!
//! # Invariants
//! One sweep at a time in this process, and by the lease in all processes that share the journal. A run is recorded, however it
//! ends, unless its future is dropped.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, pin_mut, select_biased};

use super::{
    cursors::StaleCursorCount,
    due::random_part,
    lease::SweeperLease,
    order::{SweepOptions, SweepOrder, Swept},
    plan::{SweepPlan, Tally},
    record::{FailedTopic, SweepOutcome, SweepRecord, SweepTrigger},
    run::{Ended, SweepRun},
    sweeps::{Lease, Sweeps},
};
use crate::{
    clock::{Clock, Now},
    error::Error,
    node::NodeId,
    telemetry,
    update::Timestamp,
};

/// Records that are kept until they can be stored.
const UNRECORDED: usize = 100;
/// Records that are looked through for the last sweep that went to its end.
const LOOKED_THROUGH: NonZeroUsize = NonZeroUsize::new(50).expect("50 is not zero");

/// Deletes history that its rule no longer keeps; [`Khala::retention`](crate::Khala::retention) gives it.
#[derive(Debug)]
pub struct Sweeper {
    run: SweepRun,
    lease: SweeperLease,
    sweeps: Arc<dyn Sweeps>,
    /// Records that could not be stored yet, as on a full disk; oldest first.
    unrecorded: Mutex<VecDeque<SweepRecord>>,
}

impl Sweeper {
    /// A sweeper of that node, which sweeps by `run`.
    pub(crate) fn new(node: NodeId, sweeps: Arc<dyn Sweeps>, run: SweepRun) -> Self {
        let lease =
            SweeperLease::new(node, Arc::clone(&sweeps), Arc::clone(&run.clock), run.options.lease_duration);
        Self { run, lease, sweeps, unrecorded: Mutex::default() }
    }

    pub(crate) fn node(&self) -> &NodeId {
        self.lease.node()
    }

    fn clock(&self) -> &dyn Clock {
        &*self.run.clock
    }

    fn unrecorded(&self) -> MutexGuard<'_, VecDeque<SweepRecord>> {
        self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sweeper {
    /// Its options.
    pub fn options(&self) -> SweepOptions {
        self.run.options
    }

    /// Until when this node leads, while a sweep of its own is under way; it is renewed as that goes on.
    pub fn lease_until(&self) -> Option<Timestamp> {
        self.lease.until()
    }

    /// The records of the last sweeps of the journal, newest first, at most `limit`.
    ///
    /// # Errors
    /// The store's [`Error`].
    pub async fn records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error> {
        let stored = self.sweeps.records(limit).await?;
        // Those of this node that could not be stored yet are newer than what it stored.
        let unrecorded: Vec<_> = self.unrecorded().iter().rev().cloned().collect();
        Ok(unrecorded.into_iter().chain(stored).take(limit.get()).collect())
    }

    /// What the next sweep would do, and whom of those who follow by this node it would leave behind. Changes nothing.
    ///
    /// It reads what would go, in steps that hold nobody up. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// An [`Error`] when the topics cannot be listed, or several in a row cannot be read. One that cannot is counted in the
    /// plan.
    pub async fn plan_sweep(&self) -> Result<SweepPlan, Error> {
        self.run.plan().await
    }

    /// Trims every topic that is due to what is kept of it, and records the run.
    ///
    /// Due is what may have something to lose: what was appended to since it was last looked at, what has updates that became too
    /// old, what nobody has looked at for a week, and everything where the rules have changed. First all of them are planned for.
    /// If that leaves more cursors behind than the guard allows, and the order is not forced, nothing goes. A topic that cannot be
    /// trimmed fails the run and does not end it; several in a row do.
    ///
    /// How old an update is, is judged by the wall clock; where that was set forward, by the clock of before, for a day.
    ///
    /// A dropped future ends the run where it is, without a record. Another node can sweep then when the lead has ended;
    /// this one, at once.
    ///
    /// # Errors
    /// An [`Error`] when it is not known who leads, so that nothing was begun.
    pub async fn sweep(&self, order: SweepOrder) -> Result<Swept, Error> {
        let Now { wall: began_at, steady: began } = self.clock().read();
        let until = began_at.plus(self.lease.duration());
        let _turn = match self.lease.turn(until) {
            Ok(turn) => turn,
            Err(until) => return Ok(Swept::Busy { node: self.node().clone(), until }),
        };
        match self.lease.take(began_at, until).await {
            Ok(Lease::Held) => {}
            Ok(Lease::HeldBy { node, until }) => return Ok(Swept::Busy { node, until }),
            Err(error) => {
                let mut record =
                    SweepRecord::new(self.node().clone(), began_at, order.trigger, SweepOutcome::Failed);
                record.error = Some(error.to_string());
                telemetry::swept(&record, self.clock().now());
                self.record(record).await;
                return Err(error);
            }
        }

        let mut tally = Tally::new(&self.run.classes);
        let ended = {
            let (run, lost) = (
                self.run
                    .run(order, self.run.dates.at(Now { wall: began_at, steady: began }), &mut tally)
                    .fuse(),
                self.lease.keep(began.plus(self.lease.duration())).fuse(),
            );
            pin_mut!(run, lost);
            select_biased! {
                ended = run => ended,
                error = lost => Err(error),
            }
        };
        let outcome = match ended {
            Ok(Ended::Done) if tally.error.is_none() => SweepOutcome::Swept,
            Ok(Ended::HeldBack) => SweepOutcome::HeldBack,
            Ok(Ended::Done) => SweepOutcome::Failed,
            Err(error) => {
                tally.note(&error);
                SweepOutcome::Failed
            }
        };
        let mut record = SweepRecord::new(self.node().clone(), began_at, order.trigger, outcome);
        tally.write_into(&mut record);
        for FailedTopic { topic, error } in &record.failed {
            tracing::error!(
                topic = topic.as_str(),
                error = error.as_str(),
                "a topic cannot be swept; the others are"
            );
        }
        let now = self.clock().now();
        record.took_ms = u64::try_from(self.clock().moment().since(began).as_millis()).unwrap_or(u64::MAX);
        telemetry::swept(&record, now);
        self.record(record.clone()).await;
        self.lease.give_up(now).await;
        Ok(match outcome {
            SweepOutcome::Failed => Swept::Failed(record),
            SweepOutcome::HeldBack => Swept::HeldBack(record),
            SweepOutcome::Swept => Swept::Done(record),
        })
    }

    /// Sweeps about every `every`, unless another node of the journal has just done so. Never ready.
    ///
    /// The first sweep comes after `every`. What fails is tried again at the next turn. Dropping the future ends the
    /// sweep that is under way, as with [`sweep`](Self::sweep).
    ///
    /// The caller must supervise it, as with [`supervise`](crate::health::supervise): a panic ends it, and nothing is swept any
    /// more. `khala-server` does so.
    pub async fn run_sweeper(&self, every: Duration) {
        let mut before = None;
        loop {
            // A little later each time, so that nodes that were started together do not stay together.
            self.clock().sleep(every + random_part(every / 10)).await;
            let state = match self.scheduled(every).await {
                Ok(None) => continue,
                Ok(Some(record)) => {
                    if record.updates > 0 {
                        let SweepRecord { topics_trimmed: topics, updates, bytes, took_ms, .. } = &record;
                        tracing::info!(topics, updates, bytes, took_ms, "swept");
                    }
                    Turned {
                        outcome: record.outcome,
                        why: record.error.clone(),
                        left: count_stale_below(&record),
                    }
                }
                Err(error) => Turned {
                    outcome: SweepOutcome::Failed,
                    why: Some(error.to_string()),
                    left: StaleCursorCount::default(),
                },
            };
            if before.replace(state.outcome) != Some(state.outcome) {
                state.tell();
            }
        }
    }

    /// A turn of the schedule: the record of the sweep, if there was one.
    async fn scheduled(&self, every: Duration) -> Result<Option<SweepRecord>, Error> {
        let records = self.records(LOOKED_THROUGH).await?;
        if let Some(last) = records.iter().find(|record| record.outcome == SweepOutcome::Swept) {
            telemetry::last_sweep(last.ended_at());
        }
        let now = self.clock().now();
        // One that is of the future was begun by a clock that was ahead, and says nothing.
        let recently = now.minus(every / 2)..=now;
        let newest = records.first().filter(|newest| newest.outcome != SweepOutcome::Failed);
        if newest.is_some_and(|newest| recently.contains(&newest.began_at)) {
            return Ok(None);
        }
        Ok(match self.sweep(SweepOrder::new(SweepTrigger::Schedule)).await? {
            Swept::Busy { .. } => None,
            Swept::Done(record) | Swept::Failed(record) | Swept::HeldBack(record) => Some(record),
        })
    }

    /// Stores a record, and those before it that could not be stored. Those that cannot be now stay for the next time,
    /// also when the future is dropped.
    async fn record(&self, record: SweepRecord) {
        {
            let mut unrecorded = self.unrecorded();
            unrecorded.push_back(record);
            while unrecorded.len() > UNRECORDED {
                unrecorded.pop_front();
            }
        }
        loop {
            let Some(oldest) = self.unrecorded().front().cloned() else { return };
            if let Err(error) = self.sweeps.record(&oldest).await {
                tracing::warn!(%error, "a sweep could not be recorded yet");
                return;
            }
            self.unrecorded().pop_front();
        }
    }
}

/// How a turn of the schedule ended.
struct Turned {
    outcome: SweepOutcome,
    why: Option<String>,
    left: StaleCursorCount,
}

impl Turned {
    /// Says so in the log: once, when it is not as it was.
    fn tell(&self) {
        let why = self.why.as_deref().unwrap_or_default();
        match self.outcome {
            SweepOutcome::Failed => {
                tracing::warn!(why, "history cannot be swept; it is tried again at every turn");
            }
            SweepOutcome::HeldBack => {
                let StaleCursorCount { connected, seen } = self.left;
                tracing::warn!(connected, seen, "the guard holds sweeps back: they would make cursors stale");
            }
            SweepOutcome::Swept => tracing::info!("history is swept"),
        }
    }
}

fn count_stale_below(record: &SweepRecord) -> StaleCursorCount {
    StaleCursorCount { connected: record.stale_connected, seen: record.stale_seen }
}
