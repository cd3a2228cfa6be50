//! Taking grants back before their end: a small log of its own, which every node reads.
//!
//! As with updates, the store is the truth and the fanout's word only a hint that there is more to read.
//!
//! # Invariants
//! A revocation that was acknowledged is on stable storage, is found by everybody who reads after an earlier watermark, and is
//! forgotten only when nothing that it names can still be valid.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Grant;
use crate::{
    error::Error,
    position::Watermark,
    text::{plain, text},
    update::Timestamp,
};

text! {
    /// What a revocation names, as it is in the claim: 1 to 512 bytes without control characters.
    RevocationId, "revoked id", |field, text| plain(field, text, 512)
}

/// Whom or what a revocation names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by", content = "id")]
#[expect(clippy::exhaustive_enums, reason = "a store keeps exactly these three")]
pub enum RevocationTarget {
    /// One token, by its `jti`.
    Jti(RevocationId),
    /// Every token of one login, by its `sid`, whenever it was issued.
    Sid(RevocationId),
    /// Every token of one subject, by its `sub`, that was issued before or at the time of the revocation.
    Sub(RevocationId),
}

impl RevocationTarget {
    /// The claim: `jti`, `sid` or `sub`.
    pub fn by(&self) -> &'static str {
        match self {
            Self::Jti(_) => "jti",
            Self::Sid(_) => "sid",
            Self::Sub(_) => "sub",
        }
    }

    /// The claim's value.
    pub fn id(&self) -> &RevocationId {
        match self {
            Self::Jti(id) | Self::Sid(id) | Self::Sub(id) => id,
        }
    }
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Revocation {
    /// What it names.
    #[serde(flatten)]
    pub target: RevocationTarget,
    /// When it was made.
    pub at: Timestamp,
    /// When nothing that it names can still be valid, so that it may be forgotten. None: never.
    pub until: Option<Timestamp>,
}

impl Revocation {
    /// A revocation that is kept for good.
    pub fn new(target: RevocationTarget, at: Timestamp) -> Self {
        Self { target, at, until: None }
    }

    /// Lets it be forgotten after `moment`: the end, leeway included, of the last token that it can name.
    #[must_use]
    pub fn with_until(mut self, moment: Timestamp) -> Self {
        self.until = Some(moment);
        self
    }

    /// As it is kept where `older`, which names the same, is kept already (R4): the later `at` and the later `until`.
    ///
    /// A revocation that is repeated by a clock that is behind, or for a shorter time, shortens nothing.
    #[must_use]
    pub fn merged_with(mut self, older: &Self) -> Self {
        self.at = self.at.max(older.at);
        self.until = self.until.zip(older.until).map(|(until, older)| until.max(older));
        self
    }

    /// Whether it takes `grant` back.
    ///
    /// A subject's revocation spares tokens that were issued in a later second: `iat` counts whole seconds, and in
    /// doubt a token is taken back. One that does not say when it was issued is always taken back.
    pub fn covers(&self, grant: &Grant) -> bool {
        match &self.target {
            RevocationTarget::Jti(id) => grant.token_id() == Some(id.as_str()),
            RevocationTarget::Sid(id) => grant.session_id() == Some(id.as_str()),
            RevocationTarget::Sub(id) => {
                let second = |moment: Timestamp| moment.as_millis() / 1000;
                grant.subject() == id.as_str()
                    && grant.issued_at().is_none_or(|issued| second(issued) <= second(self.at))
            }
        }
    }
}

/// Some revocations, oldest first.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct RevocationPage {
    /// The revocations, each with the watermark that covers it and all before it.
    pub revocations: Vec<(Watermark, Revocation)>,
    /// Stored rows among them that are no revocation, as nobody has stored them.
    pub corrupt: Vec<CorruptRevocation>,
    /// The watermark of the last row that was looked at: the next page follows it. None where there was no row.
    pub next: Option<Watermark>,
}

/// A row among the revocations that cannot be read.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct CorruptRevocation {
    /// Which row, as an operator finds it: `watermark 17`. It is shown to everybody, and so holds no claim of a token.
    pub row: String,
    /// What it names, where that can be read. Every token that goes by it is refused: how many it was to end is not known.
    pub target: Option<RevocationTarget>,
    /// What is wrong.
    pub error: Error,
}

