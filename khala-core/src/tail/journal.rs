//! The journal of the tail: it answers from memory what it can, and reads for all who want the same.
//!
//! # Invariants
//! `read` and `bounds` are exact, as the laws demand. `follow` may answer "nothing new" from knowledge as old as its caller
//! allows. Each question looks at the journal a bounded number of times.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::FutureExt as _;

use super::{
    alarm::Alarm,
    entry::Entry,
    held::HeldTopic,
    lookup::{CacheLookup, FollowResult, Freshness, inconclusive},
    options::TailOptions,
    page::SharedPage,
    reads::{Done, Found, Target},
    replay_cache::rest_after,
    ring::Ring,
};
use crate::{
    budget::{MemoryBudget, MemoryPart},
    class::Classes,
    clock::{Clock, Moment},
    error::Error,
    journal::{
        Append, Batch, DueAfter, DuePage, Journal, Keep, ReadFrom, ReadLimit, Replay, Settled, TopicPage,
        Trimmed,
    },
    position::{Bounds, Cursor, Stale, StaleReason},
    replay::Throttle,
    telemetry,
    topic::Topic,
    update::Timestamp,
};

/// How often one question looks at the journal. Each look but the first begins after the question was asked, so a journal
/// that keeps its laws answers the third at the latest, unless it is trimmed meanwhile.
pub(super) const LOOKS: usize = 8;

/// A journal over a journal that keeps the hot end of each followed topic in memory.
#[derive(Debug)]
pub struct TailJournal {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) classes: Classes,
    pub(super) options: TailOptions,
    /// How fast history goes on beside appends, by which clock.
    pub(super) throttle: Option<(Arc<Throttle>, Arc<dyn Clock>)>,
    /// Who is told of a journal that went back.
    pub(super) alarm: Option<Alarm>,
    pub(super) topics: Mutex<Topics>,
    pub(super) held: AtomicUsize,
    pub(super) memory: MemoryBudget,
    /// Entries that hold something, the one that has for the longest time first.
    pub(super) filled: Mutex<VecDeque<Weak<Entry>>>,
}

#[derive(Debug, Default)]
pub(super) struct Topics {
    entries: HashMap<Topic, Arc<Entry>>,
    /// When idle entries were last looked for.
    swept_at: Moment,
}

impl TailJournal {
    /// The tail over `journal`. Every payload travels in its page's frames.
    pub fn new(journal: Arc<dyn Journal>, options: TailOptions) -> Self {
        let classes = Classes::new(Vec::new()).expect("no class is no mistake");
        Self {
            journal,
            classes,
            options,
            throttle: None,
            alarm: None,
            topics: Mutex::default(),
            held: AtomicUsize::new(0),
            memory: MemoryBudget::new(None),
            filled: Mutex::default(),
        }
    }

