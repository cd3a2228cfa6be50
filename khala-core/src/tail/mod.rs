//! The tail: the hot end of every followed topic in memory, over any journal, itself a journal of the same laws.
//!
//! It is filled by reading the journal, never by what was announced: an announcement only says that there is
//! something to read. However many subscribers wait for an update, one of them reads it and all share the page.
//! What must stay true: `read` and `bounds` are exact, as the laws demand; `follow` may answer "nothing new"
//! from knowledge as old as its caller allows, which is how fresh cursors cost no read at all.

mod page;
mod ring;

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

pub use self::page::SharedPage;
use self::ring::{Lookup, Ring};
use crate::{
    error::Error,
    journal::{Append, Batch, Journal, Keep, ReadLimit, Replay, Start, Trimmed},
    position::{Bounds, Cursor, Stale, Watermark},
    telemetry,
    topic::Topic,
    update::Timestamp,
};

/// How much the tail may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TailOptions {
    /// Bytes of memory per topic, roughly, beyond its newest page.
    pub topic_bytes: usize,
    /// Bytes of memory in all, roughly. Past it, each topic keeps only its newest page.
    pub total_bytes: usize,
    /// How long a topic is kept that nobody follows.
    pub idle: Duration,
}

impl Default for TailOptions {
    fn default() -> Self {
        Self { topic_bytes: 4 << 20, total_bytes: 256 << 20, idle: Duration::from_secs(60) }
    }
}

impl TailOptions {
    /// Holds at most that many bytes per topic, beyond its newest page.
    #[must_use]
    pub fn with_topic_bytes(mut self, bytes: usize) -> Self {
        self.topic_bytes = bytes;
        self
    }

    /// Holds at most that many bytes in all, beyond the newest page of each topic.
    #[must_use]
    pub fn with_total_bytes(mut self, bytes: usize) -> Self {
        self.total_bytes = bytes;
        self
    }
}

/// What a subscriber that follows a topic wants to know.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a question of exactly two parts")]
pub struct Wanted {
    /// The head that it has heard of.
    pub head: Option<Cursor>,
    /// "Nothing new" must have been true at this moment or later.
    pub not_older_than: Timestamp,
}

/// The answer to a subscriber that follows a topic.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum Followed {
    /// There is nothing after the cursor.
    CaughtUp {
        /// What the topic held.
        bounds: Bounds,
        /// When the journal last confirmed it.
        confirmed_at: Timestamp,
    },
    /// What follows the cursor; never empty.
    Page {
        /// The page.
        page: Arc<SharedPage>,
        /// What the topic held, as far as the tail knows: the page may be older, and there may be more.
        bounds: Bounds,
        /// When the journal last confirmed the head.
        confirmed_at: Timestamp,
    },
    /// The cursor cannot be resumed from.
    Stale(Stale),
}

/// A journal over a journal that keeps the hot end of each followed topic in memory.
#[derive(Debug)]
pub struct TailJournal {
    journal: Arc<dyn Journal>,
    options: TailOptions,
    topics: Mutex<Topics>,
    held: AtomicUsize,
}

#[derive(Debug, Default)]
struct Topics {
    entries: HashMap<Topic, Arc<Entry>>,
    /// The number of entries at which idle ones are looked for next.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Entry {
    ring: Mutex<Option<Ring>>,
    /// Held by the one who reads the hot end for everybody.
    filling: tokio::sync::Mutex<()>,
    /// Reads behind the ring that are under way, shared by whoever wants the same.
    cold: Mutex<HashMap<Cursor, WeakShared<ColdRead>>>,
}

type ColdRead = BoxFuture<'static, Result<Cold, Error>>;

/// What a read behind the ring brought, for all who share it.
#[derive(Clone, Debug)]
enum Cold {
    /// The page, and when it was asked for.
    Page(Arc<SharedPage>, Timestamp),
    Stale(Stale),
}

impl Entry {
    fn ring(&self) -> MutexGuard<'_, Option<Ring>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TailJournal {
    /// The tail over `journal`.
    pub fn new(journal: Arc<dyn Journal>, options: TailOptions) -> Self {
        Self { journal, options, topics: Mutex::default(), held: AtomicUsize::new(0) }
    }

