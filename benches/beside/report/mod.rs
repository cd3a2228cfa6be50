//! What a run leaves behind: a table of each row for people, JSON for whoever compares, and a plot.

mod plot;
mod table;

use std::{fs, path::Path};

pub(super) use self::table::table;
use super::contest::Outcome;
use crate::crowd::{During as _, Failure};

pub(super) fn write_json(folder: &Path, outcome: &Outcome) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(outcome).during("writing JSON")?;
    fs::write(folder.join(format!("{}.json", outcome.row)), text).during("writing JSON")
}

/// The tables of all rows in one file, under the conditions of the run, and their plots in another.
pub(super) fn write_all(folder: &Path, conditions: &str, outcomes: &[Outcome]) -> Result<(), Failure> {
    let tables: Vec<String> = outcomes.iter().map(table).collect();
    fs::write(folder.join("tables.md"), format!("{conditions}\n{}", tables.join("\n")))
        .during("writing tables")?;
    plot::write(&folder.join("plot.svg"), outcomes)
}
