//! One topic that is followed: where its subscriber stands, what was announced, and what is asked next.
//!
//! The channels of a connection and the subscriptions within the process drive the same [`Follower`]. So both continue the log by
//! the same rules, and are admitted, counted and put off alike. It is told heads, polls and answers; it gives one question at
//! a time, and for each answer a [`Step`]. It is pure, and has no clock: its driver asks the journal and waits.
//!
//! # Invariants
//! - Every delivered page starts at the cursor. A page that starts elsewhere is dropped, and the question is asked again.
//! - A cursor that cannot be continued from gets one answer: it is stale, or a snapshot takes its place.
//! - The cursor is set when the follower is opened, and moves only with what is delivered.

mod doubt;
mod phase;
mod question;
mod state;
mod step;

pub use self::question::{Answer, Question};
pub(crate) use self::{
    doubt::Evidence,
    state::Follower,
    step::{Context, Delivery, Next, Opened, Step},
};
