//! Pages behind the tail that were read of late, for whoever comes by the same way: those who replay the same history
//! read it once.
//!
//! Pure. What must stay true: a page is handed out only while its topic's epoch and floor still allow it, and the
//! oldest goes first when there is no room.

use std::{collections::VecDeque, sync::Arc};

use super::SharedPage;
use crate::position::{Bounds, Cursor, Watermark};

#[derive(Debug, Default)]
pub(super) struct Shelf {
    pages: VecDeque<Arc<SharedPage>>,
    bytes: usize,
}

impl Shelf {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The page that continues `cursor`, or the rest of the one that it lies in, in a topic with those bounds.
    pub(super) fn page_after(&self, cursor: Cursor, bounds: &Bounds) -> Option<Arc<SharedPage>> {
        if cursor.epoch != bounds.epoch || cursor.watermark < bounds.floor {
            return None;
        }
        let own = |page: &&Arc<SharedPage>| page.page().bounds.epoch == cursor.epoch;
        self.pages.iter().rev().filter(own).find_map(|page| rest_after(page, cursor.watermark))
    }

    /// Whether it has a page that starts right there.
    pub(super) fn has(&self, start: Cursor) -> bool {
        let is = |page: &Arc<SharedPage>| {
            page.page().after == start.watermark && page.page().bounds.epoch == start.epoch
        };
        self.pages.iter().any(is)
    }

    /// Keeps a page, in at most `most` bytes in all.
    pub(super) fn put(&mut self, page: &Arc<SharedPage>, most: usize) {
        self.bytes += page.bytes();
        self.pages.push_back(Arc::clone(page));
        while self.bytes > most && self.forget_oldest() {}
    }

    /// Lets go of what a floor or an epoch ended.
    pub(super) fn learn(&mut self, bounds: &Bounds) {
        let stays = |page: &Arc<SharedPage>| {
            page.page().bounds.epoch == bounds.epoch && page.page().after >= bounds.floor
        };
        self.pages.retain(stays);
        self.bytes = self.pages.iter().map(|page| page.bytes()).sum();
    }

    pub(super) fn forget_oldest(&mut self) -> bool {
        let oldest = self.pages.pop_front();
        self.bytes -= oldest.as_ref().map_or(0, |page| page.bytes());
        oldest.is_some()
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
        let mut shelf = Shelf::default();
        for after in [10, 20, 30] {
            shelf.put(&page(1, after), usize::MAX);
        }
        let found = |shelf: &Shelf, epoch, after, floor| {
            shelf.page_after(Cursor::new(Epoch::from_bits(epoch), at(after)), &bounds(1, floor)).is_some()
        };
        assert!(found(&shelf, 1, 10, 10) && found(&shelf, 1, 30, 0));
        assert!(!found(&shelf, 1, 11, 0) && !found(&shelf, 2, 10, 0) && !found(&shelf, 1, 10, 11));
        shelf.learn(&bounds(1, 15));
        assert!(!found(&shelf, 1, 10, 0) && found(&shelf, 1, 20, 0));
        shelf.learn(&bounds(2, 0));
        assert_eq!((shelf.pages.len(), shelf.bytes()), (0, 0));
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut shelf = Shelf::default();
        let most = 3 * page(1, 0).bytes();
        for after in 0..5 {
            shelf.put(&page(1, after), most);
        }
        let left: Vec<_> = shelf.pages.iter().map(|page| page.page().after.as_u64()).collect();
        assert_eq!((left, shelf.bytes()), (vec![2, 3, 4], most));
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
