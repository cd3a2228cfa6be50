//! A page that many subscribers share: encoded for the wire at most once per serializer, for those whose replay goes on
//! and for those whose replay has ended.

use crate::{
    journal::{Page, ReadLimit},
    position::Watermark,
    topic::Topic,
    update::{Timestamp, Update},
    wire::{Encoded, Frames, Serializer, event, write_batch},
};

/// What an update takes in memory beside its texts, roughly. Without it, small updates that came one by one would
/// be held by the hundred thousand within any bound.
const PER_UPDATE: usize = 512;

/// A page of one topic's log, with its frames once somebody has asked for them.
#[derive(Debug)]
pub struct SharedPage {
    topic: Topic,
    page: Page,
    bytes: usize,
    /// Bytes of a payload that travels in the frame; a larger one is fetched.
    inline: Option<usize>,
    /// For those whose replay goes on, and for those whose replay has ended.
    frames: [Frames; 2],
}

impl SharedPage {
    pub(crate) fn new(topic: Topic, page: Page, inline: Option<usize>) -> Self {
        let bytes = page.updates.iter().map(Self::weigh).sum();
        Self { topic, page, bytes, inline, frames: Default::default() }
    }

    /// The pages that a read of several gave: each but the last of as many updates as `limit` has and admits, but for the first,
    /// which ends where `first` more do.
    pub(crate) fn split(
        topic: &Topic,
        page: Page,
        first: usize,
        limit: ReadLimit,
        inline: Option<usize>,
    ) -> Vec<Self> {
        let Page { mut after, updates, bounds } = page;
        let mut left = updates.into_iter().peekable();
        let mut pages = Vec::new();
        // Where the page that is being filled ends by its number of updates.
        let mut left_in_row = first;
        while pages.is_empty() || left.len() > 0 {
            let (mut bytes, mut updates) = (0, Vec::with_capacity(left_in_row.min(left.len())));
            while updates.len() < left_in_row
                && let Some(update) = left.next_if(|update| limit.admits(updates.len(), bytes, update.size()))
            {
                bytes += update.size();
                updates.push(update);
            }
            left_in_row =
                if updates.len() < left_in_row { left_in_row - updates.len() } else { limit.updates.get() };
            let page = Page { after, updates, bounds };
            after = page.end();
            pages.push(Self::new(topic.clone(), page, inline));
        }
        pages
    }

    /// What is left of it after a watermark within it.
    pub(crate) fn rest(&self, after: Watermark) -> Self {
        let Page { updates, bounds, .. } = &self.page;
        let updates = updates.iter().filter(|update| !after.covers(update.seq)).cloned().collect();
        Self::new(self.topic.clone(), Page { after, updates, bounds: *bounds }, self.inline)
    }

    /// What an update takes in memory, roughly.
    pub(crate) fn weigh(update: &Update) -> usize {
        // The texts stand there twice: once in the update, and once in the frame.
        PER_UPDATE + 2 * update.size()
    }

    /// The page itself.
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// When its newest update was published.
    pub(crate) fn published_at(&self) -> Timestamp {
        self.page.updates.last().map_or_else(Timestamp::default, |update| update.published_at)
    }

    /// What it takes in memory, roughly: what counts against the tail's limits in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The page as a `sync:update_batch` frame, for a subscriber whose replay it ends or follows, or for one whose replay
    /// goes on. Its `join_ref` is null, which lets one frame serve everybody of whom the same is true: all who follow the
    /// live tail.
    pub fn frame(&self, serializer: Serializer, replay_complete: bool) -> Encoded {
        let encode = || {
            let write = |out: &mut Vec<u8>| write_batch(out, &self.page, self.inline, replay_complete);
            serializer.encode(None, None, self.topic.as_str(), event::UPDATE_BATCH, write)
        };
        self.frames[usize::from(replay_complete)].get_or_encode(serializer, encode)
    }
}
