//! How far a trim goes, step by step. For implementers of stores.
//!
//! What a trim removes is decided by the head that its first step finds. What is appended while the trim goes on is kept, so the
//! trim ends, and its result is that of one step at that moment. A store gives the oldest updates of each step and removes those
//! that [may go](TrimStep::weigh); a plan weighs the same updates and removes nothing (J19).
//!
//! # Invariants
//! - A step is bounded in rows and bytes, so that appends go in between.
//! - A trim that another process has overtaken begins again at the floor that it finds, and what it removed stays counted.

use super::rows::{self, Row};
use crate::{
    error::Error,
    journal::{Keep, Trimmed, is_ahead},
    position::{Bounds, Epoch, Seq, Watermark},
    topic::Topic,
    update::Timestamp,
};

/// The most rows that one step removes, or weighs.
pub const STEP_ROWS: usize = 500;
/// The most bytes that one step removes, or weighs, unless its first update alone has more.
const STEP_BYTES: u64 = 4 << 20;

/// What is to be trimmed.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store fills every field")]
pub struct TrimOrder {
    /// The topic.
    pub topic: Topic,
    /// What is kept of it.
    pub keep: Keep,
    /// When that was asked.
    pub now: Timestamp,
}

/// What the steps so far have done, or a plan would.
#[derive(Clone, Copy, Debug)]
pub struct TrimProgress {
    trimmed: Trimmed,
    /// The floor that the last step found, or that it left.
    stands: Watermark,
    /// The head that the first step found.
    until: Watermark,
    /// What the updates up to there count that are still kept.
    held: u64,
}

/// An update among the oldest ones of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store fills every field")]
pub struct OldestUpdate {
    /// Its seq.
    pub seq: Seq,
    /// When it was published.
    pub published_at: Timestamp,
    /// What it counts ([`Update::size`](crate::Update::size)).
    pub size: u64,
}

/// One step.
#[derive(Debug)]
pub struct TrimStep<'s> {
    order: &'s TrimOrder,
    progress: &'s mut TrimProgress,
    rows: usize,
    bytes: u64,
}

/// What becomes of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a store must handle every answer")]
pub enum Weighed {
    /// It may go.
    Goes,
    /// The next step decides about it: this step is full.
    Later,
    /// It stays, and so does everything behind it: there is no further step.
    Stays,
}

/// An update from three columns: seq, published_at, what it counts.
///
/// # Errors
/// The columns say what no store has written.
pub fn oldest_update<R: Row>(row: &R, topic: &Topic) -> Result<OldestUpdate, R::Fault> {
    let (seq, published_at) = (rows::seq(row, 0)?, rows::moment(row, 1)?);
    let size = rows::bytes(row, 2, &format_args!("update {seq} of the topic {topic}"))?;
    Ok(OldestUpdate { seq, published_at, size })
}

/// The moments that the ages of consecutive updates go by, given when each was published and when the first later update was
/// published whose clock is not [ahead](is_ahead): an update whose clock was ahead is as old as what follows it.
pub fn ages(
    published: impl DoubleEndedIterator<Item = Timestamp>,
    beyond: Option<Timestamp>,
    now: Timestamp,
) -> Vec<Timestamp> {
    let mut next = beyond;
    let ages = published.rev().map(|at| {
        if !is_ahead(at, now) {
            next = Some(at);
        }
        next.unwrap_or(at)
    });
    let mut ages: Vec<_> = ages.collect();
    ages.reverse();
    ages
}

impl TrimOrder {
    /// What there is to do about a topic that was never written.
    pub fn untouched(&self, seed: &[u8; 16]) -> TrimProgress {
        TrimProgress::begin(Bounds::untouched(Epoch::derive(seed, &self.topic)), 0)
    }
}

impl TrimProgress {
    fn begin(bounds: Bounds, bytes: u64) -> Self {
        let trimmed = Trimmed { bounds, updates: 0, bytes: 0, oldest: None };
        Self { trimmed, stands: bounds.floor, until: bounds.head, held: bytes }
    }

