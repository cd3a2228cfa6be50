//! A subscriber on the real `phoenix` client from npm, in a Node.js process: phoenix/subscriber.mjs.

use std::{fs, path::Path, sync::Arc};

use khala_scenarios::{
    checker::Delivery,
    history::{Entry, Log},
};
use khala_testing::{During as _, Failure};
use serde::Deserialize;

use crate::{
    reader::{Counts, Ended, Orders, Reader},
    setting::Setting,
};

/// Starts the subscriber with that version of the serializer.
pub(crate) fn start(setting: &Arc<Setting>, name: &'static str, version: &'static str) -> Reader {
    let setting = Arc::clone(setting);
    Reader::start(name, move |orders| follow(setting, version, orders))
}

/// What it says on standard output.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Said {
    Applied { after: u64, repeated: u64 },
    Closed,
    Connected,
    Fault { message: String },
    Joined { resumed: bool },
    Refreshed,
    Refused,
    Started,
}

/// A line of the file that is both its state and its cursor.
#[derive(Deserialize)]
struct Line {
    epoch: String,
    seq: u64,
    payload: String,
}

async fn follow(setting: Arc<Setting>, version: &str, mut orders: Orders) -> Result<Ended, Failure> {
    let name = orders.name();
    let log_name = format!("phoenix-{version}");
    let file = setting.workspace.path(&format!("{log_name}.jsonl"));
    let command = || {
        let mut command = setting.phoenix(version, &file);
        command.stderr(setting.workspace.log(&log_name)?);
        Ok(command)
    };
    let mut counts = Counts { refreshed: Some(0), resumed: Some(0), ..Counts::default() };
    let killed = orders
        .run_process(command, |_, line| {
            match serde_json::from_str(line).during(format_args!("reading {line:?}"))? {
                Said::Applied { after, repeated } => {
                    counts.skipped += repeated;
                    return Ok(Some(after));
                }
                Said::Connected => counts.connected += 1,
                Said::Fault { message } => return Err(Failure::new(message)),
                Said::Joined { resumed } => {
                    counts.resumed = counts.resumed.map(|so_far| so_far + u64::from(resumed))
                }
                Said::Refreshed => {
                    counts.refreshed = counts.refreshed.map(|so_far| so_far + 1);
                }
                Said::Closed | Said::Refused | Said::Started => {}
            }
            Ok(None)
        })
        .await
        .map_err(|failure| {
            Failure::new(format_args!(
                "{failure}; its last words:\n    {}",
                setting.workspace.last_words(&log_name)
            ))
        })?;
    counts.killed = killed;
    // The first connection is no reconnect.
    counts.connected = counts.connected.saturating_sub(1);
    // Its file goes on over every kill, so the whole of it is held to be applied once, as by one process.
    let log = Log { name: name.to_owned(), delivery: Delivery::ExactlyOnce, runs: vec![applied(&file)?] };
    Ok(Ended { log, counts })
}

fn applied(file: &Path) -> Result<Vec<Entry>, Failure> {
    let text = fs::read_to_string(file).during(format_args!("reading {}", file.display()))?;
    let entry = |line| {
        let Line { epoch, seq, payload } =
            serde_json::from_str(line).during(format_args!("reading {line:?}"))?;
        Ok(Entry { epoch: Some(epoch.into()), seq, payload: payload.into() })
    };
    text.lines().map(entry).collect()
}
