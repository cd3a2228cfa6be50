//! Reports: figures in words for people, and as JSON for whoever compares them.

use std::{
    fmt::{self, Display},
    fs,
    path::PathBuf,
    time::Duration,
};

use khala_testing::{During as _, Failure, Histogram, Program};
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
    pub(super) fn of(histogram: &Histogram) -> Self {
        let ms = |micros: u64| micros as f64 / 1_000.0;
        Self {
            count: histogram.count(),
            p50_ms: ms(histogram.quantile(0.5)),
            p99_ms: ms(histogram.quantile(0.99)),
            max_ms: ms(histogram.max()),
        }
    }

    pub(super) fn of_durations(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut histogram = Histogram::default();
        histogram.extend(durations);
        Self::of(&histogram)
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50_ms, p99_ms, max_ms } = self;
        write!(f, "p50 {p50_ms:.1}, p99 {p99_ms:.1}, max {max_ms:.1} ms ({count})")
    }
}

/// Bytes as MiB, for people.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Writes a report as JSON below the build's folder; says where.
pub(super) fn write_json(program: &Program, name: &str, report: &impl Serialize) -> Result<PathBuf, Failure> {
    let folder = program.target().join("crowd");
    fs::create_dir_all(&folder).during("making a folder for reports")?;
    let path = folder.join(format!("{name}.json"));
    let text = serde_json::to_vec_pretty(report).during("writing a report")?;
    fs::write(&path, text).during("writing a report")?;
    Ok(path)
}
