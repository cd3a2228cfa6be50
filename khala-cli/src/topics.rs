//! `khala topics`: what topics there are, and what each holds.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use indicatif::ProgressBar;
use khala_core::{Bounds, Topic};

use crate::{exit::Failure, notice::Notices, output, server::Server};

/// List the topics that have updates, or had some
///
/// On a terminal a table; else, and with --json, one JSON object a line:
/// {"topic":"…","epoch":"…","floor":0,"head":7}. The updates after the floor, up to the head, are kept.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala topics
  khala topics orders:
  khala topics --json | jq -r 'select(.head > 1000) | .topic'")]
pub(crate) struct Topics {
    /// Only topics whose names start with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// JSON lines, on a terminal too
    #[arg(long)]
    json: bool,
}

impl Topics {
    pub(crate) async fn run(self, server: &Server) -> Result<(), Failure> {
        let notices = Notices::beside(ProgressBar::hidden());
        let client = server.client(&notices, Some(Duration::ZERO)).await?.build()?;
        let topics = client.topics(&self.prefix).await?;
        output::print(&if output::wants_json(self.json) { lines(&topics) } else { table(&topics) })
    }
}

fn lines(topics: &[(Topic, Bounds)]) -> String {
    topics.iter().fold(String::new(), |mut out, (topic, Bounds { epoch, floor, head })| {
        // A topic's alphabet needs no escapes. Writing to a String does not fail.
        let _ = writeln!(out, r#"{{"topic":"{topic}","epoch":"{epoch}","floor":{floor},"head":{head}}}"#);
        out
    })
}

fn table(topics: &[(Topic, Bounds)]) -> String {
    let row = |(topic, Bounds { epoch, floor, head }): &(Topic, Bounds)| {
        let kept = floor.distance_to(*head);
        [topic.to_string(), floor.to_string(), head.to_string(), kept.to_string(), epoch.to_string()]
    };
    let rows: Vec<_> = topics.iter().map(row).collect();
    output::table(["TOPIC", "FLOOR", "HEAD", "KEPT", "EPOCH"], &rows)
}

#[cfg(test)]
mod tests {
    use khala_core::{Epoch, Watermark};

    use super::*;

    #[test]
    fn both_shapes_say_the_same() {
        let mark = |number| Watermark::new(number).unwrap();
        let bounds = Bounds { epoch: Epoch::from_bits(1), floor: mark(3), head: mark(10) };
        let topics = [(Topic::parse("run:7:events").unwrap(), bounds)];
        assert_eq!(
            lines(&topics),
            "{\"topic\":\"run:7:events\",\"epoch\":\"0000000000000001\",\"floor\":3,\"head\":10}\n"
        );
        let table = table(&topics);
        let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["run:7:events", "3", "10", "7", "0000000000000001"]);
    }
}
