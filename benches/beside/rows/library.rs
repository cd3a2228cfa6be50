//! Appending inside the library: Khala in the process of whoever appends, beside plain SQLite.

use super::{Scale, append::raw};
use crate::beside::{
    alone::{self, Task},
    row::{Contestant, Headline, Role, Row},
};

pub(super) fn rows(scale: &Scale) -> Vec<Row> {
    let seconds = scale.seconds;
    let rows = [("append-library-64", 64), ("append-library-1024", 1_024)].map(|(name, tasks)| Row {
        name,
        title: format!("{tasks} tasks in one process that append"),
        unit: "an update that was stored",
        headline: Headline::Cost,
        notes: vec![format!(
            "The floor has transactions of {tasks} rows. `khala-library` is the handle that an application holds, \
             `khala-store` the store below it. There is no server: cost is the processor time of the whole process, tasks \
             included. What is stored is counted afterwards."
        )],
        contestants: vec![
            raw("rusqlite", tasks, seconds),
            library("khala-library", true, tasks, seconds),
            library("khala-store", false, tasks, seconds),
        ],
    });
    rows.into()
}

fn library(name: &'static str, handle: bool, tasks: usize, seconds: f64) -> Contestant {
    Contestant {
        name,
        role: Role::Khala,
        over: "no server",
        durability: "each update synced to disk (synchronous=FULL)",
        measure: Box::new(move |tools| alone::run(tools, Task::Library { handle, tasks }, seconds)),
    }
}
