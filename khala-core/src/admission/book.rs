//! Who is here, or was of late, and what each has taken.
//!
//! Whoever holds no place and whose buckets have drained is as if never here, and is forgotten: a few entries are
//! looked at whenever somebody comes or goes, so nothing runs in the background and nothing stops for all of them.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use super::{
    options::Limits,
    rate::{Bucket, Rate},
};
use crate::update::Timestamp;

/// What one principal or one address has taken.
#[derive(Default)]
pub(super) struct Usage {
    pub(super) open: u64,
    pub(super) connects: Bucket,
    pub(super) joins: Bucket,
    pub(super) frames: Bucket,
}

impl Usage {
    /// Whether it is as if it had never been here.
    fn is_spent(&mut self, limits: Limits, now: Timestamp) -> bool {
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
pub(super) struct Book<K> {
    pub(super) usages: HashMap<K, Usage>,
    /// Each key of `usages` once, the one that was looked at longest ago first.
    pub(super) queue: VecDeque<K>,
}

/// How many entries each connect and each drop looks at. With two, forgetting is faster than coming, and no call ever
/// goes through all of them.
const LOOKED_AT: usize = 2;

/// Room that is not worth giving back.
pub(super) const SMALL: usize = 1_024;

impl<K: Clone + Eq + Hash> Book<K> {
    pub(super) fn new() -> Self {
        Self { usages: HashMap::new(), queue: VecDeque::new() }
    }

    pub(super) fn usage(&mut self, key: &K) -> &mut Usage {
        self.usages.entry(key.clone()).or_insert_with(|| {
            self.queue.push_back(key.clone());
            Usage::default()
        })
    }

    pub(super) fn leave(&mut self, key: &K) {
        if let Some(usage) = self.usages.get_mut(key) {
            usage.open -= 1;
        }
    }

    pub(super) fn forget(&mut self, limits: Limits, now: Timestamp) {
        for _ in 0..LOOKED_AT {
            let Some(key) = self.queue.pop_front() else { break };
            if self.usages.get_mut(&key).is_some_and(|usage| usage.is_spent(limits, now)) {
                self.usages.remove(&key);
            } else {
                self.queue.push_back(key);
            }
        }
        if self.usages.capacity() > SMALL && self.usages.len() < self.usages.capacity() / 8 {
            self.usages.shrink_to(SMALL.max(self.usages.len() * 2));
            self.queue.shrink_to(SMALL.max(self.queue.len() * 2));
        }
    }
}
