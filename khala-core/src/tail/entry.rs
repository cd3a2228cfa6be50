//! What the tail holds of one topic.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
};

use super::{mark::Mark, page::SharedPage, reads::Reads, replay_cache::ReplayCache, ring::Ring};
use crate::{journal::Page, position::Cursor, single_flight::Leadership, topic::Topic, update::Timestamp};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) topic: Topic,
    /// Bytes of a payload that travels in a frame.
    pub(super) inline: Option<usize>,
    pub(super) ring: Mutex<Option<Ring>>,
    pub(super) replay_cache: Mutex<ReplayCache>,
    pub(super) reads: Arc<Reads>,
    /// The number of the last read that showed that the journal went back; zero if none did. What began before it says
    /// nothing of what the journal has now.
    pub(super) evidence: AtomicU64,
    /// The number of the last one that showed other updates in the place of those that were known; zero if none did.
    pub(super) regrown: AtomicU64,
    pub(super) leadership: Arc<Leadership>,
    /// It stands among those that hold something.
    pub(super) queued: AtomicBool,
    /// The updates that were looked at last for those who say which one their cursor ends with, the newest look last.
    pub(super) moments: Mutex<VecDeque<(Cursor, Timestamp)>>,
}

impl Entry {
    pub(super) fn new(topic: Topic, inline: Option<usize>) -> Self {
        let (ring, replay_cache) = (Mutex::default(), Mutex::default());
        Self {
            topic,
            inline,
            ring,
            replay_cache,
            reads: Arc::default(),
            evidence: AtomicU64::new(0),
            regrown: AtomicU64::new(0),
            moments: Mutex::default(),
            leadership: Arc::default(),
            queued: AtomicBool::new(false),
        }
    }

    /// A page of its topic that is shared.
    pub(super) fn share(&self, page: Page) -> SharedPage {
        SharedPage::new(self.topic.clone(), page, self.inline)
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Option<Ring>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never taken before the ring, which may be held.
    pub(super) fn replay_cache(&self) -> MutexGuard<'_, ReplayCache> {
        self.replay_cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last update of its ring, if `cursor` ends with that and it may be looked back at.
    pub(super) fn mark_at(&self, cursor: Cursor) -> Option<Mark> {
        let ring = self.ring();
        let ring = ring.as_ref().filter(|ring| ring.bounds().epoch == cursor.epoch)?;
        let mark = ring.mark().filter(|mark| mark.is_small_at(cursor.watermark))?;
        (cursor.watermark > ring.bounds().floor).then_some(mark)
    }
}
