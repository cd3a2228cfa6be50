//! When the update was published that a cursor ends with: what tells one history from another that has regrown to the same
//! seqs in the same epoch, as after a restore without new epochs.
//!
//! A store stamps an update once, as it stores it, and a history that regrows does so later. So the moment stands for the
//! update, costs nothing to send, and a subscriber has it with each update anyway.
//!
//! # Invariants
//! An update that is kept has one moment for everybody. Reads of one are shared; nothing is remembered past the evidence that
//! the journal went back.

use std::{
    num::NonZeroUsize,
    sync::{Arc, PoisonError},
};

use futures::FutureExt as _;

use super::{
    entry::Entry,
    journal::{LOOKS, TailJournal},
    lookup::inconclusive,
    mark::before,
    page::SharedPage,
    reads::{Done, Found, Target},
    ring::Ring,
};
use crate::{
    clock::Moment,
    error::Error,
    journal::{ReadFrom, ReadLimit, Replay},
    position::Cursor,
    telemetry,
    topic::Topic,
    update::Timestamp,
};

/// Updates of a topic of which that is remembered, at most.
const REMEMBERED: usize = 16;

impl Entry {
    /// When the update was published that `cursor` ends with, if that is in memory.
    fn known_moment(&self, cursor: Cursor) -> Option<Timestamp> {
        let here = |ring: &Ring| {
            let here = cursor.epoch == ring.bounds().epoch && ring.holds(before(cursor.watermark)?);
            here.then(|| ring.update_at(cursor.watermark))?.map(|update| update.published_at)
        };
        let found = self.ring().as_ref().and_then(here);
        found.or_else(|| {
            let looked_at = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
            looked_at.iter().rev().find(|(at, _)| *at == cursor).map(|(_, moment)| *moment)
        })
    }

    /// Whether the update that `cursor` ends with is known to be gone.
    fn has_trimmed(&self, cursor: Cursor) -> bool {
        let bounds = self.ring().as_ref().map(Ring::bounds);
        bounds.is_some_and(|bounds| bounds.epoch == cursor.epoch && cursor.watermark <= bounds.floor)
    }

    /// Notes what an update says that the read of that number found.
    fn note_moment(&self, cursor: Cursor, moment: Timestamp, number: u64) {
        // The evidence comes under this lock.
        let _ring = self.ring();
        if self.distrusts(number) {
            return;
        }
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.retain(|(at, _)| *at != cursor);
        if moments.len() >= REMEMBERED {
            moments.pop_front();
        }
        moments.push_back((cursor, moment));
    }

    /// Forgets what updates said. To be called with the ring locked.
    pub(super) fn forget_moments(&self) {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl TailJournal {
    /// When the update was published that `cursor` ends with, if that is in memory.
    pub(crate) fn known_moment(&self, topic: &Topic, cursor: Cursor) -> Option<Timestamp> {
        self.known(topic)?.known_moment(cursor)
    }

    /// When the update was published that `cursor` ends with; none if the journal does not have it.
    pub(crate) async fn moment_of(
        &self,
        topic: &Topic,
        cursor: Cursor,
        now: Moment,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(before) = before(cursor.watermark) else { return Ok(None) };
        let entry = self.entry(topic, now);
        let start = Cursor::new(cursor.epoch, before);
        let begun = entry.reads.begun();
        for _ in 0..LOOKS {
            if let Some(moment) = entry.known_moment(cursor) {
                return Ok(Some(moment));
            }
            if entry.has_trimmed(cursor) {
                return Ok(None);
            }
            let begin = || {
                telemetry::journal_read("cold");
                let (journal, topic, inline) = (Arc::clone(&self.journal), topic.clone(), entry.inline);
                let limit = ReadLimit::new(NonZeroUsize::MIN, 0);
                let read = async move {
                    Ok(match journal.read(&topic, ReadFrom::After(start), limit).await? {
                        Replay::Page(page) => {
                            Found::Pages([Arc::new(SharedPage::new(topic, page, inline))].into())
                        }
                        Replay::Stale(stale) => Found::Stale(stale),
                    })
                };
                read.boxed()
            };
            let Done { found, number, .. } =
                entry.reads.share(Target::UpdateAfter(start), now, begin).await?;
            if entry.distrusts(number) {
                continue;
            }
            let found = match &found {
                Found::Pages(pages) => pages[0].page().updates.first(),
                Found::Stale(stale) => {
                    // With the floor it is remembered what is not there.
                    self.learn_for(&entry, stale.bounds, number);
                    None
                }
                Found::Bounds(_) | Found::Other { .. } => None,
            };
            match found {
                Some(update) => {
                    entry.note_moment(cursor, update.published_at, number);
                    return Ok(Some(update.published_at));
                }
                // It began before the question, and may not have had it yet.
                None if number <= begun => {}
                None => return Ok(None),
            }
        }
        Err(inconclusive(topic))
    }
}
