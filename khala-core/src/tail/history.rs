//! What lies behind the tail: read for all who want the same, some pages at a time, which wait on the replay_cache.
//!
//! # Invariants
//! A page that is kept lies where the tail has none, and within what the topic still holds.

use std::{
    num::NonZeroUsize,
    sync::{Arc, atomic::Ordering},
};

use futures::FutureExt as _;

use super::{
    entry::Entry,
    journal::TailJournal,
    mark::{LookedBack, read_on},
    page::SharedPage,
    reads::{Found, SharedRead, Target},
    replay_cache::grid,
    ring::Ring,
};
use crate::{
    clock::Moment,
    journal::{ReadFrom, ReadLimit, Replay},
    position::{Cursor, Epoch},
    telemetry,
    topic::Topic,
};

/// Bytes that one read behind the tail brings at most, in pages of less.
const READ_BYTES: usize = 2 << 20;

impl TailJournal {
    /// Where to read for who stands at `cursor`, behind the tail.
    pub(super) fn start_for(&self, entry: &Entry, cursor: Cursor) -> Cursor {
        let known = entry.ring().as_ref().map(Ring::bounds).filter(|bounds| bounds.epoch == cursor.epoch);
        let Some(bounds) = known.filter(|bounds| bounds.admit(cursor).is_ok()) else { return cursor };
        let start = grid(cursor.watermark, bounds.floor, ReadLimit::PAGE.updates.get());
        Cursor::new(cursor.epoch, start)
    }

    /// Reads the page after `cursor`, and from behind the tail some more for which there is room in the replay cache. Others that
    /// want the same page meanwhile share the read, and the pages.
    pub(super) fn read_pages(
        &self,
        entry: &Entry,
        topic: &Topic,
        cursor: Cursor,
        behind: bool,
        now: Moment,
    ) -> SharedRead {
        let begin = || {
            telemetry::journal_read(if behind { "cold" } else { "hot" });
            let (journal, topic) = (Arc::clone(&self.journal), topic.clone());
            let inline = entry.inline;
            let page_limit = self.options.page_limit();
            let most = page_limit.updates.get();
            let (mut first, mut limit) = (most, page_limit);
            if behind {
                limit.bytes = limit.bytes.max(READ_BYTES);
                // Up to where the pages of all others end.
                let next = cursor.watermark.as_u64() % most as u64;
                first = most - usize::try_from(next).unwrap_or(0);
                let ahead = self.ahead(entry, cursor.epoch);
                limit.updates = NonZeroUsize::new(first + ahead * most).unwrap_or(limit.updates);
            }
            let (mark, evidence) = (if behind { None } else { entry.mark_at(cursor) }, entry.evidence());
            let read = async move {
                let replay = if behind {
                    journal.read(&topic, ReadFrom::After(cursor), limit).await?
                } else {
                    match read_on(&*journal, &topic, cursor, mark, limit).await? {
                        LookedBack::Replay(replay) => replay,
                        LookedBack::Other(bounds) => return Ok(Found::Other { bounds, evidence }),
                    }
                };
                Ok(match replay {
                    Replay::Page(page) => {
                        let pages = SharedPage::split(&topic, page, first, page_limit, inline);
                        Found::Pages(pages.into_iter().map(Arc::new).collect())
                    }
                    Replay::Stale(stale) => Found::Stale(stale),
                })
            };
            read.boxed()
        };
        entry.reads.share(Target::PageAfter(cursor), now, begin)
    }

    /// How many pages a read behind the tail may bring beside the one that is asked for.
    fn ahead(&self, entry: &Entry, epoch: Epoch) -> usize {
        // Where nothing is known of the topic yet, nothing is kept.
        let known = entry.ring().as_ref().is_some_and(|ring| ring.bounds().epoch == epoch);
        let full = self.held.load(Ordering::Relaxed) >= self.options.total_bytes || self.memory.is_spent();
        if known && !full { entry.replay_cache().ahead(self.options.history_bytes) } else { 0 }
    }

    /// Keeps pages from behind the tail, which the read of that number gave, unless the tail has them, another reader has kept them
    /// already, or there is no room.
    pub(super) fn keep_for_others(&self, entry: &Arc<Entry>, pages: &[Arc<SharedPage>], number: u64) {
        {
            let mut ring = entry.ring();
            let Some(ring) = ring.as_mut().filter(|_| !entry.distrusts(number)) else { return };
            if let Some(last) = pages.last() {
                ring.learn_mark(last);
            }
            let (bounds, mut replay_cache) = (ring.bounds(), entry.replay_cache());
            for (index, page) in pages.iter().enumerate() {
                let start = Cursor::new(page.page().bounds.epoch, page.page().after);
                let wanted = start.epoch == bounds.epoch && start.watermark >= bounds.floor;
                if ring.holds(start.watermark) || !wanted || replay_cache.has(start) {
                    continue;
                }
                let before = replay_cache.bytes();
                replay_cache.put(page, index > 0, self.options.history_bytes);
                self.account(before, replay_cache.bytes());
                while self.is_full() {
                    let before = replay_cache.bytes();
                    if !replay_cache.forget_oldest() {
                        break;
                    }
                    self.account(before, replay_cache.bytes());
                }
            }
        }
        self.enqueue(entry);
    }
}
