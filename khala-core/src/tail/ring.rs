//! The hot end of one topic: recent pages without a hole between them, and what is known of the journal.
//!
//! Pure: no lock, no I/O, no clock.
//!
//! # Invariants
//! The pages cover exactly `start < seq <= end` of `bounds.epoch`, and a reader is never told "nothing new" on knowledge older
//! than it asked for.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
};

use super::{
    lookup::{CacheLookup, FollowResult, Freshness},
    mark::Mark,
    page::SharedPage,
};
use crate::{
    clock::Moment,
    journal::{Page, ReadLimit},
    position::{Bounds, Cursor, Watermark},
    update::Update,
};

/// Bytes of updates that wait for those before them.
const EARLY_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Ring {
    bounds: Bounds,
    /// How many reads had begun when `bounds.head` was learned: those with higher numbers began later.
    learned: u64,
    start: Watermark,
    pages: VecDeque<Arc<SharedPage>>,
    /// What was appended after the last page and is in no page yet: the first reader that comes for it makes one page of all there is.
    fresh: Vec<Update>,
    fresh_bytes: usize,
    /// What was appended after something that is not here yet, by the watermark that it continues from.
    early: BTreeMap<Watermark, Vec<Update>>,
    early_bytes: usize,
    bytes: usize,
    /// The last update that was let go, or that a reader of history was given: where nothing else is here, the one that `start`
    /// ends with.
    let_go: Option<Mark>,
    /// When the journal was last known to end at `bounds.head`.
    confirmed_at: Moment,
}

