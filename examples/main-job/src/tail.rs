//! A subscriber on the command line: `khala tail --cursor-file`.

use std::{fs, sync::Arc};

use khala_scenarios::{
    checker::Delivery,
    history::{Entry, Log},
};
use khala_testing::{During as _, Failure};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    reader::{Counts, Ended, Orders, Reader},
    setting::Setting,
};

/// Starts the subscriber.
pub(crate) fn start(setting: &Arc<Setting>) -> Reader {
    let setting = Arc::clone(setting);
    Reader::start("khala tail", move |orders| follow(setting, orders))
}

#[derive(Deserialize)]
struct Line {
    seq: u64,
    payload: Box<RawValue>,
}

async fn follow(setting: Arc<Setting>, mut orders: Orders) -> Result<Ended, Failure> {
    let command = || {
        let mut command = setting.khala("tail");
        command.args(["--from", "floor", "--cursor-file"]);
        command.arg(setting.workspace.path("tail.cursor")).stderr(setting.workspace.log("tail")?);
        Ok(command)
    };
    let mut runs: Vec<Vec<Entry>> = vec![Vec::new()];
    let killed = orders
        .run_process(command, |run, line| {
            let Line { seq, payload } =
                serde_json::from_str(line).during(format_args!("reading {line:?}"))?;
            let run = usize::try_from(run).during("counting its runs")?;
            runs.resize_with(runs.len().max(run + 1), Vec::new);
            // Its lines do not say the epoch; a change of it would end the command.
            runs[run].push(Entry { epoch: None, seq, payload: payload.get().into() });
            Ok(Some(seq))
        })
        .await
        .map_err(|failure| {
            Failure::new(format_args!(
                "{failure}; its last words:\n    {}",
                setting.workspace.last_words("tail")
            ))
        })?;
    let said = fs::read_to_string(setting.workspace.path("tail.log")).unwrap_or_default();
    let connected = said.lines().filter(|line| line.starts_with("khala: resumed after ")).count() as u64;
    let counts = Counts { killed, connected, ..Counts::default() };
    let log = Log { name: orders.name().to_owned(), delivery: Delivery::AtLeastOnce, runs };
    Ok(Ended { log, counts })
}
