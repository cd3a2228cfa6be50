//! A workload: one kind of work, and who does it.

use std::{
    borrow::Cow,
    fmt::{self, Debug},
};

use khala_testing::Failure;
use serde::{Deserialize, Serialize};

use super::{sample::Sample, tools::Tools};

/// What somebody takes part as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// The least that the work can cost. The first one of a workload is what ratios are of.
    Floor,
    Khala,
    Other,
}

/// The figure that a workload is about: what is compared. Less is better.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Headline {
    /// Server CPU-seconds per million units.
    Cost,
    /// One of [`Sample::extras`], with that name, and its unit.
    Extra(Cow<'static, str>, Cow<'static, str>),
}

impl Headline {
    pub(super) const fn extra(name: &'static str, unit: &'static str) -> Self {
        Self::Extra(Cow::Borrowed(name), Cow::Borrowed(unit))
    }

    pub(super) fn of(&self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Cost => Some(sample.cost()),
            Self::Extra(name, _) => sample.extra(name),
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::Cost => "server CPU-seconds per million units".to_owned(),
            Self::Extra(name, unit) => format!("{name}, {unit}"),
        }
    }
}

/// Does the work once, from starting the server to ending it.
pub(super) type Measure = Box<dyn Fn(&Tools) -> Result<Sample, Failure>>;

/// Who takes part, and what has to be said of it.
pub(super) struct Competitor {
    /// For `--with` and `--without`.
    pub(super) name: &'static str,
    pub(super) role: Role,
    /// What its subscribers, or clients, speak.
    pub(super) over: &'static str,
    /// What it has done when it says that it has an update.
    pub(super) durability: &'static str,
    pub(super) measure: Measure,
}

impl Debug for Competitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Competitor")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// One kind of work.
#[derive(Debug)]
pub(super) struct Workload {
    /// For `--only`, and for file names.
    pub(super) name: &'static str,
    pub(super) title: String,
    /// What is counted as one unit of work.
    pub(super) unit: &'static str,
    pub(super) headline: Headline,
    /// What a reader has to know.
    pub(super) notes: Vec<String>,
    pub(super) competitors: Vec<Competitor>,
}
