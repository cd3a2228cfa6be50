//! A look back at one update: a read of what is new begins with the last update that the tail knows, so that a journal which
//! went back and has regrown past it is noticed without a second read.
//!
//! An update is known again by when it was published and by its size: one that takes the place of another is published later.
//!
//! # Invariants
//! - What a read brings is the same with a look back and without, and so is what a cursor is told that cannot be resumed from.
//! - A look back costs the one update, and nothing where that is large: such an update is not looked back at.

use crate::{
    error::Error,
    journal::{Journal, Page, ReadFrom, ReadLimit, Replay},
    position::{Bounds, Cursor, StaleReason, Watermark},
    topic::Topic,
    update::{Timestamp, Update},
};

/// Bytes of an update that is looked back at, at most.
const SMALL: usize = 64 << 10;

/// Everything up to the update before the last one that `watermark` covers; none at the origin.
pub(super) fn before(watermark: Watermark) -> Option<Watermark> {
    watermark.as_u64().checked_sub(1).and_then(Watermark::new)
}

/// What tells an update from another in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    at: Watermark,
    published_at: Timestamp,
    size: usize,
}

impl Mark {
    pub(super) fn of(update: &Update) -> Self {
        Self { at: update.seq.watermark(), published_at: update.published_at, size: update.size() }
    }

    /// Whether it is the update that `watermark` ends with, and small enough to be looked back at.
    pub(super) fn is_small_at(&self, watermark: Watermark) -> bool {
        self.at == watermark && self.size <= SMALL
    }
}

/// What a read found that looked back, or would have.
pub(super) enum LookedBack {
    /// Another update, in a topic that holds this.
    Other(Bounds),
    /// What is new.
    Replay(Replay),
}

/// Reads a page of what follows `cursor`, and looks whether the update that it ends with is still that of `mark`.
pub(super) async fn read_on(
    journal: &dyn Journal,
    topic: &Topic,
    cursor: Cursor,
    mark: Option<Mark>,
    most: ReadLimit,
) -> Result<LookedBack, Error> {
    if let Some((mark, before)) = mark.zip(before(cursor.watermark)) {
        let limit = ReadLimit::new(most.updates.saturating_add(1), most.bytes + mark.size);
        let start = ReadFrom::After(Cursor::new(cursor.epoch, before));
        match journal.read(topic, start, limit).await? {
            Replay::Page(page) => match page.updates.first() {
                Some(update) if Mark::of(update) != mark => return Ok(LookedBack::Other(page.bounds)),
                Some(_) => {
                    let Page { mut updates, bounds, .. } = page;
                    updates.remove(0);
                    let page = Page { after: cursor.watermark, updates, bounds };
                    // Beside the other there may be no room for a large one.
                    if !page.updates.is_empty() || page.is_complete() {
                        return Ok(LookedBack::Replay(Replay::Page(page)));
                    }
                }
                None => {
                    if let Err(stale) = page.bounds.admit(cursor) {
                        return Ok(LookedBack::Replay(Replay::Stale(stale)));
                    }
                }
            },
            // Of the cursor that is one update behind, this says nothing.
            Replay::Stale(stale) if stale.reasons.contains(&StaleReason::RetentionFloorBreach) => {}
            Replay::Stale(mut stale) => {
                stale.cursor = cursor;
                return Ok(LookedBack::Replay(Replay::Stale(stale)));
            }
        }
    }
    journal.read(topic, ReadFrom::After(cursor), most).await.map(LookedBack::Replay)
}
