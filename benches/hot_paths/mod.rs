//! The hot paths, one function each, which `hot_paths` measures by time and `instructions` by instructions.
//!
//! A hot path is prepared once and run again and again; what it makes is handed out, so that dropping it is not measured.
//!
//! # Invariants
//! Both benches run the same hot paths, by the list at the end of this file.

mod journal;
mod session;
mod tail;
mod wire;

use std::future::Future;

use futures::FutureExt as _;
use khala_benches::update;
use khala_core::{
    Batch, MemoryStore, Timestamp, Topic,
    clock::{Moment, Now},
    journal::Journal,
};

pub(crate) use self::{
    journal::{AppendIn, Page, SqlitePage},
    session::{Answered, Moved, Raise},
    tail::{Ahead, CaughtUp, Hit, HotRead},
    wire::{Decode, EncodePage, EncodeReply, HEARTBEAT, JOIN},
};

/// The time, as far as they are told.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
pub(crate) const STEADY: Moment = Moment::from_millis(1_000_000);
pub(crate) const BOTH: Now = Now { wall: NOW, steady: STEADY };

/// A hot path.
pub(crate) trait HotPath {
    /// What a run makes.
    type Made;

    /// Runs once.
    fn run(&mut self) -> Self::Made;
}

/// The topic of all hot paths.
pub(crate) fn topic() -> Topic {
    Topic::parse("run:7:events").expect("a topic")
}

/// What a future that never waits has to say.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory never waits")
}

/// A log of `updates` updates in memory.
pub(crate) fn memory(updates: usize) -> MemoryStore {
    let journal = MemoryStore::new();
    append(&journal, updates);
    journal
}

/// Appends `updates` updates to a journal that never waits.
pub(crate) fn append(journal: &dyn Journal, updates: usize) {
    let updates: Vec<_> = std::iter::repeat_with(update).take(updates).collect();
    for batch in updates.chunks(Batch::MAX) {
        let batch = Batch::new(batch.to_vec()).expect("a batch");
        now(journal.append(&topic(), batch, NOW)).expect("memory takes it");
    }
}

/// Hands the list of all hot paths to a macro: name, type, and how it is made. Those of the second list work on threads of
/// their own, where instructions are counted by the name of a function.
macro_rules! all_hot_paths {
    ($take:ident) => {
        $take! {
            append_in_64: AppendIn = AppendIn::new(64);
            page_memory: Page = Page::new();
            tail_caught_up: CaughtUp = CaughtUp::new();
            tail_hit: Hit = Hit::new();
            tail_hot_read: HotRead = HotRead::new(200);
            tail_hot_read_of_one: HotRead = HotRead::new(1);
            tail_cold_read: Ahead = Ahead::new();
            encode_page_v1: EncodePage = EncodePage::new(Serializer::V1, 200);
            encode_page_v2: EncodePage = EncodePage::new(Serializer::V2, 200);
            encode_one_v2: EncodePage = EncodePage::new(Serializer::V2, 1);
            encode_reply_v2: EncodeReply = EncodeReply::new(Serializer::V2);
            decode_heartbeat_v1: Decode = Decode::new(Serializer::V1, HEARTBEAT);
            decode_heartbeat_v2: Decode = Decode::new(Serializer::V2, HEARTBEAT);
            decode_join_v1: Decode = Decode::new(Serializer::V1, JOIN);
            decode_join_v2: Decode = Decode::new(Serializer::V2, JOIN);
            session_moved: Moved = Moved::new();
            session_answered: Answered = Answered::new();
            fanout_raise_1000: Raise = Raise::new(1_000);
        }
    };
}
pub(crate) use all_hot_paths;
