//! The hot end of one topic: recent pages without a hole between them, and what is known of the journal.
//!
//! Pure: no lock, no I/O, no clock. What must stay true: the pages cover exactly `start < seq <= end` of
//! `bounds.epoch`, and a reader is never told "nothing new" on knowledge older than it asked for.

use std::{collections::VecDeque, sync::Arc};

use super::{Followed, SharedPage, Wanted};
use crate::{
    journal::Page,
    position::{Bounds, Cursor, Watermark},
    update::Timestamp,
};

/// What a ring says to a reader.
#[derive(Debug)]
pub(super) enum Lookup {
    /// Here it is.
    Found(Followed),
    /// It has to be read from the journal; what comes back belongs at the ring's end.
    Hot,
    /// It lies outside of the ring.
    Cold,
}

#[derive(Debug)]
pub(super) struct Ring {
    bounds: Bounds,
    start: Watermark,
    pages: VecDeque<Arc<SharedPage>>,
    bytes: usize,
    /// When the journal was last known to end at `bounds.head`.
    confirmed_at: Timestamp,
}

impl Ring {
    /// A ring that knows these bounds, and no update.
    pub(super) fn at_head(bounds: Bounds, confirmed_at: Timestamp) -> Self {
        Self { bounds, start: bounds.head, pages: VecDeque::new(), bytes: 0, confirmed_at }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(super) fn confirmed_at(&self) -> Timestamp {
        self.confirmed_at
    }

    pub(super) fn end(&self) -> Watermark {
        self.pages.back().map_or(self.start, |page| page.page().end())
    }

    /// Whether it has the update after `watermark`.
    pub(super) fn holds(&self, watermark: Watermark) -> bool {
        (self.start..self.end()).contains(&watermark)
    }

    /// Answers a subscriber that follows.
    pub(super) fn follow(&self, cursor: Cursor, wanted: &Wanted) -> Lookup {
        let Cursor { epoch, watermark } = cursor;
        let end = self.end();
        if epoch != self.bounds.epoch || watermark < self.start.max(self.bounds.floor) || watermark > end {
            return Lookup::Cold;
        }
        if watermark < end {
            let page = self.page_after(watermark);
            let (bounds, confirmed_at) = (self.bounds, self.confirmed_at);
            return Lookup::Found(Followed::Page { page, bounds, confirmed_at, behind: false });
        }
        let heard_of_more = wanted.head.is_some_and(|head| head.epoch != epoch || head.watermark > end);
        if heard_of_more || self.bounds.head > end || self.confirmed_at < wanted.not_older_than {
            return Lookup::Hot;
        }
        Lookup::Found(Followed::CaughtUp { bounds: self.bounds, confirmed_at: self.confirmed_at })
    }

    /// The page that starts at `watermark`, or the rest of the page that it lies in.
    fn page_after(&self, watermark: Watermark) -> Arc<SharedPage> {
        let index = self.pages.partition_point(|page| page.page().end() <= watermark);
        let whole = &self.pages[index];
        if whole.page().after == watermark { Arc::clone(whole) } else { Arc::new(whole.rest(watermark)) }
    }

    /// Takes in a page that was read at `now` if it continues the ring.
    pub(super) fn extend(&mut self, page: &Arc<SharedPage>, now: Timestamp) -> bool {
        let Page { after, updates, bounds } = page.page();
        if bounds.epoch != self.bounds.epoch || *after != self.end() {
            return false;
        }
        if !updates.is_empty() {
            self.bytes += page.bytes();
            self.pages.push_back(Arc::clone(page));
        }
        self.learn(*bounds);
        self.confirm(now);
        true
    }

    /// Notes that the journal ended at `bounds.head` at that moment.
    pub(super) fn confirm(&mut self, now: Timestamp) {
        self.confirmed_at = now;
    }

    /// Takes in bounds of the same epoch: heads and floors only go forward.
    pub(super) fn learn(&mut self, bounds: Bounds) {
        if bounds.epoch == self.bounds.epoch {
            self.bounds.head = self.bounds.head.max(bounds.head);
            self.bounds.floor = self.bounds.floor.max(bounds.floor);
            while self.pages.front().is_some_and(|page| page.page().end() <= self.bounds.floor) {
                self.forget_oldest();
            }
        }
    }

    /// Lets the oldest page go unless it is the only one; says how many bytes went.
    pub(super) fn shrink(&mut self) -> Option<usize> {
        (self.pages.len() > 1).then(|| self.forget_oldest())
    }

    fn forget_oldest(&mut self) -> usize {
        let Some(oldest) = self.pages.pop_front() else { return 0 };
        self.start = oldest.page().end();
        self.bytes -= oldest.bytes();
        oldest.bytes()
    }
}