impl Ring {
    /// A ring that knows these bounds, and no update.
    pub(super) fn at_head(bounds: Bounds, learned: u64, confirmed_at: Moment) -> Self {
        Self {
            bounds,
            learned,
            start: bounds.head,
            pages: VecDeque::new(),
            fresh: Vec::new(),
            fresh_bytes: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
            bytes: 0,
            let_go: None,
            confirmed_at,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.early_bytes
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Whether the journal went back within the epoch, if the read of that number found `found` in it: what is known was
    /// known before that read began.
    pub(super) fn is_ahead_of(&self, found: Bounds, number: u64) -> bool {
        found.epoch == self.bounds.epoch && found.head < self.bounds.head && number > self.learned
    }

    /// When its head was learned, in reads that had begun.
    pub(super) fn learned(&self) -> u64 {
        self.learned
    }

    pub(super) fn confirmed_at(&self) -> Moment {
        self.confirmed_at
    }

    pub(super) fn end(&self) -> Watermark {
        self.fresh.last().map_or_else(|| self.paged(), |update| update.seq.watermark())
    }

    /// Where the last page ends.
    fn paged(&self) -> Watermark {
        self.pages.back().map_or(self.start, |page| page.page().end())
    }

    /// The update that it ends with, if that was ever here.
    pub(super) fn mark(&self) -> Option<Mark> {
        let last = self.fresh.last().or_else(|| self.pages.back()?.page().updates.last());
        last.map(Mark::of).or(self.let_go)
    }

    /// Takes the last update of a page of history for its mark, where nothing is here yet and the page reaches to its start.
    pub(super) fn learn_mark(&mut self, page: &SharedPage) {
        if self.mark().is_none()
            && page.page().end() == self.end()
            && page.page().bounds.epoch == self.bounds.epoch
        {
            self.let_go = page.page().updates.last().map(Mark::of);
        }
    }

    /// Whether it has the update after `watermark`.
    pub(super) fn holds(&self, watermark: Watermark) -> bool {
        (self.start..self.end()).contains(&watermark)
    }

    /// The last update that `watermark` covers, if it is here.
    pub(super) fn update_at(&self, watermark: Watermark) -> Option<&Update> {
        let is = |update: &&Update| update.seq.watermark() == watermark;
        let index = self.pages.partition_point(|page| page.page().end() < watermark);
        match self.pages.get(index) {
            Some(page) => page.page().updates.iter().find(is),
            None => self.fresh.iter().find(is),
        }
    }

    /// Answers a subscriber that follows; `share` makes a page that is shared.
    pub(super) fn follow(
        &mut self,
        cursor: Cursor,
        wanted: &Freshness,
        limit: ReadLimit,
        share: impl Fn(Page) -> SharedPage,
    ) -> CacheLookup {
        let Cursor { epoch, watermark } = cursor;
        let end = self.end();
        if epoch != self.bounds.epoch || watermark < self.start.max(self.bounds.floor) || watermark > end {
            return CacheLookup::MissBehind;
        }
        if watermark < end {
            if watermark >= self.paged() {
                self.seal(limit, share);
            }
            let page = self.page_after(watermark);
            let (bounds, confirmed_at) = (self.bounds, self.confirmed_at);
            return CacheLookup::Hit(FollowResult::Page { page, bounds, confirmed_at, behind: false });
        }
        let heard_of_more = wanted.head.is_some_and(|head| head.epoch != epoch || head.watermark > end);
        if heard_of_more || self.bounds.head > end || self.confirmed_at < wanted.not_older_than {
            return CacheLookup::MissAtHead;
        }
        CacheLookup::Hit(FollowResult::CaughtUp { bounds: self.bounds, confirmed_at: self.confirmed_at })
    }

    /// The page that starts at `watermark`, or the rest of the page that it lies in.
    fn page_after(&self, watermark: Watermark) -> Arc<SharedPage> {
        let index = self.pages.partition_point(|page| page.page().end() <= watermark);
        let whole = &self.pages[index];
        if whole.page().after == watermark { Arc::clone(whole) } else { Arc::new(whole.rest(watermark)) }
    }

    /// Makes pages of what is in none, each as large as one may be.
    pub(super) fn seal(&mut self, limit: ReadLimit, share: impl Fn(Page) -> SharedPage) {
        while !self.fresh.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            for update in self.fresh.iter().take(limit.updates.get()) {
                if !limit.admits(count, bytes, update.size()) {
                    break;
                }
                (count, bytes) = (count + 1, bytes + update.size());
            }
            let rest = self.fresh.split_off(count);
            let updates = mem::replace(&mut self.fresh, rest);
            let page = share(Page { after: self.paged(), updates, bounds: self.bounds });
            self.bytes += page.bytes();
            self.pages.push_back(Arc::new(page));
        }
        self.bytes -= mem::take(&mut self.fresh_bytes);
    }

    /// Takes in what the journal has acknowledged as appended after `after`; says whether there is enough for a page.
    ///
    /// It confirms nothing: it knows of no floor, and a node that only appends would never look again.
    pub(super) fn append(
        &mut self,
        after: Watermark,
        updates: Vec<Update>,
        bounds: Bounds,
        begun: u64,
        limit: ReadLimit,
    ) -> bool {
        if bounds.epoch != self.bounds.epoch {
            return false;
        }
        self.learn(bounds, begun);
        match after.cmp(&self.end()) {
            // It was read meanwhile.
            Ordering::Less => return false,
            Ordering::Equal => self.add(updates),
            Ordering::Greater => {
                self.early_bytes += updates.iter().map(SharedPage::weigh).sum::<usize>();
                self.early.insert(after, updates);
                if self.early_bytes > EARLY_BYTES {
                    // It will be read.
                    self.early_bytes = 0;
                    self.early.clear();
                }
            }
        }
        self.join_early();
        self.fresh.len() >= limit.updates.get() || self.fresh_bytes >= limit.bytes
    }

    /// Takes in what has waited for what is here now, and forgets what was read meanwhile.
    fn join_early(&mut self) {
        while let Some((after, updates)) = self.early.pop_first() {
            if after > self.end() {
                self.early.insert(after, updates);
                break;
            }
            self.early_bytes -= updates.iter().map(SharedPage::weigh).sum::<usize>();
            if after == self.end() {
                self.add(updates);
            }
        }
    }

    fn add(&mut self, updates: Vec<Update>) {
        let bytes = updates.iter().map(SharedPage::weigh).sum::<usize>();
        self.fresh_bytes += bytes;
        self.bytes += bytes;
        self.fresh.extend(updates);
    }

    /// Takes in a page that was read at `now`, of those that have `begun`, if it continues the ring, all of which is in pages.
    pub(super) fn extend(&mut self, page: &Arc<SharedPage>, begun: u64, now: Moment) -> bool {
        let (Page { after, updates, bounds }, end) = (page.page(), self.end());
        if bounds.epoch != self.bounds.epoch || !(self.start..=end).contains(after) || page.page().end() < end
        {
            return false;
        }
        if !updates.is_empty() && page.page().end() > end {
            // Some of it may have been appended here while it was read.
            let page = if *after == end { Arc::clone(page) } else { Arc::new(page.rest(end)) };
            self.bytes += page.bytes();
            self.pages.push_back(page);
        }
        self.learn(*bounds, begun);
        self.confirm(now);
        self.join_early();
        true
    }

    /// Notes that the journal ended at `bounds.head` at that moment.
    pub(super) fn confirm(&mut self, now: Moment) {
        self.confirmed_at = now;
    }

    /// Takes in bounds of the same epoch when that many reads have begun: heads and floors only go forward.
    pub(super) fn learn(&mut self, bounds: Bounds, begun: u64) {
        if bounds.epoch == self.bounds.epoch {
            if bounds.head > self.bounds.head {
                (self.bounds.head, self.learned) = (bounds.head, begun);
            }
            self.bounds.floor = self.bounds.floor.max(bounds.floor);
            while self.pages.front().is_some_and(|page| page.page().end() <= self.bounds.floor) {
                self.forget_oldest();
            }
        }
    }

    /// Lets the oldest page go unless it is the newest there is, which followers may not have had yet; says how many bytes went.
    pub(super) fn shrink(&mut self) -> Option<usize> {
        if self.early_bytes > 0 {
            // It will be read.
            self.early.clear();
            return Some(mem::take(&mut self.early_bytes));
        }
        let newer = self.pages.len() > 1 || !self.fresh.is_empty();
        (newer && !self.pages.is_empty()).then(|| self.forget_oldest())
    }

    /// Lets go of every update; what follows is read from the journal.
    pub(super) fn clear(&mut self) {
        (self.start, self.let_go) = (self.end(), self.mark());
        self.pages.clear();
        self.fresh = Vec::new();
        self.early.clear();
        (self.bytes, self.fresh_bytes, self.early_bytes) = (0, 0, 0);
    }

    fn forget_oldest(&mut self) -> usize {
        let Some(oldest) = self.pages.pop_front() else { return 0 };
        self.start = oldest.page().end();
        self.let_go = oldest.page().updates.last().map(Mark::of);
        self.bytes -= oldest.bytes();
        oldest.bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        position::{Epoch, Seq},
        topic::Topic,
        update::{Kind, NewUpdate, Payload, Timestamp},
    };

    fn at(watermark: u64) -> Watermark {
        Watermark::new(watermark).unwrap()
    }

    fn bounds(head: u64) -> Bounds {
        Bounds { epoch: Epoch::from_bits(1), floor: Watermark::ORIGIN, head: at(head) }
    }

    fn update(seq: u64) -> Update {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::null());
        update.stored(Seq::new(seq).unwrap(), Timestamp::default())
    }

