//! Running rows: in each round every contestant once, in turn, so that what else the machine does meets all alike.

use serde::Serialize;

use super::{
    figures::{Figures, Spread},
    files,
    row::{Contestant, Headline, Role, Row},
    rows::{self, Scale},
    tools::Tools,
};
use crate::crowd::{During as _, Failure, ensure};

/// What a row gave.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) row: &'static str,
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) headline: Headline,
    pub(super) notes: Vec<String>,
    pub(super) results: Vec<Contested>,
}

/// What a contestant gave.
#[derive(Debug, Serialize)]
pub(super) struct Contested {
    pub(super) who: &'static str,
    pub(super) role: Role,
    pub(super) over: &'static str,
    pub(super) durability: &'static str,
    /// In their order.
    pub(super) rounds: Vec<Figures>,
}

impl Contested {
    pub(super) fn spread(&self, value: impl Fn(&Figures) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(value))
    }

    pub(super) fn headline(&self, headline: Headline) -> Option<Spread> {
        self.spread(|figures| headline.of(figures))
    }
}

impl Outcome {
    /// The median of the floor, and that of the best peer.
    pub(super) fn marks(&self) -> (Option<f64>, Option<f64>) {
        let median = |result: &Contested| Some(result.headline(self.headline)?.median);
        let of = |role| self.results.iter().filter(move |result| result.role == role).filter_map(median);
        (of(Role::Floor).next(), of(Role::Peer).min_by(f64::total_cmp))
    }
}

/// Runs a row; `told` hears of every measurement.
pub(super) fn run(
    row: Row,
    rounds: usize,
    tools: &Tools,
    mut told: impl FnMut(&str, &str, &Figures),
) -> Result<Outcome, Failure> {
    let Row { name, title, unit, headline, notes, contestants } = row;
    let mut results: Vec<_> = contestants
        .iter()
        .map(|Contestant { name, role, over, durability, .. }| Contested {
            who: name,
            role: *role,
            over,
            durability,
            rounds: Vec::new(),
        })
        .collect();
    for _ in 0..rounds {
        for (contestant, result) in contestants.iter().zip(&mut results) {
            let figures = (contestant.measure)(tools).during(format_args!("{name}, {}", contestant.name))?;
            told(name, contestant.name, &figures);
            result.rounds.push(figures);
        }
    }
    Ok(Outcome { row: name, title, unit, headline, notes, results })
}

/// Every row once, as small as it gets, with floors and Khala: that all still works, whatever the machine's speed.
///
/// # Errors
/// A [`Failure`] if something does not work, or an update was lost.
pub fn tiny(tools: &Tools) -> Result<(), Failure> {
    files::raise_limit()?;
    for mut row in rows::all(&Scale::tiny()) {
        row.contestants.retain(|contestant| contestant.role != Role::Peer);
        let outcome = run(row, 1, tools, |_, _, _| {})?;
        for result in &outcome.results {
            for figures in &result.rounds {
                let Outcome { row, .. } = outcome;
                ensure(figures.lost == 0, || format!("{row}, {}: {} lost", result.who, figures.lost))?;
                ensure(figures.units > 0, || format!("{row}, {}: nothing was done", result.who))?;
            }
        }
    }
    Ok(())
}
