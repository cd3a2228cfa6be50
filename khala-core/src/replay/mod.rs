//! Replays: how much history a node reads for subscribers that come back, in which order, and how fast beside appends.

mod admission;
mod fair_queue;
mod throttle;

pub use self::admission::ReplayOptions;
pub(crate) use self::{
    admission::Gate,
    fair_queue::{Turn, Turns, Waiter},
    throttle::Pace,
};
