//! Counts of durations that many tasks add to at once: each kept to about 3 %, none in a list.

use std::sync::atomic::{AtomicU64, Ordering};

/// Each power of two is parted into that many.
const PARTS: u64 = 32;
/// Microseconds up to half an hour; what is longer counts as that.
const BUCKETS: usize = 27 * PARTS as usize;

/// Durations, in microseconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<AtomicU64>,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), max: AtomicU64::new(0) }
    }
}

/// The bucket of a value.
fn bucket(micros: u64) -> usize {
    if micros < PARTS {
        return micros as usize;
    }
    let shift = micros.ilog2() - PARTS.ilog2();
    let within = (micros >> shift) - PARTS;
    ((u64::from(shift) + 1) * PARTS + within).min(BUCKETS as u64 - 1) as usize
}

/// The largest value of a bucket.
fn top(bucket: usize) -> u64 {
    let (row, within) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    match row.checked_sub(1) {
        None => within,
        Some(shift) => ((PARTS + within + 1) << shift) - 1,
    }
}

impl Histogram {
    /// Adds that many of the same.
    pub(crate) fn add(&self, micros: u64, times: u64) {
        self.counts[bucket(micros)].fetch_add(times, Ordering::Relaxed);
        self.max.fetch_max(micros, Ordering::Relaxed);
    }

    /// How many were added.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The largest.
    pub(crate) fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// The value at or below which that share lies; 0 of nothing.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let rank = ((share * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count.load(Ordering::Relaxed);
            if seen >= rank {
                return top(bucket).min(self.max());
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        let mut last = 0;
        for micros in 0..200_000_u64 {
            let at = bucket(micros);
            assert!(at == last || at == last + 1, "{micros}");
            assert!(
                micros <= top(at) && top(at) as f64 <= micros as f64 * 1.04 + 1.0,
                "{micros}: {}",
                top(at)
            );
            last = at;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.max()), (0, 0));
        for micros in 1..=1_000 {
            histogram.add(micros, 2);
        }
        assert_eq!((histogram.count(), histogram.max()), (2_000, 1_000));
        assert!((490..=520).contains(&histogram.quantile(0.5)), "{}", histogram.quantile(0.5));
        assert!((980..=1_000).contains(&histogram.quantile(0.99)));
        assert_eq!(histogram.quantile(1.0), 1_000);
    }
}
