//! Replays: how much history a node reads for subscribers that come back, in which order, and how fast while somebody appends.

mod admission;
mod fair_queue;
mod throttle;

pub use self::admission::ReplayOptions;
pub(crate) use self::{
    admission::ReplayAdmission,
    fair_queue::{FairQueue, ReadPermit, Waiter},
    throttle::Throttle,
};
