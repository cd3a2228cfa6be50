//! The sessions of long polling: how they are found again, and whose they are.
//!
//! # Invariants
//! - An id has 128 random bits, and reads nothing without a token of the subject that its session belongs to.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use khala_core::{Grant, Token};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::mailbox::Mailbox;

/// Before the id, so that it is told from an access token, which may come under the same name.
const PREFIX: &str = "poll-";

/// What an answer names `token`: the session, and how many answers with frames its client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PollToken {
    pub(super) id: SessionId,
    pub(super) answers: u64,
}

/// What a session is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SessionId(u128);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

impl PollToken {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (id, answers) = text.strip_prefix(PREFIX)?.split_once('-')?;
        let is_hex = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u128::from_str_radix(id, 16).ok().filter(|_| is_hex)?;
        Some(Self { id: SessionId(id), answers: answers.parse().ok()? })
    }
}

impl fmt::Display for PollToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id: SessionId(id), answers } = self;
        write!(f, "{PREFIX}{id:032x}-{answers}")
    }
}

/// A session that a client polls.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) mailbox: Arc<Mailbox>,
    owner: Grant,
    /// The digest of the token that it was opened with. A client goes on to send that one after it has renewed its token within
    /// the session, which ends by itself when its own grant does.
    opened_with: [u8; 32],
}

impl Session {
    /// Whether it was opened with that token.
    pub(super) fn is_opened_with(&self, token: &Token) -> bool {
        self.opened_with.ct_eq(&digest(token)).into()
    }

    pub(super) fn is_of(&self, grant: &Grant) -> bool {
        self.owner.subject() == grant.subject()
    }
}

pub(super) fn digest(token: &Token) -> [u8; 32] {
    Sha256::digest(token.reveal().as_bytes()).into()
}

/// The sessions of a server.
#[derive(Debug, Default)]
pub(crate) struct LongPolls(Mutex<HashMap<SessionId, Arc<Session>>>);

impl LongPolls {
    /// Adds a session of the subject of `owner`, which sent the token of that digest.
    pub(super) fn add(&self, owner: Grant, opened_with: [u8; 32], mailbox: Arc<Mailbox>) -> SessionId {
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the operating system gives randomness");
        let id = SessionId(u128::from_le_bytes(random));
        self.lock().insert(id, Arc::new(Session { mailbox, owner, opened_with }));
        id
    }

    pub(super) fn remove(&self, id: SessionId) {
        self.lock().remove(&id);
    }

    pub(super) fn find(&self, id: SessionId) -> Option<Arc<Session>> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_token_is_read_as_it_is_written_and_nothing_else_is_one() {
        let token = PollToken { id: SessionId(0xab), answers: 7 };
        assert_eq!(token.to_string(), "poll-000000000000000000000000000000ab-7");
        assert_eq!(PollToken::parse(&token.to_string()), Some(token));
        for bad in ["", "poll-", "poll-ab-7", "eyJ.eyJ.x", "poll-000000000000000000000000000000ab", "null"] {
            assert_eq!(PollToken::parse(bad), None, "{bad}");
        }
        assert_eq!(PollToken::parse("poll-+00000000000000000000000000000ab-7"), None);
    }
}