    /// What follows `cursor`, from memory if that is new enough for `wanted`, else from the journal.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// An [`Error`] when the journal had to be read and could not.
    pub async fn follow(
        &self,
        topic: &Topic,
        cursor: Cursor,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<Followed, Error> {
        let entry = self.entry(topic, now);
        loop {
            match self.lookup(&entry, topic, cursor, &wanted) {
                Lookup::Found(followed) => return Ok(followed),
                Lookup::Hot(_) => {
                    let _filling = entry.filling.lock().await;
                    // Whoever held the lock before may have read just what is wanted.
                    let Lookup::Hot(end) = self.lookup(&entry, topic, cursor, &wanted) else { continue };
                    match self.fetch(topic, end, "hot").await? {
                        Replay::Page(page) => {
                            let page = Arc::new(SharedPage::new(topic.clone(), page));
                            return Ok(self.absorb(&entry, page, now));
                        }
                        // The ring is of a history that is over; the caller's own cursor decides.
                        Replay::Stale(_) => self.forget(&entry),
                    }
                }
                Lookup::Cold => {
                    return Ok(match self.cold(&entry, topic, cursor, now).await? {
                        Cold::Page(page, read_at) => self.absorb(&entry, page, read_at),
                        Cold::Stale(stale) => Followed::Stale(stale),
                    });
                }
            }
        }
    }

    /// The same without reading the journal: none if that would be needed.
    pub fn follow_from_memory(&self, topic: &Topic, cursor: Cursor, wanted: Wanted) -> Option<Followed> {
        let entry = self.known(topic)?;
        match self.lookup(&entry, topic, cursor, &wanted) {
            Lookup::Found(followed) => Some(followed),
            Lookup::Hot(_) | Lookup::Cold => None,
        }
    }

    /// What the topic held at `not_older_than` or later.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// An [`Error`] when the journal had to be read and could not.
    pub async fn recent_bounds(
        &self,
        topic: &Topic,
        not_older_than: Timestamp,
        now: Timestamp,
    ) -> Result<(Bounds, Timestamp), Error> {
        let entry = self.entry(topic, now);
        let recent = || {
            let ring = entry.ring();
            let ring = ring.as_ref().filter(|ring| ring.confirmed_at() >= not_older_than)?;
            Some((ring.bounds(), ring.confirmed_at()))
        };
        if let Some(known) = recent() {
            return Ok(known);
        }
        let _filling = entry.filling.lock().await;
        if let Some(known) = recent() {
            return Ok(known);
        }
        let bounds = self.journal.bounds(topic).await?;
        telemetry::journal_read("bounds");
        let mut ring = entry.ring();
        match ring.as_mut().filter(|ring| ring.bounds().epoch == bounds.epoch) {
            Some(ring) => {
                let before = ring.bytes();
                ring.learn(bounds);
                ring.confirm(now);
                self.account(before, ring.bytes());
            }
            None => self.replace(&mut ring, Some(Ring::at_head(bounds, now))),
        }
        Ok((bounds, now))
    }

    fn known(&self, topic: &Topic) -> Option<Arc<Entry>> {
        self.topics().entries.get(topic).cloned()
    }

    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of `topic`. Making one looks for idle ones now and then, so that entries stay in proportion to
    /// the topics that are followed.
    fn entry(&self, topic: &Topic, now: Timestamp) -> Arc<Entry> {
        let mut topics = self.topics();
        if let Some(entry) = topics.entries.get(topic) {
            return Arc::clone(entry);
        }
        if topics.entries.len() >= topics.sweep_at {
            let recent = now.minus(self.options.idle);
            topics.entries.retain(|_, entry| {
                let in_use = Arc::strong_count(entry) > 1;
                let mut ring = entry.ring();
                let stays = in_use || ring.as_ref().is_some_and(|ring| ring.confirmed_at() >= recent);
                if !stays {
                    self.replace(&mut ring, None);
                }
                stays
            });
            topics.sweep_at = (topics.entries.len() * 2).max(1024);
        }
        Arc::clone(topics.entries.entry(topic.clone()).or_default())
    }

    fn lookup(&self, entry: &Entry, topic: &Topic, cursor: Cursor, wanted: &Wanted) -> Lookup {
        match &*entry.ring() {
            Some(ring) => ring.follow(topic, cursor, wanted),
            None => Lookup::Cold,
        }
    }

    async fn fetch(&self, topic: &Topic, cursor: Cursor, temperature: &'static str) -> Result<Replay, Error> {
        telemetry::journal_read(temperature);
        self.journal.read(topic, Start::After(cursor), ReadLimit::PAGE).await
    }

    /// Reads behind the ring; whoever wants the same page meanwhile shares the read, and the page.
    async fn cold(
        &self,
        entry: &Entry,
        topic: &Topic,
        cursor: Cursor,
        now: Timestamp,
    ) -> Result<Cold, Error> {
        let read: Shared<ColdRead> = {
            let mut cold = entry.cold.lock().unwrap_or_else(PoisonError::into_inner);
            match cold.get(&cursor).and_then(WeakShared::upgrade) {
                Some(read) => read,
                None => {
                    cold.retain(|_, read| read.upgrade().is_some());
                    let (journal, topic) = (Arc::clone(&self.journal), topic.clone());
                    telemetry::journal_read("cold");
                    let read = async move {
                        Ok(match journal.read(&topic, Start::After(cursor), ReadLimit::PAGE).await? {
                            Replay::Page(page) => Cold::Page(Arc::new(SharedPage::new(topic, page)), now),
                            Replay::Stale(stale) => Cold::Stale(stale),
                        })
                    };
                    let read = read.boxed().shared();
                    cold.extend(read.downgrade().map(|weak| (cursor, weak)));
                    read
                }
            }
        };
        read.await
    }

    /// Takes in what was read and answers with it.
    fn absorb(&self, entry: &Entry, page: Arc<SharedPage>, now: Timestamp) -> Followed {
        let mut bounds = page.page().bounds;
        self.extend(entry, &page, now);
        if page.page().updates.is_empty() {
            return Followed::CaughtUp { bounds, confirmed_at: now };
        }
        if let Some(ring) = entry.ring().as_ref().filter(|ring| ring.bounds().epoch == bounds.epoch) {
            bounds.head = bounds.head.max(ring.bounds().head);
        }
        Followed::Page { page, bounds, confirmed_at: now }
    }

    fn extend(&self, entry: &Entry, page: &Arc<SharedPage>, now: Timestamp) {
        let mut ring = entry.ring();
        let before = ring.as_ref().map_or(0, Ring::bytes);
        if !ring.as_mut().is_some_and(|ring| ring.extend(page, now)) {
            // It does not continue the ring. If it reaches further, it starts a new one at the end of the log.
            let bounds = page.page().bounds;
            let known = ring.as_ref().map(Ring::bounds);
            let further = ring
                .as_ref()
                .is_none_or(|ring| ring.bounds().epoch != bounds.epoch || ring.end() < page.page().end());
            if further && page.page().is_complete() {
                let mut fresh = Ring::at_head(Bounds { head: page.page().after, ..bounds }, now);
                fresh.extend(page, now);
                // What was known of the same epoch stays known, or a head would go back (J6).
                known.into_iter().for_each(|known| fresh.learn(known));
                *ring = Some(fresh);
            } else if let Some(ring) = ring.as_mut() {
                ring.learn(bounds);
            }
        }
        let Some(ring) = ring.as_mut() else { return };
        self.account(before, ring.bytes());
        while ring.bytes() > self.options.topic_bytes
            || self.held.load(Ordering::Relaxed) > self.options.total_bytes
        {
            let Some(bytes) = ring.shrink() else { break };
            self.account(bytes, 0);
        }
    }

    fn account(&self, before: usize, after: usize) {
        self.held.fetch_add(after, Ordering::Relaxed);
        self.held.fetch_sub(before, Ordering::Relaxed);
    }

    fn forget(&self, entry: &Entry) {
        self.replace(&mut entry.ring(), None);
    }

    fn replace(&self, ring: &mut Option<Ring>, with: Option<Ring>) {
        self.account(ring.as_ref().map_or(0, Ring::bytes), with.as_ref().map_or(0, Ring::bytes));
        *ring = with;
    }

    /// Takes in bounds that the journal gave; those of another epoch end the ring.
    fn learn(&self, topic: &Topic, bounds: Bounds) {
        let Some(entry) = self.known(topic) else { return };
        let mut ring = entry.ring();
        if let Some(known) = ring.as_mut() {
            if known.bounds().epoch == bounds.epoch {
                let before = known.bytes();
                known.learn(bounds);
                self.account(before, known.bytes());
            } else {
                self.replace(&mut ring, None);
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Journal for TailJournal {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        let answer = self.journal.append(topic, batch, now).await?;
        if let Append::Written(receipt) = &answer {
            // The updates come by reading. That there are some must be known at once, or a head would go back (J6).
            let bounds =
                Bounds { epoch: receipt.epoch, floor: Watermark::ORIGIN, head: receipt.last.watermark() };
            self.learn(topic, bounds);
        }
        Ok(answer)
    }

    async fn read(&self, topic: &Topic, start: Start, limit: ReadLimit) -> Result<Replay, Error> {
        // A topic that nobody follows has no entry, and gets none by being read.
        let entry = self.known(topic);
        let full_page = |entry: &Arc<Entry>| entry.ring().as_ref()?.full_page(start, limit);
        if let Some(page) = entry.as_ref().and_then(full_page) {
            return Ok(Replay::Page(page));
        }
        telemetry::journal_read("exact");
        let replay = self.journal.read(topic, start, limit).await?;
        if let (Some(entry), Replay::Page(page)) = (&entry, &replay) {
            let shared = Arc::new(SharedPage::new(topic.clone(), page.clone()));
            self.extend(entry, &shared, Timestamp::default());
        }
        Ok(replay)
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        let bounds = self.journal.bounds(topic).await?;
        self.learn(topic, bounds);
        Ok(bounds)
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let trimmed = self.journal.trim(topic, keep, now).await?;
        self.learn(topic, trimmed.bounds);
        Ok(trimmed)
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&Topic>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Topic, Bounds)>, Error> {
        self.journal.topics(prefix, after, limit).await
    }
}
