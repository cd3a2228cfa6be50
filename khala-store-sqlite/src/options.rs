//! How a store is opened.

use std::{num::NonZeroUsize, time::Duration};

use khala_core::health::Health;

/// When an append, or a revocation, is on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Before it is acknowledged and before anybody can read it: `synchronous=FULL`.
    #[default]
    Full,
    /// Some time after: `synchronous=NORMAL`. A killed process loses nothing. A power loss or a crash of the
    /// operating system may take the last acknowledged commits back, also from subscribers that have seen them;
    /// their cursors are then ahead of the head, until new updates take the same seqs under the same epoch. A
    /// revocation that is lost so lets in again whomever it named.
    MayLoseLastCommitsOnPowerLoss,
}

/// How a store is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// When an append, or a revocation, is on stable storage. Default: [`Durability::Full`].
    pub durability: Durability,
    /// How many connections read, and so how many reads run at once. Default: 4.
    pub readers: NonZeroUsize,
    /// How long to wait for a lock that another connection holds. Default: 5 s.
    pub busy_timeout: Duration,
    /// How often the writes of other connections are looked for, while any topic, or the revocations, are
    /// watched. Default: 50 ms.
    pub watch_every: Duration,
    /// What the store's threads report to. Default: a health of its own.
    pub health: Health,
    pub(crate) max_pages: Option<u32>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            readers: NonZeroUsize::new(4).expect("4 is not zero"),
            busy_timeout: Duration::from_secs(5),
            watch_every: Duration::from_millis(50),
            health: Health::new(),
            max_pages: None,
        }
    }
}

impl SqliteOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has the store's threads report to `health`, which readiness is made from.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Says when an append, or a revocation, is on stable storage.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Says how many connections read.
    #[must_use]
    pub fn with_readers(mut self, readers: NonZeroUsize) -> Self {
        self.readers = readers;
        self
    }

    /// Says how long to wait for a lock that another connection holds.
    #[must_use]
    pub fn with_busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Says how often the writes of other connections are looked for; at least every millisecond.
    #[must_use]
    pub fn with_watch_every(mut self, every: Duration) -> Self {
        self.watch_every = every.max(Duration::from_millis(1));
        self
    }

    /// Lets the file grow to that many pages only: how tests fill a disk.
    #[doc(hidden)]
    #[must_use]
    pub fn with_max_pages(mut self, pages: u32) -> Self {
        self.max_pages = Some(pages);
        self
    }
}
