//! What each subject, address and topic has taken of its limits.
//!
//! An entry is forgotten when it holds no place and its buckets have drained. A few entries are looked at with each arrival and
//! departure, so nothing runs in the background, and no caller waits while all entries are looked at.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use super::{
    options::Limits,
    rate::{Bucket, Rate},
};
use crate::clock::Moment;

/// What one subject or one address has taken.
#[derive(Default)]
pub(super) struct Usage {
    pub(super) open: u64,
    pub(super) connects: Bucket,
    pub(super) joins: Bucket,
    pub(super) frames: Bucket,
}

impl Usage {
    /// Whether it is as if it had never been here.
    pub(super) fn is_spent(&mut self, limits: Limits, now: Moment) -> bool {
        let empty = |bucket: &mut Bucket, rate: Option<Rate>| {
            rate.is_none_or(|rate| {
                bucket.drain(rate, now);
                bucket.is_empty()
            })
        };
        self.open == 0
            && empty(&mut self.connects, limits.connects)
            && empty(&mut self.joins, limits.joins)
            && empty(&mut self.frames, limits.frames)
    }
}

/// Those who are here, or were of late.
pub(crate) struct Book<K, V> {
    pub(super) entries: HashMap<K, V>,
    /// Each key of `entries` once, the one that was looked at longest ago first.
    pub(super) queue: VecDeque<K>,
}

/// How many entries each [`forget`](Book::forget) looks at. With two, forgetting is faster than coming, and no call ever
/// goes through all of them.
const LOOKED_AT: usize = 2;

/// Room that is not worth giving back.
pub(super) const SMALL: usize = 1_024;

impl<K, V> Book<K, V> {
    pub(crate) fn new() -> Self {
        Self { entries: HashMap::new(), queue: VecDeque::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<K: Clone + Eq + Hash, V: Default> Book<K, V> {
    /// What `key` has taken; nothing, of one who was not here.
    pub(crate) fn entry(&mut self, key: &K) -> &mut V {
        self.entries.entry(key.clone()).or_insert_with(|| {
            self.queue.push_back(key.clone());
            V::default()
        })
    }

    /// Looks at a few entries, and forgets those that are as if they had never been here. To be called whenever
    /// somebody may come.
    pub(crate) fn forget(&mut self, mut is_spent: impl FnMut(&mut V) -> bool) {
        for _ in 0..LOOKED_AT {
            let Some(key) = self.queue.pop_front() else { break };
            if self.entries.get_mut(&key).is_some_and(&mut is_spent) {
                self.entries.remove(&key);
            } else {
                self.queue.push_back(key);
            }
        }
        if self.entries.capacity() > SMALL && self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to(SMALL.max(self.entries.len() * 2));
            self.queue.shrink_to(SMALL.max(self.queue.len() * 2));
        }
    }
}

impl<K: Eq + Hash> Book<K, Usage> {
    /// Gives a place back.
    pub(super) fn leave(&mut self, key: &K) {
        if let Some(usage) = self.entries.get_mut(key) {
            usage.open -= 1;
        }
    }
}
