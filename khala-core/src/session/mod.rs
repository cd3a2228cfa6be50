//! The session: the protocol state of one client connection, as a value.
//!
//! It reads no clock and touches no socket. It is told what happened (`handle_*`) and says what to do next
//! (`poll_action`, `poll_timeout`).
//!
//! # Invariants
//! Each join gets exactly one answer, before any update; what a channel is sent continues from what it was sent before; and a
//! client that does not read costs one cursor per topic, because nothing is asked for while there is something left to send.

mod access;
mod action;
mod answers;
mod by_channel;
mod channel;
mod frames;
mod options;
mod replies;
mod state;

pub(crate) use self::by_channel::ByChannel;
pub use self::{action::Action, by_channel::ChannelId, options::SessionOptions, state::Session};
pub use crate::follower::{Answer, Question};
