//! The node's one budget of bytes: what the tail, snapshots, request bodies, answers over HTTP and unsent frames take
//! together.
//!
//! It only counts. Who has to wait, to refuse or to let something go past the limit decides that by itself: request
//! bodies and answers are refused, reads for subscribers wait, the tail and snapshots let old pages go.
//!
//! # Invariants
//! A share that is dropped is given back. Nothing here waits or locks, and a delivery does not touch it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use metrics::{counter, gauge};

use crate::telemetry::{MEMORY, MEMORY_LIMIT, MEMORY_REFUSALS};

/// What takes memory on behalf of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryPart {
    /// Answers over HTTP, until their clients have taken them.
    Answers,
    /// Bodies of requests and lines of streams, until they are dealt with.
    Bodies,
    /// What WebSocket connections were handed and have not taken.
    Frames,
    /// Pages of snapshots that others may read along.
    Snapshots,
    /// The newest updates of followed topics, and history that others may replay.
    Tail,
}

impl MemoryPart {
    /// Every part.
    pub const ALL: [Self; 5] = [Self::Answers, Self::Bodies, Self::Frames, Self::Snapshots, Self::Tail];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Bodies => "bodies",
            Self::Frames => "frames",
            Self::Snapshots => "snapshots",
            Self::Tail => "tail",
        }
    }

    /// Counts that something of this part found no room in the budget and was refused. For a server around the core.
    pub fn count_refusal(self) {
        counter!(MEMORY_REFUSALS, "part" => self.as_str()).increment(1);
    }
}

/// A budget of bytes. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: Option<u64>,
    /// Each change is applied as it comes, so one may be seen before an earlier one: negative for a moment.
    taken: [AtomicI64; MemoryPart::ALL.len()],
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(Some(Self::DEFAULT))
    }
}

impl MemoryBudget {
    /// The limit by default, 1 GiB.
    pub const DEFAULT: u64 = 1 << 30;

    /// A budget of `limit` bytes; without one, it only counts.
    pub fn new(limit: Option<u64>) -> Self {
        Self(Arc::new(Inner { limit, taken: Default::default() }))
    }

    /// Its limit.
    pub fn limit(&self) -> Option<u64> {
        self.0.limit
    }

    /// What `part` has taken.
    pub fn taken_by(&self, part: MemoryPart) -> u64 {
        self.0.taken[part as usize].load(Ordering::Relaxed).max(0).cast_unsigned()
    }

    /// What all parts have taken.
    pub fn taken(&self) -> u64 {
        MemoryPart::ALL.into_iter().map(|part| self.taken_by(part)).sum()
    }

    /// Whether there is no room left.
    pub fn is_spent(&self) -> bool {
        self.has_no_room_for(0)
    }

    fn has_no_room_for(&self, bytes: u64) -> bool {
        self.0.limit.is_some_and(|limit| self.taken().saturating_add(bytes) >= limit)
    }

    /// An empty share of `part`, which grows as it needs to.
    pub fn share(&self, part: MemoryPart) -> MemoryShare {
        MemoryShare { budget: self.clone(), part, bytes: 0 }
    }

    /// Counts that `part` holds that many bytes more, or fewer, whether there is room or not.
    pub(crate) fn change(&self, part: MemoryPart, change: i64) {
        self.0.taken[part as usize].fetch_add(change, Ordering::Relaxed);
    }

    /// Reports what is taken. To be called before metrics are read.
    pub fn report(&self) {
        for part in MemoryPart::ALL {
            gauge!(MEMORY, "part" => part.as_str()).set(self.taken_by(part) as f64);
        }
        if let Some(limit) = self.limit() {
            gauge!(MEMORY_LIMIT).set(limit as f64);
        }
        for part in [MemoryPart::Answers, MemoryPart::Bodies] {
            counter!(MEMORY_REFUSALS, "part" => part.as_str()).increment(0);
        }
    }
}

/// A share of a budget, until it is dropped.
#[derive(Debug)]
pub struct MemoryShare {
    budget: MemoryBudget,
    part: MemoryPart,
    bytes: u64,
}

impl MemoryShare {
    /// Takes that many bytes more if there is room.
    ///
    /// Many who ask at the same moment may go past the limit by what they ask for.
    ///
    /// # Errors
    /// [`MemorySpent`]. The share is as it was.
    pub fn grow(&mut self, bytes: u64) -> Result<(), MemorySpent> {
        if self.budget.has_no_room_for(bytes) {
            return Err(MemorySpent);
        }
        self.bytes += bytes;
        self.budget.change(self.part, bytes.cast_signed());
        Ok(())
    }

    /// Takes or gives back, until it has `bytes`, whether there is room or not: for what is there already.
    pub fn hold(&mut self, bytes: u64) {
        if bytes != self.bytes {
            self.budget.change(self.part, bytes.cast_signed() - self.bytes.cast_signed());
            self.bytes = bytes;
        }
    }

    /// How much it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.budget.change(self.part, -less.cast_signed());
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// The budget has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node has no memory left for this")]
#[expect(clippy::exhaustive_structs, reason = "it says all there is")]
pub struct MemorySpent;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = MemoryBudget::new(Some(100));
        let (mut bodies, mut answers) = (budget.share(MemoryPart::Bodies), budget.share(MemoryPart::Answers));
        bodies.grow(60).unwrap();
        answers.grow(30).unwrap();
        assert_eq!(bodies.grow(20), Err(MemorySpent));
        assert_eq!((budget.taken_by(MemoryPart::Bodies), budget.taken(), budget.is_spent()), (60, 90, false));
        budget.change(MemoryPart::Tail, 10);
        assert!(budget.is_spent());
        drop(answers);
        bodies.grow(20).unwrap();
        bodies.shrink_to(5);
        assert_eq!(budget.taken(), 15);
        bodies.hold(500);
        assert_eq!((bodies.bytes(), budget.taken()), (500, 510), "it is there already");
        bodies.hold(7);
        assert_eq!(budget.taken(), 17);
        drop(bodies);
        assert_eq!((budget.taken(), budget.taken_by(MemoryPart::Tail)), (10, 10));
    }

    #[test]
    fn without_a_limit_it_counts() {
        let budget = MemoryBudget::new(None);
        let mut share = budget.share(MemoryPart::Answers);
        share.grow(u64::MAX >> 2).unwrap();
        assert!(!budget.is_spent());
    }
}
