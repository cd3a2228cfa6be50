//! What a run leaves behind: a table of each workload for people, and JSON for programs.

mod table;

use std::{fs, path::Path};

use khala_testing::{During as _, Failure};
use serde::{Deserialize, Serialize};

pub(super) use self::table::table;
use super::runner::Outcome;

/// The file that everything else can be made from again.
const RUN: &str = "run.json";

#[derive(Debug, Serialize)]
struct Run<'a> {
    conditions: &'a str,
    outcomes: &'a [Outcome],
}

/// Writes the outcomes of a run as JSON and as tables.
pub(super) fn write(folder: &Path, conditions: &str, outcomes: &[Outcome]) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(&Run { conditions, outcomes }).during("writing JSON")?;
    fs::write(folder.join(RUN), text).during("writing JSON")?;
    let tables: Vec<String> = outcomes.iter().map(table).collect();
    fs::write(folder.join("tables.md"), format!("{conditions}\n{}", tables.join("\n")))
        .during("writing tables")
}

/// Writes the tables of a run again.
pub(super) fn again(folder: &Path) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Run {
        conditions: String,
        outcomes: Vec<Outcome>,
    }
    let path = folder.join(RUN);
    let text = fs::read(&path).during(format_args!("reading {}", path.display()))?;
    let Run { conditions, outcomes } = serde_json::from_slice(&text).during("reading a run")?;
    write(folder, &conditions, &outcomes)
}
