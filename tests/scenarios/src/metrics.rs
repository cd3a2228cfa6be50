//! What a server counts: its `/metrics` page, read into numbers that can be asked for by name and labels.

use std::collections::BTreeMap;

/// One look at a server's metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// By the series as it is written: name and labels.
    series: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads Prometheus' text format; lines that are none are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Self { series: text.lines().filter(|text| !text.starts_with('#')).filter_map(line).collect() }
    }

    /// The sum of every series of that name which has all of these labels; 0 where nothing was counted yet.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let of_name = self.series.iter().filter(|(series, _)| series.split('{').next() == Some(name));
        let wanted = of_name.filter(|(series, _)| {
            labels.iter().all(|(label, value)| {
                let pair = format!("{label}=\"{value}\"");
                series.contains(&format!("{{{pair}")) || series.contains(&format!(",{pair}"))
            })
        });
        wanted.map(|(_, value)| value).sum()
    }

    /// The same as a count.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels) as u64
    }

    /// The counts of every series of that name, by the value of one label.
    pub(crate) fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (series, count) in &self.series {
            let value = || {
                let (_, rest) =
                    series.strip_prefix(name)?.strip_prefix('{')?.split_once(&format!("{label}=\""))?;
                rest.split('"').next()
            };
            if let Some(value) = value() {
                *counts.entry(value.to_owned()).or_insert(0) += *count as u64;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_name_and_labels() {
        let text = "# TYPE khala_refusals_total counter\n\
            khala_refusals_total{code=\"a\",operation=\"join\"} 3\n\
            khala_refusals_total{code=\"ab\",operation=\"join\"} 4\n\
            khala_refusals_total_other 9\n\
            khala_connections 2.5\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.count("khala_refusals_total", &[]), 7);
        assert_eq!(metrics.count("khala_refusals_total", &[("code", "a")]), 3);
        assert_eq!(metrics.count("khala_refusals_total", &[("operation", "join"), ("code", "ab")]), 4);
        assert_eq!(metrics.sum("khala_connections", &[]), 2.5);
        assert_eq!(metrics.count("khala_missing", &[]), 0);
        let by_code = metrics.by_label("khala_refusals_total", "code");
        assert_eq!(by_code, BTreeMap::from([("a".to_owned(), 3), ("ab".to_owned(), 4)]));
    }
}
