//! Numbers, as the ranges that they make up: as much memory as there are holes.

use std::{collections::BTreeMap, ops::RangeInclusive};

/// First and last of each range. Ranges neither overlap nor touch.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// False if it was there.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        let last = number.checked_add(1).and_then(|next| self.0.remove(&next)).unwrap_or(number);
        match self.0.range_mut(..number).next_back() {
            Some((_, before)) if *before + 1 == number => *before = last,
            _ => drop(self.0.insert(number, last)),
        }
        true
    }

    /// Adds a range that is apart from all that there are.
    pub(super) fn add(&mut self, range: RangeInclusive<u64>) {
        self.0.insert(*range.start(), *range.end());
    }

    /// False if it was not there.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let found = self.0.range_mut(..=number).next_back().filter(|(_, last)| **last >= number);
        let Some((&first, last)) = found else { return false };
        let end = std::mem::replace(last, number.wrapping_sub(1));
        if first == number {
            self.0.remove(&first);
        }
        if number < end {
            self.0.insert(number + 1, end);
        }
        true
    }

    /// The parts of the ranges that lie within that one.
    pub(super) fn within(&self, bounds: RangeInclusive<u64>) -> impl Iterator<Item = RangeInclusive<u64>> {
        let (from, to) = (*bounds.start(), *bounds.end());
        let parts = self.0.iter().map(move |(first, last)| *first.max(&from)..=*last.min(&to));
        parts.filter(|part| !part.is_empty())
    }

    pub(super) fn pop_first(&mut self) -> Option<RangeInclusive<u64>> {
        self.0.pop_first().map(|(first, last)| first..=last)
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, last)| *last)
    }

    /// How many ranges there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// How many numbers there are.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }
}
