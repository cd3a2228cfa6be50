//! Long polling: a session of the core over pairs of requests, for clients that cannot open a WebSocket. It is what `phoenix`'s
//! LongPoll transport speaks.
//!
//! A GET takes what there is to send, and waits for it; a POST brings frames. In between, the session stands in memory: its
//! [`Mailbox`](mailbox::Mailbox) is the transport that the core drives.
//!
//! # Invariants
//! - Only the subject that opened a session can read it. A post needs no more than the session's id, which is secret.
//! - An answer is kept until the next poll confirms it, so that an answer that was lost on the way is sent again.

mod answer;
mod mailbox;
pub(crate) mod routes;
mod run;
mod sessions;

pub(crate) use self::{
    answer::refuse,
    routes::{poll, post},
    sessions::LongPolls,
};