    fn share(page: Page) -> SharedPage {
        SharedPage::new(Topic::parse("t").unwrap(), page, None)
    }

    /// What a reader is given after `after`, page by page, as far as it is here.
    fn read(ring: &mut Ring, mut after: u64) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let CacheLookup::Hit(FollowResult::Page { page, .. }) = ring.follow(
            Cursor::new(Epoch::from_bits(1), at(after)),
            &Freshness::default(),
            ReadLimit::PAGE,
            share,
        ) {
            assert_eq!(page.page().after, at(after));
            seqs.extend(page.page().updates.iter().map(|update| update.seq.as_u64()));
            after = page.page().end().as_u64();
        }
        seqs
    }

    proptest! {
        /// Batches are acknowledged in any order, some never, and some stretches come by reading; whatever is here is dense.
        #[test]
        fn what_is_appended_in_any_order_is_given_dense_and_once(
            sizes in prop::collection::vec(1_u64..4, 1..40),
            order in any::<prop::sample::Index>(),
            swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40),
            lost in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
            look_every in 1_usize..5,
            back in 0_u64..4,
        ) {
            let mut batches = Vec::new();
            let mut end = 0;
            for size in sizes {
                batches.push((end, size));
                end += size;
            }
            for (one, other) in swaps {
                let (one, other) = (one.index(batches.len()), other.index(batches.len()));
                batches.swap(one, other);
            }
            let lost: Vec<_> = lost.iter().map(|index| index.index(batches.len())).collect();
            let read_at = order.index(batches.len());
            let mut ring = Ring::at_head(bounds(0), 0, Moment::default());
            let mut known = 0;
            for (count, (after, size)) in batches.iter().enumerate() {
                known = known.max(after + size);
                if count == read_at && known > ring.end().as_u64() {
                    // Somebody found that there is more, and read it.
                    let back = back.min(ring.end().as_u64());
                    let start = at(ring.end().as_u64() - back);
                    let updates = (start.as_u64() + 1..=known).map(update).collect();
                    ring.seal(ReadLimit::PAGE, share);
                    let page = Arc::new(share(Page { after: start, updates, bounds: bounds(known) }));
                    prop_assert!(ring.extend(&page, 0, Moment::default()));
                    prop_assert_eq!(ring.start, Watermark::ORIGIN, "it goes on where it was");
                }
                if !lost.contains(&count) {
                    let updates = (after + 1..=after + size).map(update).collect();
                    ring.append(at(*after), updates, bounds(after + size), 0, ReadLimit::PAGE);
                }
                if count % look_every == 0 {
                    let seqs = read(&mut ring, 0);
                    prop_assert_eq!(&seqs, &(1..=ring.end().as_u64()).collect::<Vec<_>>());
                }
            }
            let seqs = read(&mut ring, 0);
            prop_assert_eq!(seqs.len() as u64, ring.end().as_u64());
            if lost.is_empty() {
                prop_assert_eq!(ring.end(), at(end));
                prop_assert!(ring.early.is_empty() && ring.early_bytes == 0);
            }
            ring.seal(ReadLimit::PAGE, share);
            prop_assert_eq!(ring.bytes() - ring.early_bytes, ring.pages.iter().map(|page| page.bytes()).sum::<usize>());
            prop_assert_eq!(ring.fresh_bytes, 0);
        }
    }
}
