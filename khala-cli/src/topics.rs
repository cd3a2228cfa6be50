//! `khala topics`: what topics there are, and what each holds.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use indicatif::ProgressBar;
use khala_client::ClientOptions;
use khala_core::{Bounds, Topic};

use crate::{connection::Connection, exit::Failure, notice::Notices, output};

/// List the topics that were written at least once.
///
/// On a terminal a table; else, and with --json, one JSON object a line:
/// {"topic":"…","epoch":"…","floor":0,"head":7}. Kept are the updates after the floor, up to the head.
#[derive(Debug, Args)]
pub(crate) struct Topics {
    #[command(flatten)]
    connection: Connection,
    /// Only those that start with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// JSON lines, on a terminal too
    #[arg(long)]
    json: bool,
}

impl Topics {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let notices = Notices::beside(ProgressBar::hidden());
        let options = ClientOptions { retry_for: Some(Duration::ZERO), ..ClientOptions::default() };
        let client = self.connection.client(&notices)?.options(options).build()?;
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
    let width = topics.iter().map(|(topic, _)| topic.as_str().len()).max().unwrap_or(0).max("TOPIC".len());
    let mut out = format!("{:<width$}  {:>12}  {:>12}  {:>12}  EPOCH\n", "TOPIC", "FLOOR", "HEAD", "KEPT");
    for (topic, Bounds { epoch, floor, head }) in topics {
        let kept = floor.distance_to(*head);
        let (topic, floor, head) = (topic.as_str(), floor.as_u64(), head.as_u64());
        let _ = writeln!(out, "{topic:<width$}  {floor:>12}  {head:>12}  {kept:>12}  {epoch}");
    }
    out
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
