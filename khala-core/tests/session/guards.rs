//! Who decides and who tells, under test conditions: a verifier, an authorizer, a store of revocations and a fanout,
//! each behind a gate.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::FutureExt as _;
use khala_core::{
    Cursor, Error, ErrorKind, Grant, Timestamp, Token, Topic, Watermark,
    auth::{
        Access, Authorizer, CorruptRevocation, Denied, MemoryRevocations, Revocation, RevocationPage,
        RevocationTarget, Revocations, Verifier,
    },
    fanout::{Fanout, LocalFanout, Watch},
};
use tokio::sync::watch;

/// How somebody who is asked answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Down,
    /// Not at all, until that changes.
    Held,
    Up,
}

#[derive(Debug)]
pub struct Gate(watch::Sender<Mood>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(Mood::Up))
    }
}

impl Gate {
    pub fn set(&self, mood: Mood) {
        self.0.send_replace(mood);
    }

    pub fn mood(&self) -> Mood {
        *self.0.borrow()
    }

    async fn pass(&self) -> Result<(), Error> {
        let mut mood = self.0.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Held).await.expect("a gate outlives who waits at it");
        if mood == Mood::Down {
            return Err(Error::new(ErrorKind::Unavailable, "test", "out of order"));
        }
        Ok(())
    }
}

/// Knows tokens by heart.
#[derive(Debug, Default)]
pub struct Tokens {
    pub gate: Gate,
    known: Mutex<HashMap<String, Result<Grant, Denied>>>,
}

impl Tokens {
    pub fn put(&self, token: &str, verdict: Result<Grant, Denied>) {
        self.known.lock().unwrap().insert(token.to_owned(), verdict);
    }
}

#[async_trait]
impl Verifier for Tokens {
    async fn verify(&self, token: &Token, _: Timestamp) -> Result<Grant, Denied> {
        self.gate.pass().await.map_err(Denied::Unavailable)?;
        let known = self.known.lock().unwrap().get(token.reveal()).cloned();
        known.unwrap_or(Err(Denied::InvalidToken("nobody knows it")))
    }
}

/// Lets in who carries the scope of the access and, for a topic that was put under lock, one of its name.
#[derive(Debug, Default)]
pub struct Doorman {
    pub gate: Gate,
    locked: Mutex<HashSet<Topic>>,
    asked: AtomicUsize,
    /// How many replays are put off from now on.
    defers: AtomicUsize,
}

impl Doorman {
    pub fn lock(&self, topic: &str) {
        self.locked.lock().unwrap().insert(Topic::parse(topic).unwrap());
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Puts that many replays off.
    pub fn defer(&self, replays: usize) {
        self.defers.store(replays, Ordering::Relaxed);
    }

    /// Whether a replay is put off.
    pub fn defers(&self) -> bool {
        let one_less = |defers: usize| defers.checked_sub(1);
        self.defers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

#[async_trait]
impl Authorizer for Doorman {
    async fn authorize(&self, grant: &Grant, topic: &Topic, access: Access) -> Result<(), Denied> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.gate.pass().await.map_err(Denied::Unavailable)?;
        if !grant.allows(access.scope()) {
            return Err(Denied::MissingScope { scopes: vec![access.scope().to_owned()] });
        }
        if self.locked.lock().unwrap().contains(topic) && !grant.allows(topic.as_str()) {
            return Err(Denied::ForbiddenTopic);
        }
        Ok(())
    }
}

/// Revocations in memory, in pages as small as is asked for.
#[derive(Debug)]
pub struct Ledger {
    pub gate: Gate,
    /// Where pruning waits.
    pub broom: Gate,
    pub inner: MemoryRevocations,
    /// What the log is since it went back.
    failed_over: OnceLock<MemoryRevocations>,
    /// Revocations that one page holds at most.
    page: NonZeroUsize,
    /// Pages that are given before the gate is asked.
    free: AtomicUsize,
    reads: AtomicUsize,
    /// How far it was read.
    upto: Mutex<Watermark>,
    /// What cannot be read.
    pub corrupt: Mutex<Vec<BadRow>>,
}

/// The row of a revocation that cannot be read.
#[derive(Debug)]
pub struct BadRow {
    pub meant: RevocationTarget,
    /// Whether what it names can be read.
    pub legible: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::with_page(usize::MAX)
    }
}

impl Ledger {
    pub fn with_page(page: usize) -> Self {
        Self {
            gate: Gate::default(),
            broom: Gate::default(),
            inner: MemoryRevocations::new(),
            failed_over: OnceLock::new(),
            page: NonZeroUsize::new(page).unwrap(),
            free: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            upto: Mutex::new(Watermark::ORIGIN),
            corrupt: Mutex::default(),
        }
    }

