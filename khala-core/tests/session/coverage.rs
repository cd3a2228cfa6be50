//! What the random schedules have seen: a proof that they go where it hurts.

use std::sync::atomic::{AtomicUsize, Ordering};

macro_rules! seen {
    ($($name:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug)]
        pub enum Saw { $($name),* }
        const ALL: &[Saw] = &[$(Saw::$name),*];
    };
}

seen! {
    Blocked, Drained, Expired, Failure, Head, HintDropped, HintRepeated, Restart, Resumed, Snapshot, SnapshotLive,
    SnapshotPages, SnapshotRestarted, StaleJoin, StaleLive, TooManyTopics, Unavailable, Wiped,
}

static COUNTS: [AtomicUsize; ALL.len()] = [const { AtomicUsize::new(0) }; ALL.len()];

pub fn saw(what: Saw) {
    COUNTS[what as usize].fetch_add(1, Ordering::Relaxed);
}

/// How often each was seen, and those that never were.
pub fn seen() -> (Vec<(Saw, usize)>, Vec<Saw>) {
    let counts: Vec<_> =
        ALL.iter().map(|what| (*what, COUNTS[*what as usize].load(Ordering::Relaxed))).collect();
    let never = counts.iter().filter(|(_, count)| *count == 0).map(|(what, _)| *what).collect();
    (counts, never)
}
