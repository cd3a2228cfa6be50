//! What reports share: how long something took.

use std::time::Duration;

use khala_testing::Histogram;
use serde::Serialize;

/// How long something took, over many who did it: milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Range {
    /// How many did it.
    pub count: u64,
    /// Half of them took at most that long.
    pub p50_ms: f64,
    /// 99 of 100 did.
    pub p99_ms: f64,
    /// All did.
    pub max_ms: f64,
}

impl Range {
    pub(crate) fn of(histogram: &Histogram) -> Self {
        let ms = |micros: u64| micros as f64 / 1_000.0;
        Self {
            count: histogram.count(),
            p50_ms: ms(histogram.quantile(0.5)),
            p99_ms: ms(histogram.quantile(0.99)),
            max_ms: ms(histogram.max()),
        }
    }

    pub(crate) fn of_durations(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut histogram = Histogram::default();
        histogram.extend(durations);
        Self::of(&histogram)
    }
}
