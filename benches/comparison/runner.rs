//! Running workloads: in each round every competitor once, in turn, so that what else the machine does meets all alike.

use khala_testing::{During as _, Failure, ensure};
use serde::{Deserialize, Serialize};

use super::{
    files,
    sample::{Sample, Summary},
    tools::Tools,
    workload::{Competitor, Headline, Role, Workload},
    workloads::{self, Scale},
};

/// What a workload gave.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) workload: String,
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) headline: Headline,
    pub(super) notes: Vec<String>,
    pub(super) results: Vec<Samples>,
}

/// What a competitor gave.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Samples {
    pub(super) who: String,
    pub(super) role: Role,
    pub(super) over: String,
    pub(super) durability: String,
    /// In their order.
    pub(super) rounds: Vec<Sample>,
}

impl Samples {
    pub(super) fn summary(&self, value: impl Fn(&Sample) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.rounds.iter().filter_map(value))
    }

    pub(super) fn headline(&self, headline: &Headline) -> Option<Summary> {
        self.summary(|sample| headline.of(sample))
    }
}

impl Outcome {
    /// The median of the floor, and that of the best competitor.
    pub(super) fn marks(&self) -> (Option<f64>, Option<f64>) {
        let median = |result: &Samples| Some(result.headline(&self.headline)?.median);
        let of = |role| self.results.iter().filter(move |result| result.role == role).filter_map(median);
        (of(Role::Floor).next(), of(Role::Other).min_by(f64::total_cmp))
    }
}

/// Runs a workload; `told` hears of every measurement.
pub(super) fn run(
    workload: Workload,
    rounds: usize,
    tools: &Tools,
    mut told: impl FnMut(&str, &str, &Sample),
) -> Result<Outcome, Failure> {
    let Workload { name, title, unit, headline, notes, competitors } = workload;
    let mut results: Vec<_> = competitors
        .iter()
        .map(|Competitor { name, role, over, durability, .. }| Samples {
            who: (*name).to_owned(),
            role: *role,
            over: (*over).to_owned(),
            durability: (*durability).to_owned(),
            rounds: Vec::new(),
        })
        .collect();
    for _ in 0..rounds {
        for (competitor, result) in competitors.iter().zip(&mut results) {
            let sample = (competitor.measure)(tools).during(format_args!("{name}, {}", competitor.name))?;
            told(name, competitor.name, &sample);
            result.rounds.push(sample);
        }
    }
    Ok(Outcome { workload: name.to_owned(), title, unit: unit.to_owned(), headline, notes, results })
}

/// Every workload once, as small as it gets, with floors and Khala: that all still works, whatever the machine's speed.
///
/// # Errors
/// A [`Failure`] if something does not work, or an update was lost.
pub fn tiny(tools: &Tools) -> Result<(), Failure> {
    files::raise_limit()?;
    for mut workload in workloads::all(&Scale::tiny()) {
        workload.competitors.retain(|competitor| competitor.role != Role::Other);
        let outcome = run(workload, 1, tools, |_, _, _| {})?;
        for result in &outcome.results {
            for sample in &result.rounds {
                let Outcome { workload, .. } = &outcome;
                ensure(sample.lost == 0, || format!("{workload}, {}: {} lost", result.who, sample.lost))?;
                ensure(sample.units > 0, || format!("{workload}, {}: nothing was done", result.who))?;
            }
        }
    }
    Ok(())
}
