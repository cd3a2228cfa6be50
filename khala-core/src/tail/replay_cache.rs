//! Pages behind the tail that were read last: subscribers that replay the same history read it once.
//!
//! A read brings some pages more than were asked for, which wait here for the same reader: it costs little more than a read
//! of a single page. Pure.
//!
//! # Invariants
//! - A page is handed out only while its topic's epoch and floor still allow it.
//! - The oldest page goes first when there is no room.
//! - Pages that are read and never used stay a small part of what is read.

use std::{collections::VecDeque, sync::Arc};

use super::page::SharedPage;
use crate::position::{Bounds, Cursor, Watermark};

/// Pages that one read brings beside the one that was asked for, at most.
const AHEAD: usize = 4;
/// Reads in a row that wasted nothing, after which a read may bring one page more.
const GROWS_AFTER: usize = 32;

#[derive(Debug)]
pub(super) struct ReplayCache {
    pages: VecDeque<Kept>,
    bytes: usize,
    /// Pages that the next read may bring beside the one that is asked for.
    ahead: usize,
    /// Reads since a page went that nobody had come for.
    good: usize,
}

#[derive(Debug)]
struct Kept {
    page: Arc<SharedPage>,
    /// It was read ahead, and nobody has come for it.
    waits: bool,
}

impl Default for ReplayCache {
    fn default() -> Self {
        Self { pages: VecDeque::new(), bytes: 0, ahead: AHEAD, good: 0 }
    }
}

impl ReplayCache {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The page that continues `cursor`, or the rest of the one that it lies in, in a topic with those bounds.
    pub(super) fn page_after(&mut self, cursor: Cursor, bounds: &Bounds) -> Option<Arc<SharedPage>> {
        if cursor.epoch != bounds.epoch || cursor.watermark < bounds.floor {
            return None;
        }
        let own = |kept: &&mut Kept| kept.page.page().bounds.epoch == cursor.epoch;
        self.pages.iter_mut().rev().filter(own).find_map(|kept| {
            let found = rest_after(&kept.page, cursor.watermark)?;
            kept.waits = false;
            Some(found)
        })
    }

    /// Whether it has a page that starts right there.
    pub(super) fn has(&self, start: Cursor) -> bool {
        let is = |kept: &Kept| {
            let page = kept.page.page();
            page.after == start.watermark && page.bounds.epoch == start.epoch
        };
        self.pages.iter().any(is)
    }

    /// How many pages a read may bring beside the one that is asked for, so that they stay until their reader comes for
    /// them: fewer while many readers stand apart, for whom there is no room at once.
    pub(super) fn ahead(&mut self, most: usize) -> usize {
        if most == 0 {
            return 0;
        }
        self.good += 1;
        if self.good.is_multiple_of(GROWS_AFTER) {
            self.ahead = (self.ahead + 1).min(AHEAD);
        }
        let waiting: usize = self.pages.iter().filter(|kept| kept.waits).map(|kept| kept.page.bytes()).sum();
        let page = self.pages.back().map_or(0, |kept| kept.page.bytes());
        // Half of the room is for pages that others share.
        (most / 2).saturating_sub(waiting).checked_div(page).map_or(self.ahead, |room| room.min(self.ahead))
    }

    /// Keeps a page, in at most `most` bytes in all. One that was read ahead `waits` for its reader.
    pub(super) fn put(&mut self, page: &Arc<SharedPage>, waits: bool, most: usize) {
        self.bytes += page.bytes();
        self.pages.push_back(Kept { page: Arc::clone(page), waits });
        while self.bytes > most && self.forget_oldest() {}
    }

    /// Lets go of what a floor or an epoch ended.
    pub(super) fn learn(&mut self, bounds: &Bounds) {
        let stays = |kept: &Kept| {
            let page = kept.page.page();
            page.bounds.epoch == bounds.epoch && page.after >= bounds.floor
        };
        self.pages.retain(stays);
        self.bytes = self.pages.iter().map(|kept| kept.page.bytes()).sum();
    }

    pub(super) fn forget_oldest(&mut self) -> bool {
        let Some(Kept { page, waits }) = self.pages.pop_front() else { return false };
        self.bytes -= page.bytes();
        if waits {
            // It was read for nobody, and will be read again.
            (self.ahead, self.good) = (0, 0);
        }
        true
    }
}

/// What follows `watermark` of a page: the page itself, or its rest; none if it lies outside.
pub(super) fn rest_after(page: &Arc<SharedPage>, watermark: Watermark) -> Option<Arc<SharedPage>> {
    let (after, end) = (page.page().after, page.page().end());
    if after == watermark {
        return Some(Arc::clone(page));
    }
    (after < watermark && watermark < end).then(|| Arc::new(page.rest(watermark)))
}