    /// Counts what is held in `memory`, of which it holds half at most, and less while that is spent: what it holds can be
    /// read again, and what else there is cannot go on without memory.
    #[must_use]
    pub(crate) fn with_memory(mut self, memory: MemoryBudget) -> Self {
        let half =
            memory.limit().map_or(usize::MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX));
        self.options.total_bytes = self.options.total_bytes.min(half);
        self.memory = memory;
        self
    }

    /// Leaves payloads out of frames that are over the bound of their class.
    #[must_use]
    pub fn with_classes(mut self, classes: Classes) -> Self {
        self.classes = classes;
        self
    }

    /// Tells the pace of history when somebody appends, and keeps to it in what is [found at once](Self::get).
    pub(crate) fn with_throttle(mut self, throttle: Arc<Throttle>, clock: Arc<dyn Clock>) -> Self {
        self.throttle = Some((throttle, clock));
        self
    }

    /// What follows `cursor`, from memory if that is new enough for `wanted`, else from the journal.
    ///
    /// Cancel safe, and so is not polling it on: a read that it began is driven by the others that share it.
    ///
    /// # Errors
    /// An [`Error`] when the journal had to be read and could not.
    pub async fn follow(
        &self,
        topic: &Topic,
        cursor: Cursor,
        wanted: Freshness,
        now: Moment,
    ) -> Result<FollowResult, Error> {
        let entry = self.entry(topic, now);
        let begun = entry.reads.begun();
        let mut exact = false;
        for _ in 0..LOOKS {
            let behind = match self.lookup(&entry, cursor, &wanted) {
                CacheLookup::Hit(followed) => return Ok(followed),
                CacheLookup::MissAtHead => false,
                CacheLookup::MissBehind => true,
            };
            let start = if behind && !exact { self.start_for(&entry, cursor) } else { cursor };
            let Done { found, number, began_at } = self.read_pages(&entry, topic, start, behind, now).await?;
            if let Found::Other { bounds, evidence } = found {
                // Before the question whether to trust it: whatever was shown since, the cursor ends with what is lost.
                self.notice_others(&entry, bounds, evidence, number);
                return Ok(FollowResult::Stale(Stale::of_another_history(cursor, bounds)));
            }
            if entry.distrusts(number) {
                continue;
            }
            let pages = match found {
                Found::Pages(pages) => pages,
                Found::Stale(stale) => {
                    self.learn_for(&entry, stale.bounds, number);
                    // A read that began before this cursor was brought may show a head that was lower then.
                    let early = number <= begun && stale.reasons.contains(&StaleReason::CursorAhead);
                    if start != cursor || early {
                        // That others' pages were trimmed says nothing of this cursor.
                        exact = true;
                        continue;
                    }
                    return Ok(FollowResult::Stale(stale));
                }
                Found::Bounds(_) | Found::Other { .. } => continue, // no answer to this question
            };
            let Some(bounds) = self.absorb(&entry, &pages, number, began_at) else { continue };
            if pages.iter().any(|page| !page.page().updates.is_empty()) {
                if behind {
                    self.keep_for_others(&entry, &pages, number);
                }
                let Some(page) = pages.iter().find_map(|page| rest_after(page, cursor.watermark)) else {
                    // The page is cut by its bytes and ends before this cursor, or the log does: read on from its end.
                    exact = true;
                    continue;
                };
                // A reader that has reached the head follows the tail from now on.
                let behind = behind && page.page().end() < bounds.head;
                return Ok(FollowResult::Page { page, bounds, confirmed_at: began_at, behind });
            }
            if start != cursor {
                exact = true;
                continue;
            }
            // Nothing new, says a read that may have begun before what this caller has heard of.
            let heard_of_more = wanted.head.is_some_and(|head| head.is_news_to(cursor));
            let late_enough = number > begun || (began_at >= wanted.not_older_than && !heard_of_more);
            if late_enough && bounds.head == cursor.watermark {
                return Ok(FollowResult::CaughtUp { bounds, confirmed_at: began_at });
            }
        }
        Err(inconclusive(topic))
    }

    /// The same without reading the journal, or what reading it would take. While history keeps to a pace, what is old of
    /// it is a [`MissBehind`](CacheLookup::MissBehind).
    pub fn get(&self, topic: &Topic, cursor: Cursor, wanted: Freshness, now: Moment) -> CacheLookup {
        match self.held(topic) {
            Some(held) => self.get_held(&held, cursor, wanted, now),
            None => CacheLookup::MissBehind,
        }
    }

    /// What is held of a topic that is followed here, for who follows it and peeks often: it stays for as long.
    pub(crate) fn held(&self, topic: &Topic) -> Option<HeldTopic> {
        self.known(topic).map(HeldTopic::new)
    }

    /// [`get`](Self::get) without looking for the topic.
    pub(crate) fn get_held(
        &self,
        held: &HeldTopic,
        cursor: Cursor,
        wanted: Freshness,
        now: Moment,
    ) -> CacheLookup {
        match self.lookup(held.entry(), cursor, &wanted) {
            CacheLookup::Hit(FollowResult::Page { behind: true, page, .. })
                if self.throttle.as_ref().is_some_and(|(throttle, clock)| {
                    throttle.holds_back(|| clock.now().since(page.published_at()), now)
                }) =>
            {
                CacheLookup::MissBehind
            }
            found => found,
        }
    }

    /// [`get`](Self::get) at any pace.
    pub(crate) fn get_unthrottled(&self, topic: &Topic, cursor: Cursor, wanted: Freshness) -> CacheLookup {
        match self.known(topic) {
            Some(entry) => self.lookup(&entry, cursor, &wanted),
            None => CacheLookup::MissBehind,
        }
    }

    /// What the tail knows of a topic that is followed here, however old that is.
    pub(crate) fn known_bounds(&self, topic: &Topic) -> Option<Bounds> {
        self.known(topic)?.ring().as_ref().map(Ring::bounds)
    }

    /// What the topic held at `not_older_than` or later, and when that was.
    ///
    /// Cancel safe, and so is not polling it on.
    ///
    /// # Errors
    /// An [`Error`] when the journal had to be read and could not.
    pub async fn recent_bounds(
        &self,
        topic: &Topic,
        not_older_than: Moment,
        now: Moment,
    ) -> Result<(Bounds, Moment), Error> {
        let entry = self.entry(topic, now);
        let begun = entry.reads.begun();
        for _ in 0..LOOKS {
            if let Some(ring) = entry.ring().as_ref().filter(|ring| ring.confirmed_at() >= not_older_than) {
                return Ok((ring.bounds(), ring.confirmed_at()));
            }
            let begin = || {
                telemetry::journal_read("bounds");
                let (journal, topic) = (Arc::clone(&self.journal), topic.clone());
                async move { journal.bounds(&topic).await.map(Found::Bounds) }.boxed()
            };
            let Done { found, number, began_at } = entry.reads.share(Target::Bounds, now, begin).await?;
            let Found::Bounds(bounds) = found else { continue };
            let bounds = self.learn_for(&entry, bounds, number);
            {
                let mut ring = entry.ring();
                if entry.distrusts(number) {
                    continue;
                }
                if let Some(ring) = ring.as_mut() {
                    ring.confirm(began_at);
                }
            }
            if number > begun || began_at >= not_older_than {
                return Ok((bounds, began_at));
            }
        }
        Err(inconclusive(topic))
    }

    pub(super) fn known(&self, topic: &Topic) -> Option<Arc<Entry>> {
        self.topics().entries.get(topic).cloned()
    }

    pub(super) fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for idle entries now and then, so that they stay in proportion to the topics that are followed.
    pub(super) fn sweep(&self, topics: &mut Topics, now: Moment) {
        if now.since(topics.swept_at) <= self.options.idle {
            return;
        }
        topics.swept_at = now;
        let recent = now.minus(self.options.idle);
        topics.entries.retain(|_, entry| {
            let in_use = Arc::strong_count(entry) > 1;
            let mut ring = entry.ring();
            let stays = in_use || ring.as_ref().is_some_and(|ring| ring.confirmed_at() >= recent);
            if !stays {
                self.replace(&mut ring, None);
                self.account(entry.replay_cache().bytes(), 0);
            }
            stays
        });
        self.filled_entries().retain(|entry| entry.strong_count() > 0);
    }

    /// The entry of `topic`.
    pub(super) fn entry(&self, topic: &Topic, now: Moment) -> Arc<Entry> {
        let mut topics = self.topics();
        self.sweep(&mut topics, now);
        match topics.entries.get(topic) {
            Some(entry) => Arc::clone(entry),
            None => {
                let inline = self.classes.of(topic).and_then(|class| class.inline_bytes);
                let entry = Arc::new(Entry::new(topic.clone(), inline));
                topics.entries.insert(topic.clone(), Arc::clone(&entry));
                entry
            }
        }
    }

    pub(super) fn lookup(&self, entry: &Entry, cursor: Cursor, wanted: &Freshness) -> CacheLookup {
        let mut ring = entry.ring();
        let Some(ring) = &mut *ring else { return CacheLookup::MissBehind };
        let lookup = ring.follow(cursor, wanted, self.options.page_limit(), |page| entry.share(page));
        let (bounds, confirmed_at) = (ring.bounds(), ring.confirmed_at());
        match lookup {
            CacheLookup::MissBehind => match entry.replay_cache().page_after(cursor, &bounds) {
                Some(page) => {
                    CacheLookup::Hit(FollowResult::Page { page, bounds, confirmed_at, behind: true })
                }
                None => CacheLookup::MissBehind,
            },
            found => found,
        }
    }

    /// Takes in what was read, and says what the topic holds as far as is known by now; none if it was read before the
    /// journal went back.
    pub(super) fn absorb(
        &self,
        entry: &Arc<Entry>,
        pages: &[Arc<SharedPage>],
        number: u64,
        began_at: Moment,
    ) -> Option<Bounds> {
        entry.leadership.succeeded();
        // They are of one moment.
        let mut bounds = pages[0].page().bounds;
        self.notice(entry, bounds, number);
        {
            let mut ring = entry.ring();
            if entry.distrusts(number) {
                return None;
            }
            for page in pages {
                self.extend(entry, &mut ring, page, began_at);
            }
            if let Some(ring) = ring.as_ref().filter(|ring| ring.bounds().epoch == bounds.epoch) {
                bounds.head = bounds.head.max(ring.bounds().head);
            }
        }
        self.filled(entry);
        Some(bounds)
    }

    /// Puts a topic that holds something into the queue of those that are let go of, unless it stands there. To be called
    /// with no ring locked.
    pub(super) fn enqueue(&self, entry: &Arc<Entry>) {
        let holds =
            entry.ring().as_ref().is_some_and(|ring| ring.bytes() > 0) || entry.replay_cache().bytes() > 0;
        if holds && !entry.queued.swap(true, Ordering::Relaxed) {
            self.filled_entries().push_back(Arc::downgrade(entry));
        }
    }

    /// Notes that a topic holds something, and lets go of others while there is too much. To be called with no ring locked.
    pub(super) fn filled(&self, entry: &Arc<Entry>) {
        self.enqueue(entry);
        self.let_go_but(Some(entry));
    }

    /// Lets go of what can be read again while there is too much, the topic that was filled first at first.
    pub(crate) fn let_go(&self) {
        self.let_go_but(None);
    }

    pub(super) fn let_go_but(&self, entry: Option<&Arc<Entry>>) {
        if !self.is_full() {
            return;
        }
        let most = self.filled_entries().len();
        for _ in 0..most {
            if !self.is_full() {
                break;
            }
            let Some(oldest) = self.filled_entries().pop_front() else { break };
            let Some(oldest) = oldest.upgrade() else { continue };
            oldest.queued.store(false, Ordering::Relaxed);
            if entry.is_some_and(|entry| Arc::ptr_eq(&oldest, entry)) {
                // Its followers have not had it yet.
                self.enqueue(&oldest);
                continue;
            }
            if let Some(ring) = oldest.ring().as_mut() {
                let before = ring.bytes();
                ring.clear();
                self.account(before, ring.bytes());
            }
            let mut replay_cache = oldest.replay_cache();
            let before = replay_cache.bytes();
            while replay_cache.forget_oldest() {}
            self.account(before, replay_cache.bytes());
        }
    }

    pub(super) fn filled_entries(&self) -> MutexGuard<'_, VecDeque<Weak<Entry>>> {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the tail holds more than it may, or the node does.
    pub(super) fn is_full(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.options.total_bytes || self.memory.is_spent()
    }

    pub(super) fn extend(&self, entry: &Entry, ring: &mut Option<Ring>, page: &Arc<SharedPage>, now: Moment) {
        let before = ring.as_ref().map_or(0, Ring::bytes);
        if let Some(ring) = ring.as_mut() {
            ring.seal(self.options.page_limit(), |page| entry.share(page));
        }
        let begun = entry.reads.begun();
        if !ring.as_mut().is_some_and(|ring| ring.extend(page, begun, now)) {
            // It does not continue the ring. If it reaches further, it starts a new one at the end of the log.
            let bounds = page.page().bounds;
            let known = ring.as_ref().map(|ring| (ring.bounds(), ring.learned()));
            let further = ring
                .as_ref()
                .is_none_or(|ring| ring.bounds().epoch != bounds.epoch || ring.end() < page.page().end());
            if further && page.page().is_complete() {
                let mut fresh = Ring::at_head(Bounds { head: page.page().after, ..bounds }, begun, now);
                fresh.extend(page, begun, now);
                // What was known of the same epoch stays known, or a head would go back (J6).
                known.into_iter().for_each(|(known, learned)| fresh.learn(known, learned));
                *ring = Some(fresh);
            } else {
                // A replay of a topic that nobody follows makes its end known too.
                ring.get_or_insert_with(|| Ring::at_head(bounds, begun, now)).learn(bounds, begun);
            }
        }
        let Some(ring) = ring.as_mut() else { return };
        self.account(before, ring.bytes());
        self.shrink(ring);
    }

    pub(super) fn account(&self, before: usize, after: usize) {
        self.held.fetch_add(after, Ordering::Relaxed);
        self.held.fetch_sub(before, Ordering::Relaxed);
        self.memory.change(MemoryPart::Tail, after.cast_signed() as i64 - before.cast_signed() as i64);
    }

    pub(super) fn replace(&self, ring: &mut Option<Ring>, with: Option<Ring>) {
        self.account(ring.as_ref().map_or(0, Ring::bytes), with.as_ref().map_or(0, Ring::bytes));
        *ring = with;
    }

    /// The number of a read or an append of `topic` that begins now.
    pub(super) fn begin(&self, topic: &Topic) -> u64 {
        self.known(topic).map_or(0, |entry| entry.reads.begin())
    }

    /// Takes in bounds that the journal gave to what has that [number](Self::begin), if the topic is followed.
    pub(super) fn learn(&self, topic: &Topic, bounds: Bounds, number: u64) {
        if let Some(entry) = self.known(topic) {
            self.learn_for(&entry, bounds, number);
        }
    }

    /// Takes in bounds that the journal gave to what has that number, so that no head is taken back (J6) unless the journal
    /// itself went back; those of another epoch end the ring. Says what is known by now.
    pub(super) fn learn_for(&self, entry: &Entry, bounds: Bounds, number: u64) -> Bounds {
        self.notice(entry, bounds, number);
        let begun = entry.reads.begun();
        let mut ring = entry.ring();
        if entry.distrusts(number) {
            return ring.as_ref().map_or(bounds, Ring::bounds);
        }
        let known = match ring.as_mut().filter(|ring| ring.bounds().epoch == bounds.epoch) {
            Some(ring) => {
                let before = ring.bytes();
                ring.learn(bounds, begun);
                self.account(before, ring.bytes());
                ring.bounds()
            }
            None => {
                self.replace(&mut ring, Some(Ring::at_head(bounds, begun, Moment::default())));
                bounds
            }
        };
        let mut replay_cache = entry.replay_cache();
        if replay_cache.bytes() > 0 {
            let before = replay_cache.bytes();
            replay_cache.learn(&known);
            self.account(before, replay_cache.bytes());
        }
        known
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Journal for TailJournal {
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        let moment = self.throttle.as_ref().map(|(throttle, clock)| {
            let moment = clock.moment();
            throttle.note_append(moment);
            moment
        });
        let known = {
            let mut topics = self.topics();
            // Where all that is new comes by appends, nobody else may look for long.
            if let Some(moment) = moment {
                self.sweep(&mut topics, moment);
            }
            topics.entries.get(topic).cloned()
        };
        let followed = known.map(|entry| (entry.reads.begin(), entry, batch.clone()));
        let answer = self.journal.append(topic, batch, now).await?;
        if let Append::Written(receipt) = &answer {
            match followed {
                Some((number, entry, batch)) => self.take_in(&entry, receipt, batch, number, now),
                // That there is something must be known at once, or a head would go back (J6).
                None => self.learn(topic, receipt.bounds(), 0),
            }
        }
        Ok(answer)
    }

    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
        telemetry::journal_read("exact");
        let number = self.begin(topic);
        let replay = self.journal.read(topic, start, limit).await?;
        // Its updates are not taken in: the page may be larger than what a subscriber is sent at once.
        match &replay {
            Replay::Page(page) => self.learn(topic, page.bounds, number),
            Replay::Stale(stale) => self.learn(topic, stale.bounds, number),
        }
        Ok(replay)
    }

    async fn check_writable(&self) -> Result<(), Error> {
        self.journal.check_writable().await
    }

    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        let number = self.begin(topic);
        let bounds = self.journal.bounds(topic).await?;
        self.learn(topic, bounds, number);
        Ok(bounds)
    }

    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        let number = self.begin(topic);
        let trimmed = self.journal.trim(topic, keep, now).await?;
        self.learn(topic, trimmed.bounds, number);
        Ok(trimmed)
    }

    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
        // Nothing is learned: the floor of a plan is not the topic's.
        self.journal.plan_trim(topic, keep, now).await
    }

    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error> {
        let page = self.journal.topics(prefix, after, limit).await?;
        for (topic, bounds) in &page.topics {
            // One read of many topics is evidence of none.
            self.learn(topic, *bounds, 0);
        }
        Ok(page)
    }

    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        let page = self.journal.due(rules, after, until, limit).await?;
        for (_, topic, bounds) in &page.topics {
            // As of a listing: one read of many topics is evidence of none.
            self.learn(topic, *bounds, 0);
        }
        Ok(page)
    }

    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        self.journal.settle(rules, settled).await
    }
}