    /// Goes on with a trim of a topic that has these bounds and holds `bytes` bytes now.
    pub fn of_trim(before: Option<Self>, bounds: Bounds, bytes: u64) -> Self {
        Self::go_on(before, bounds, bytes).unwrap_or_else(|| {
            let mut begun = Self::begin(bounds, bytes);
            if let Some(before) = before {
                (begun.trimmed.updates, begun.trimmed.bytes) = (before.trimmed.updates, before.trimmed.bytes);
            }
            begun
        })
    }

    /// Goes on with a plan. After a trim in between it begins anew: that is what a trim would find.
    pub fn of_plan(before: Option<Self>, bounds: Bounds, bytes: u64) -> Self {
        Self::go_on(before, bounds, bytes).unwrap_or_else(|| Self::begin(bounds, bytes))
    }

    /// None where another process has trimmed the topic since the last step: then what was known of the log's start is void.
    fn go_on(before: Option<Self>, bounds: Bounds, bytes: u64) -> Option<Self> {
        let Some(mut progress) = before else { return Some(Self::begin(bounds, bytes)) };
        if (progress.trimmed.bounds.epoch, progress.stands) != (bounds.epoch, bounds.floor) {
            return None;
        }
        progress.trimmed.bounds.head = bounds.head;
        Some(progress)
    }

    /// What was done so far, or would be.
    pub fn trimmed(&self) -> Trimmed {
        self.trimmed
    }

    /// The floor so far.
    pub fn floor(&self) -> Watermark {
        self.trimmed.bounds.floor
    }

    /// Begins a step.
    pub fn step<'s>(&'s mut self, order: &'s TrimOrder) -> TrimStep<'s> {
        self.trimmed.oldest = None;
        TrimStep { order, progress: self, rows: 0, bytes: 0 }
    }

    /// Notes that the updates up to the floor were removed.
    pub fn removed(&mut self) {
        self.stands = self.floor();
    }

    /// The answer to a trim whose next step failed. An error means that nothing was removed (`Journal::trim`), so what was removed
    /// is told.
    ///
    /// # Errors
    /// The fault, where nothing was removed.
    pub fn ended_by(
        so_far: Option<Self>,
        order: &TrimOrder,
        fault: impl Into<Error>,
    ) -> Result<Trimmed, Error> {
        let error = fault.into();
        tracing::error!(topic = %order.topic, %error, source = ?error, "a step of a trim failed");
        so_far.map(|progress| progress.trimmed).filter(|trimmed| trimmed.updates > 0).ok_or(error)
    }
}

