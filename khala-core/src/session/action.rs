//! What a session wants done.
//!
//! Values only.
//!
//! # Invariants
//! A driver can carry out every action with nothing but what stands in it.

use super::by_channel::ChannelId;
use crate::{
    auth::Token,
    follower::Question,
    topic::Topic,
    wire::{Close, Encoded},
};

/// What a session wants done.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must carry out every action")]
pub enum Action {
    /// Answer this question with [`Session::handle_answer`](super::Session::handle_answer). One at a time per channel.
    Ask {
        /// Whose question it is.
        channel: ChannelId,
        /// The topic that it is about.
        topic: Topic,
        /// The question.
        question: Question,
    },
    /// Close the connection. Nothing follows.
    Close(Close),
    /// Send this text frame.
    Send(Encoded),
    /// Stop watching for this channel.
    Unwatch(ChannelId),
    /// Verify this token, and report with [`Session::handle_verified`](super::Session::handle_verified). One at a time.
    Verify(Token),
    /// Watch the topic for this channel, before any question that follows is answered, and report with
    /// [`Session::handle_moved`](super::Session::handle_moved). Where that fails, report with
    /// [`Session::handle_unwatched`](super::Session::handle_unwatched): it comes again, and then nothing need wait for it.
    Watch {
        /// Who watches.
        channel: ChannelId,
        /// What is watched.
        topic: Topic,
    },
}
