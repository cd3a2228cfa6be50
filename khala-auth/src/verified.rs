//! Tokens that were checked recently, and what they proved: a client that publishes over HTTP shows the same one each time.
//!
//! # Invariants
//! A token is known only for as long as checking it anew would say the same. So the key that it was checked with still has to be
//! the one of its name, and the moment has to lie between that of the check and the end of the grant; everything else is checked
//! anew, and so is every refusal. Revocations are looked at after this, each time.

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
};

use khala_core::{Grant, Timestamp};

use crate::key::Key;

/// Tokens, and bytes of tokens, in one generation; there are two.
const TOKENS: usize = 4_096;
const BYTES: usize = 4 << 20;

/// The newer generation, and the one before it, from which a token that is asked for comes back.
#[derive(Default)]
pub(crate) struct Verified(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    newer: HashMap<Box<str>, Arc<Known>>,
    older: HashMap<Box<str>, Arc<Known>>,
    /// Bytes of the tokens of the newer one.
    bytes: usize,
}

/// What a token proved, when and by which key.
pub(crate) struct Known {
    pub(crate) key: Key,
    pub(crate) grant: Grant,
    pub(crate) at: Timestamp,
}

impl Known {
    /// Whether it holds at `now`, as far as time goes: a clock that went back before the check proves nothing.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        (self.at..self.grant.expires_at()).contains(&now)
    }
}

impl Verified {
    pub(crate) fn find(&self, token: &str) -> Option<Arc<Known>> {
        // Each change under the lock is whole.
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = held.newer.get(token) {
            return Some(Arc::clone(known));
        }
        let (token, known) = held.older.remove_entry(token)?;
        held.keep(token, Arc::clone(&known));
        Some(known)
    }

    pub(crate) fn keep(&self, token: &str, known: Known) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(token.into(), Arc::new(known));
    }
}

impl Generations {
    fn keep(&mut self, token: Box<str>, known: Arc<Known>) {
        if self.newer.len() >= TOKENS || self.bytes >= BYTES {
            self.older = mem::take(&mut self.newer);
            self.bytes = 0;
        }
        self.bytes += token.len();
        self.newer.insert(token, known);
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use khala_core::auth::VerifiedClaims;

    use super::*;

    fn known() -> Known {
        let key = Key::hs256(None, &[7; 32]).unwrap();
        let grant = Grant::from_verified(VerifiedClaims::new("ada", ["a"], Timestamp::from_millis(20)));
        Known { key, grant, at: Timestamp::from_millis(10) }
    }

    #[test]
    fn it_holds_from_the_check_to_the_end() {
        for (now, holds) in [(9, false), (10, true), (19, true), (20, false)] {
            assert_eq!(known().holds(Timestamp::from_millis(now)), holds, "{now}");
        }
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten() {
        let verified = Verified::default();
        for number in 0..10 * TOKENS {
            verified.keep(&format!("token {number}"), known());
            assert!(verified.find("token 0").is_some(), "{number}");
        }
        let held = verified.0.lock().unwrap();
        assert!(held.newer.len() + held.older.len() <= 2 * TOKENS);
        drop(held);
        assert!(verified.find("token 1").is_none());
        for number in 0..3 {
            verified.keep(&format!("{number}{}", "x".repeat(BYTES)), known());
        }
        assert!(verified.find("token 0").is_none(), "long tokens fill it too");
    }
}