impl TrimStep<'_> {
    /// Weighs the next oldest update, which is as old as `old_as` says, and counts it if it may go.
    pub fn weigh(&mut self, update: OldestUpdate, old_as: Timestamp) -> Weighed {
        let OldestUpdate { seq, published_at, size } = update;
        let TrimProgress { trimmed, until, held, .. } = &mut *self.progress;
        let kept = trimmed.bounds.floor.distance_to(*until);
        if !until.covers(seq) || !self.order.keep.lets_go(seq, old_as, kept, *held, self.order.now) {
            trimmed.oldest = Some(published_at);
            return Weighed::Stays;
        }
        if self.rows == STEP_ROWS || (self.rows > 0 && self.bytes + size > STEP_BYTES) {
            trimmed.oldest = Some(published_at);
            return Weighed::Later;
        }
        (self.rows, self.bytes) = (self.rows + 1, self.bytes + size);
        trimmed.bounds.floor = seq.watermark();
        trimmed.updates += 1;
        trimmed.bytes += size;
        *held = held.saturating_sub(size);
        Weighed::Goes
    }

    /// The bytes that this step lets go.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(floor: u64, head: u64) -> Bounds {
        Bounds {
            epoch: Epoch::from_bits(1),
            floor: Watermark::new(floor).unwrap(),
            head: Watermark::new(head).unwrap(),
        }
    }

    fn keep(updates: u64) -> TrimOrder {
        let mut keep = Keep::everything();
        keep.updates = Some(updates);
        TrimOrder { topic: Topic::parse("t").unwrap(), keep, now: Timestamp::from_millis(1_000) }
    }

    /// Weighs updates of `size` bytes until one does not go.
    fn weigh(progress: &mut TrimProgress, order: &TrimOrder, size: u64) -> Weighed {
        let from = progress.floor().as_u64() + 1;
        let mut step = progress.step(order);
        for seq in from.. {
            let update =
                OldestUpdate { seq: Seq::new(seq).unwrap(), published_at: Timestamp::from_millis(seq), size };
            match step.weigh(update, update.published_at) {
                Weighed::Goes => {}
                ends => return ends,
            }
        }
        unreachable!("a step ends")
    }

    #[test]
    fn a_step_is_bounded_in_rows_and_bytes() {
        for (size, floors) in
            [(1, [500, 1_000, 1_100]), (STEP_BYTES / 4, [4, 8, 12]), (STEP_BYTES * 2, [1, 2, 3])]
        {
            let order = keep(100);
            let mut progress = TrimProgress::of_trim(None, bounds(0, 1_200), 1_200 * size);
            for floor in floors {
                let ended = weigh(&mut progress, &order, size);
                assert_eq!(progress.floor().as_u64(), floor);
                assert_eq!(ended == Weighed::Stays, floor == 1_100);
                assert_eq!(progress.trimmed().oldest, Some(Timestamp::from_millis(floor + 1)));
            }
        }
    }

    #[test]
    fn what_comes_between_steps_is_kept() {
        let order = keep(100);
        let mut progress = TrimProgress::of_trim(None, bounds(0, 1_000), 1_000);
        assert_eq!(weigh(&mut progress, &order, 1), Weighed::Later);
        progress.removed();
        progress = TrimProgress::of_trim(Some(progress), bounds(500, 1_010), 510);
        assert_eq!(weigh(&mut progress, &order, 1), Weighed::Stays);
        let Trimmed { bounds, updates, bytes, .. } = progress.trimmed();
        assert_eq!((bounds.floor.as_u64(), bounds.head.as_u64(), updates, bytes), (900, 1_010, 900, 900));
    }

    #[test]
    fn a_trim_of_somebody_else_begins_a_plan_anew_and_leaves_a_trim_its_counts() {
        let order = keep(100);
        let mut before = TrimProgress::of_trim(None, bounds(0, 1_000), 1_000);
        weigh(&mut before, &order, 1);
        before.removed();
        for found in [bounds(700, 1_000), Bounds { epoch: Epoch::from_bits(2), ..bounds(500, 1_000) }] {
            let (plan, trim) = (
                TrimProgress::of_plan(Some(before), found, 300),
                TrimProgress::of_trim(Some(before), found, 300),
            );
            assert_eq!((plan.trimmed().updates, plan.floor()), (0, found.floor));
            assert_eq!((trim.trimmed().updates, trim.trimmed().bytes, trim.floor()), (500, 500, found.floor));
        }
        let fault = || Error::new(crate::error::ErrorKind::Full, "test", "no room");
        assert_eq!(TrimProgress::ended_by(Some(before), &order, fault()).unwrap().updates, 500);
        assert!(TrimProgress::ended_by(None, &order, fault()).is_err());
    }

    #[test]
    fn what_a_clock_far_ahead_stored_is_as_old_as_what_follows_it() {
        let now = Timestamp::from_millis(1_000);
        let ahead = now.plus(crate::journal::CLOCKS_APART * 2);
        let at = Timestamp::from_millis;
        let published = [ahead, at(5), ahead, at(7), ahead];
        assert_eq!(ages(published.into_iter(), Some(at(9)), now), [at(5), at(5), at(7), at(7), at(9)]);
        assert_eq!(ages([ahead].into_iter(), None, now), [ahead]);
    }
}
