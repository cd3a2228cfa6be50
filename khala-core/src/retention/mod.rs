//! Retention: how much of a topic's history is kept, and the sweeper that has the rest deleted.

mod cursors;
mod dates;
mod due;
mod input;
mod lease;
mod order;
mod plan;
mod record;
mod run;
mod sweeper;
mod sweeps;

pub(crate) use self::{
    cursors::{CursorHandle, Cursors},
    dates::Dates,
    run::SweepRun,
};
pub use self::{
    cursors::{Followers, StaleCursorCount},
    input::{ClassRetention, Retention, RetentionInput},
    order::{SweepOptions, SweepOrder, Swept},
    plan::{SweepPlan, TopicPlan},
    record::{ClassSwept, FailedTopic, SweepOutcome, SweepRecord, SweepTrigger},
    sweeper::Sweeper,
    sweeps::{Lease, MemorySweeps, SWEEPS_KEPT, Sweeps},
};
