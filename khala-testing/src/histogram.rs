//! Counts of durations: each kept to about one percent, none in a list.

use std::time::Duration;

/// Durations, in microseconds.
#[derive(Clone, Debug)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(hdrhistogram::Histogram::new(2).expect("two significant digits are within its range"))
    }
}

impl Histogram {
    /// Adds that many of the same.
    pub fn add(&mut self, micros: u64, times: u64) {
        // It grows with what it holds.
        self.0.record_n(micros, times).expect("a histogram that grows takes every value");
    }

    /// How many were added.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The largest.
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// The value at or below which that share lies; 0 of nothing.
    pub fn quantile(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share).min(self.max())
    }
}

impl Extend<Duration> for Histogram {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, durations: I) {
        for duration in durations {
            self.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.max()), (0, 0));
        for micros in 1..=1_000 {
            histogram.add(micros, 2);
        }
        assert_eq!(histogram.count(), 2_000);
        assert!((495..=510).contains(&histogram.quantile(0.5)), "{}", histogram.quantile(0.5));
        assert!((985..=1_010).contains(&histogram.quantile(0.99)));
    }
}