/// Where a read behind the tail starts for who stands at `watermark`: where the pages of all others start, so that a
/// crowd whose cursors differ a little reads them once; and not below the floor.
pub(super) fn grid(watermark: Watermark, floor: Watermark, most: usize) -> Watermark {
    let start = watermark.as_u64() - watermark.as_u64() % most as u64;
    Watermark::new(start).unwrap_or_default().max(floor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        journal::Page,
        position::Epoch,
        topic::Topic,
        update::{Kind, NewUpdate, Payload, Timestamp},
    };

    fn at(number: u64) -> Watermark {
        Watermark::new(number).unwrap()
    }

    fn bounds(epoch: u64, floor: u64) -> Bounds {
        Bounds { epoch: Epoch::from_bits(epoch), floor: at(floor), head: at(100) }
    }

    fn page(epoch: u64, after: u64) -> Arc<SharedPage> {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse("1").unwrap());
        let update = update.stored(at(after).next().unwrap(), Timestamp::default());
        let page = Page { after: at(after), updates: vec![update], bounds: bounds(epoch, 0) };
        Arc::new(SharedPage::new(Topic::parse("t").unwrap(), page, None))
    }

    #[test]
    fn what_a_floor_or_an_epoch_ended_is_not_handed_out() {
        let mut replay_cache = ReplayCache::default();
        for after in [10, 20, 30] {
            replay_cache.put(&page(1, after), false, usize::MAX);
        }
        let found = |replay_cache: &mut ReplayCache, epoch, after, floor| {
            replay_cache
                .page_after(Cursor::new(Epoch::from_bits(epoch), at(after)), &bounds(1, floor))
                .is_some()
        };
        assert!(found(&mut replay_cache, 1, 10, 10) && found(&mut replay_cache, 1, 30, 0));
        assert!(
            !found(&mut replay_cache, 1, 11, 0)
                && !found(&mut replay_cache, 2, 10, 0)
                && !found(&mut replay_cache, 1, 10, 11)
        );
        replay_cache.learn(&bounds(1, 15));
        assert!(!found(&mut replay_cache, 1, 10, 0) && found(&mut replay_cache, 1, 20, 0));
        replay_cache.learn(&bounds(2, 0));
        assert_eq!((replay_cache.pages.len(), replay_cache.bytes()), (0, 0));
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut replay_cache = ReplayCache::default();
        let most = 3 * page(1, 0).bytes();
        for after in 0..5 {
            replay_cache.put(&page(1, after), false, most);
        }
        let left: Vec<_> = replay_cache.pages.iter().map(|kept| kept.page.page().after.as_u64()).collect();
        assert_eq!((left, replay_cache.bytes()), (vec![2, 3, 4], most));
    }

    /// How many pages were read for one that was taken, by readers that take turns and stand far apart.
    fn read_for_one(readers: u64, pages: u64) -> f64 {
        let mut replay_cache = ReplayCache::default();
        let most = 20 * page(1, 0).bytes();
        let (mut read, mut taken) = (0, 0);
        for at_page in 0..pages {
            for reader in 0..readers {
                let after = 10_000 * reader + at_page;
                let cursor = Cursor::new(Epoch::from_bits(1), at(after));
                let all = Bounds { head: at(100_000_000), ..bounds(1, 0) };
                taken += 1;
                if replay_cache.page_after(cursor, &all).is_none() {
                    let ahead = replay_cache.ahead(most);
                    for (next, after) in (after..).take(1 + ahead).enumerate() {
                        read += 1;
                        replay_cache.put(&page(1, after), next > 0, most);
                    }
                }
            }
        }
        f64::from(read) / f64::from(taken)
    }

    #[test]
    fn little_is_read_in_vain_however_many_stand_apart() {
        assert!(read_for_one(1, 1_000) < 1.01);
        for readers in [2, 4, 5, 10, 19, 20, 21, 100] {
            let cost = read_for_one(readers, 1_000);
            assert!(cost < 1.3, "{readers} readers: {cost}");
        }
    }

    #[test]
    fn pages_start_where_those_of_others_do() {
        for (watermark, floor, start) in [
            (0, 0, 0),
            (1, 0, 0),
            (199, 0, 0),
            (200, 0, 200),
            (401, 0, 400),
            (401, 400, 400),
            (450, 430, 430),
        ] {
            assert_eq!(grid(at(watermark), at(floor), 200), at(start));
        }
    }
}