    /// Gives that many pages whatever the gate says.
    pub fn give(&self, pages: usize) {
        self.free.store(pages, Ordering::Relaxed);
    }

    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// The log as it is now.
    pub fn store(&self) -> &MemoryRevocations {
        self.failed_over.get().unwrap_or(&self.inner)
    }

    /// The log goes back to its first entries.
    pub fn go_back_to(&self, entries: usize) {
        let page =
            self.inner.revocations(Watermark::ORIGIN, NonZeroUsize::MAX).now_or_never().unwrap().unwrap();
        let older = MemoryRevocations::new();
        for (_, revocation) in page.revocations.into_iter().take(entries) {
            older.revoke(revocation).now_or_never().unwrap().unwrap();
        }
        self.failed_over.set(older).unwrap();
    }

    /// How far anybody has read.
    pub fn upto(&self) -> Watermark {
        *self.upto.lock().unwrap()
    }
}

#[async_trait]
impl Revocations for Ledger {
    async fn revoke(&self, revocation: Revocation) -> Result<Watermark, Error> {
        self.gate.pass().await?;
        self.store().revoke(revocation).await
    }

    async fn revocations(&self, after: Watermark, limit: NonZeroUsize) -> Result<RevocationPage, Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let free = self.free.load(Ordering::Relaxed);
        if free > 0 {
            self.free.store(free - 1, Ordering::Relaxed);
        } else {
            self.gate.pass().await?;
        }
        let mut page = self.store().revocations(after, limit.min(self.page)).await?;
        for bad in self.corrupt.lock().unwrap().iter() {
            let rows = page.revocations.iter();
            let mut bad_rows = rows.filter(|(_, revocation)| revocation.target == bad.meant);
            let Some((watermark, _)) = bad_rows.next() else { continue };
            page.corrupt.push(CorruptRevocation {
                row: format!("watermark {watermark}"),
                target: bad.legible.then(|| bad.meant.clone()),
                error: Error::new(ErrorKind::Corrupt, "test", "it is none"),
            });
            page.revocations.retain(|(_, revocation)| revocation.target != bad.meant);
        }
        let mut upto = self.upto.lock().unwrap();
        *upto = (*upto).max(page.next.unwrap_or_default());
        Ok(page)
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Error> {
        self.broom.pass().await?;
        self.store().prune(now).await
    }
}

/// A fanout of one process whose watches wait at a gate.
#[derive(Debug, Default)]
pub struct Hints {
    pub gate: Gate,
    pub inner: LocalFanout,
}

#[async_trait]
impl Fanout for Hints {
    async fn announce(&self, topic: &Topic, head: Cursor) -> Result<(), Error> {
        self.inner.announce(topic, head).await
    }

    async fn watch(&self, topic: &Topic) -> Result<Watch, Error> {
        self.gate.pass().await?;
        self.inner.watch(topic).await
    }

    async fn announce_revoked(&self, newest: Watermark) -> Result<(), Error> {
        self.inner.announce_revoked(newest).await
    }

    async fn watch_revoked(&self) -> Result<Watch<Watermark>, Error> {
        self.gate.pass().await?;
        self.inner.watch_revoked().await
    }
}
