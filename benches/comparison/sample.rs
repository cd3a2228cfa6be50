//! What one measurement gives, and what several of the same give together.

use std::collections::BTreeMap;

use khala_testing::Histogram;
use serde::{Deserialize, Serialize};

/// How long things took: milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

impl Latency {
    /// None of nothing.
    pub(super) fn of(histogram: &Histogram) -> Option<Self> {
        let at = |share| histogram.quantile(share) as f64 / 1_000.0;
        (histogram.count() > 0).then(|| Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1_000.0,
        })
    }
}

/// One competitor, measured once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Sample {
    /// Units of work that were done: which, the row says.
    pub(super) units: u64,
    /// Processor time of the server, all its processes.
    pub(super) server_cpu_seconds: f64,
    /// Processor time of the load generator.
    pub(super) load_cpu_seconds: f64,
    pub(super) wall_seconds: f64,
    /// From when it was due.
    pub(super) latency: Option<Latency>,
    /// Memory of the server after the work, resident.
    pub(super) resident_bytes: u64,
    /// The most that it ever was.
    pub(super) peak_bytes: u64,
    /// The share of the machine that the hypervisor took meanwhile.
    pub(super) stolen: f64,
    /// What should have arrived and did not, or arrived again or out of order.
    pub(super) lost: u64,
    /// What only some rows have, by name.
    pub(super) extras: BTreeMap<String, f64>,
}

impl Sample {
    /// Server CPU-seconds per million units.
    pub(super) fn cost(&self) -> f64 {
        self.server_cpu_seconds * 1e6 / self.units.max(1) as f64
    }

    pub(super) fn units_per_second(&self) -> f64 {
        self.units as f64 / self.wall_seconds.max(1e-9)
    }

    /// The value of `more`, or nothing.
    pub(super) fn extra(&self, name: &str) -> Option<f64> {
        self.extras.get(name).copied()
    }
}

/// A figure over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Summary {
    /// None of nothing.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let upper = values.len() / 2;
        let lower = (values.len() - 1) / 2;
        Some(Self { median: f64::midpoint(values[lower], values[upper]), least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([3.0, 1.0, 2.0]), Some(Summary { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Summary::of([4.0, 1.0, 3.0, 2.0]).unwrap().median, 2.5);
    }
}
