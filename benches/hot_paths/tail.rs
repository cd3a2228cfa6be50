//! Hot paths of the tail: what it knows, what it holds, and reads that fill it.

use std::sync::Arc;

use khala_core::{
    Cursor, MemoryStore, Topic, Watermark,
    journal::Journal,
    tail::{CacheLookup, FollowResult, Freshness, TailJournal, TailOptions},
};

use super::{HotPath, STEADY, append, memory, now, topic};

fn peek(tail: &TailJournal, topic: &Topic, cursor: Cursor) -> FollowResult {
    let CacheLookup::Hit(followed) = tail.get(topic, cursor, Freshness::default(), STEADY) else {
        panic!("the tail knows it")
    };
    followed
}

fn follow(tail: &TailJournal, topic: &Topic, cursor: Cursor) -> FollowResult {
    now(tail.follow(topic, cursor, Freshness::default(), STEADY)).expect("memory can be read")
}

/// A follower at the head asks whether there is anything new.
pub(crate) struct CaughtUp {
    tail: TailJournal,
    topic: Topic,
    head: Cursor,
}

impl CaughtUp {
    /// Of a log of some updates.
    pub(crate) fn new() -> Self {
        let tail = TailJournal::new(Arc::new(memory(1_000)), TailOptions::default());
        let topic = topic();
        let head = now(tail.bounds(&topic)).expect("bounds").at_head();
        follow(&tail, &topic, head);
        Self { tail, topic, head }
    }
}

impl HotPath for CaughtUp {
    type Made = FollowResult;

    fn run(&mut self) -> FollowResult {
        peek(&self.tail, &self.topic, self.head)
    }
}

/// A follower behind the head is handed the page that the tail holds.
pub(crate) struct Hit {
    tail: TailJournal,
    topic: Topic,
    cursor: Cursor,
}

impl Hit {
    /// A page of 200.
    pub(crate) fn new() -> Self {
        let CaughtUp { tail, topic, head } = CaughtUp::new();
        append(&tail, 200);
        follow(&tail, &topic, head);
        Self { tail, topic, cursor: head }
    }
}

impl HotPath for Hit {
    type Made = FollowResult;

    fn run(&mut self) -> FollowResult {
        peek(&self.tail, &self.topic, self.cursor)
    }
}

/// The first follower reads what was appended, and the tail takes it in.
pub(crate) struct HotRead {
    journal: Arc<MemoryStore>,
    topic: Topic,
    head: Cursor,
}

impl HotRead {
    /// `updates` updates.
    pub(crate) fn new(updates: usize) -> Self {
        let (journal, topic) = (Arc::new(memory(1_000)), topic());
        let head = now(journal.bounds(&topic)).expect("bounds").at_head();
        append(&*journal, updates);
        Self { journal, topic, head }
    }
}

impl HotPath for HotRead {
    type Made = (FollowResult, TailJournal);

    fn run(&mut self) -> Self::Made {
        let journal: Arc<dyn Journal> = Arc::<MemoryStore>::clone(&self.journal);
        let tail = TailJournal::new(journal, TailOptions::default());
        (follow(&tail, &self.topic, self.head), tail)
    }
}

/// Somebody replays: one read behind the tail and the five pages that it brings.
pub(crate) struct Ahead {
    journal: Arc<MemoryStore>,
    topic: Topic,
    start: Cursor,
}

impl Ahead {
    /// A thousand updates of a longer log.
    pub(crate) fn new() -> Self {
        let (journal, topic) = (Arc::new(memory(5_000)), topic());
        let epoch = now(journal.bounds(&topic)).expect("bounds").epoch;
        Self { journal, topic, start: Cursor::new(epoch, Watermark::ORIGIN) }
    }
}

impl HotPath for Ahead {
    type Made = (Cursor, TailJournal);

    fn run(&mut self) -> Self::Made {
        let journal: Arc<dyn Journal> = Arc::<MemoryStore>::clone(&self.journal);
        let tail = TailJournal::new(journal, TailOptions::default());
        now(tail.recent_bounds(&self.topic, STEADY, STEADY)).expect("bounds");
        let mut cursor = self.start;
        for _ in 0..5 {
            let FollowResult::Page { page, .. } = follow(&tail, &self.topic, cursor) else {
                panic!("there is more")
            };
            cursor = page.page().cursor();
        }
        (cursor, tail)
    }
}
