//! A row: one kind of work, and who does it.

use std::fmt::{self, Debug};

use super::{figures::Figures, tools::Tools};
use crate::crowd::Failure;

/// What somebody takes part as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// The least that the work can cost. The first one of a row is what ratios are of.
    Floor,
    Khala,
    Peer,
}

/// The figure that a row is about: what is compared and drawn. Less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Headline {
    /// Server CPU-seconds per million units.
    Cost,
    /// One of [`Figures::more`], with that name, and its unit.
    More(&'static str, &'static str),
}

impl Headline {
    pub(super) fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Self::Cost => Some(figures.cost()),
            Self::More(name, _) => figures.extra(name),
        }
    }

    pub(super) fn words(self) -> String {
        match self {
            Self::Cost => "server CPU-seconds per million units".to_owned(),
            Self::More(name, unit) => format!("{name}, {unit}"),
        }
    }
}

/// Does the work once, from starting the server to ending it.
pub(super) type Measure = Box<dyn Fn(&Tools) -> Result<Figures, Failure>>;

/// Who takes part, and what has to be said of it.
pub(super) struct Contestant {
    /// For `--with` and `--without`.
    pub(super) name: &'static str,
    pub(super) role: Role,
    /// What its subscribers, or clients, speak.
    pub(super) over: &'static str,
    /// What it has done when it says that it has an update.
    pub(super) durability: &'static str,
    pub(super) measure: Measure,
}

impl Debug for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contestant")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// One kind of work.
#[derive(Debug)]
pub(super) struct Row {
    /// For `--only`, and for file names.
    pub(super) name: &'static str,
    pub(super) title: String,
    /// What is counted as one unit of work.
    pub(super) unit: &'static str,
    pub(super) headline: Headline,
    /// What a reader has to know.
    pub(super) notes: Vec<String>,
    pub(super) contestants: Vec<Contestant>,
}