/// Keeps revocations.
///
/// The laws, each a test of the same name in [`conformance`](crate::conformance):
/// R1 a stored revocation is found by every reader that starts after an earlier watermark · R2 reading is exclusive of the
/// watermark, in order, and pages concatenate · R3 no late arrivals: once a watermark was seen, nothing at or below
/// it appears later · R4 revoking the same thing again keeps the later `at` and the later `until`
/// ([`Revocation::merged_with`]), and is read anew · R5 pruning forgets what has ended, nothing else, and no
/// watermark is given twice · R6 what was acknowledged survives reopening and `kill -9`.
#[async_trait]
pub trait Revocations: fmt::Debug + Send + Sync + 'static {
    /// Stores a revocation; gives the watermark that covers it. It is on stable storage when this is ready.
    ///
    /// A dropped future may have stored it or not.
    ///
    /// # Errors
    /// An [`Error`] when it is not stored, or when that is not known.
    async fn revoke(&self, revocation: Revocation) -> Result<Watermark, Error>;

    /// Those stored after `after`, oldest first. It looks at no more than `limit` rows. Each is judged by itself: a row that
    /// cannot be read is named in the page, and keeps nobody from the others.
    ///
    /// # Errors
    /// An [`Error`] when they cannot be read now.
    async fn revocations(&self, after: Watermark, limit: NonZeroUsize) -> Result<RevocationPage, Error>;

    /// Forgets those whose `until` is at or before `now`; gives how many.
    ///
    /// A dropped future may have forgotten some of them.
    ///
    /// # Errors
    /// An [`Error`] when nothing is known to be forgotten.
    async fn prune(&self, now: Timestamp) -> Result<u64, Error>;
}

/// Revocations in memory, forgotten with the process: for tests, and for hosts that keep them elsewhere.
#[derive(Debug, Default)]
pub struct MemoryRevocations(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    newest: u64,
    kept: Vec<(Watermark, Revocation)>,
}

impl MemoryRevocations {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Revocations for MemoryRevocations {
    async fn revoke(&self, mut revocation: Revocation) -> Result<Watermark, Error> {
        let mut log = self.lock();
        log.newest += 1;
        let watermark = Watermark::new(log.newest).expect("nobody revokes 2^53 times");
        if let Some(at) = log.kept.iter().position(|(_, old)| old.target == revocation.target) {
            let (_, older) = log.kept.remove(at);
            revocation = revocation.merged_with(&older);
        }
        log.kept.push((watermark, revocation));
        Ok(watermark)
    }

    async fn revocations(&self, after: Watermark, limit: NonZeroUsize) -> Result<RevocationPage, Error> {
        let log = self.lock();
        let later = log.kept.iter().filter(|(at, _)| *at > after);
        let revocations: Vec<_> = later.take(limit.get()).cloned().collect();
        let next = revocations.last().map(|(at, _)| *at);
        Ok(RevocationPage { revocations, corrupt: Vec::new(), next })
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Error> {
        let mut log = self.lock();
        let before = log.kept.len();
        log.kept.retain(|(_, revocation)| revocation.until.is_none_or(|until| until > now));
        Ok((before - log.kept.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_the_later_moments_are_kept_whichever_came_first() {
        let made = |at, until: Option<u64>| {
            let target = RevocationTarget::Sid(RevocationId::parse("s").unwrap());
            let revocation = Revocation::new(target, Timestamp::from_millis(at));
            until.into_iter().fold(revocation, |made, until| made.with_until(Timestamp::from_millis(until)))
        };
        for (one, other, merged) in [
            (made(1, Some(9)), made(2, Some(8)), made(2, Some(9))),
            (made(1, Some(8)), made(2, Some(9)), made(2, Some(9))),
            // What is kept for good is kept longest.
            (made(1, None), made(2, Some(9)), made(2, None)),
        ] {
            assert_eq!(one.clone().merged_with(&other), merged);
            assert_eq!(other.merged_with(&one), merged);
        }
    }
}
