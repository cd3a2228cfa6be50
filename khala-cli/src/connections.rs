//! `khala connections`: who is connected to a node, the slowest first.

use bytes::Bytes;
use clap::Args;
use http::Method;
use khala_core::Timestamp;
use serde::Deserialize;

use crate::{
    admin,
    duration::{number, shown},
    exit::Failure,
    moment::local,
    output,
    server::Server,
};

/// List the open connections of one node, the slowest first
///
/// On a terminal a table, else the server's answer: one JSON object. It needs an admin token.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala connections
  khala connections --limit 100
  khala connections --json | jq '.slowest[] | select(.stalled_ms > 1000)'")]
pub(crate) struct Connections {
    /// How many connections to list
    #[arg(long, value_name = "N", default_value = "20", value_parser = number(1..=1000))]
    limit: u64,
    /// JSON, on a terminal too
    #[arg(long)]
    json: bool,
}

/// The answer.
#[derive(Deserialize)]
struct Open {
    open: u64,
    channels: u64,
    outbox_bytes: u64,
    slowest: Vec<Connection>,
}

#[derive(Deserialize)]
struct Connection {
    subject: String,
    address: Option<String>,
    opened_at: u64,
    channels: u64,
    held_bytes: u64,
    stalled_ms: u64,
}

impl Connections {
    pub(crate) async fn run(self, server: &Server) -> Result<(), Failure> {
        let path = format!("connections?limit={}", self.limit);
        let answer = admin::call(server, Method::GET, &path, Bytes::new()).await?;
        admin::print(self.json, &answer, |open: Open| in_words(&open))
    }
}

fn in_words(open: &Open) -> String {
    let Open { open, channels, outbox_bytes, slowest } = open;
    let row = |connection: &Connection| {
        [
            connection.subject.clone(),
            connection.address.clone().unwrap_or_else(|| "-".to_owned()),
            local(Timestamp::from_millis(connection.opened_at)),
            connection.channels.to_string(),
            connection.held_bytes.to_string(),
            shown(connection.stalled_ms),
        ]
    };
    let rows: Vec<_> = slowest.iter().map(row).collect();
    let table = output::table(["SUBJECT", "ADDRESS", "OPENED", "TOPICS", "HELD BYTES", "STALLED"], &rows);
    let sum = format!(
        "open connections: {open}; topics that they follow: {channels}; bytes held for them: {outbox_bytes}\n"
    );
    if rows.is_empty() { sum } else { format!("{sum}\n{table}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_a_table() {
        let open = r#"{"open":2,"channels":3,"outbox_bytes":9,"slowest":[
            {"subject":"ada","address":"10.0.0.7","opened_at":0,"channels":2,"held_bytes":9,"stalled_ms":1500},
            {"subject":"bo","address":null,"opened_at":0,"channels":1,"held_bytes":0,"stalled_ms":0}]}"#;
        let text = in_words(&serde_json::from_str(open).unwrap());
        let at = local(Timestamp::from_millis(0));
        assert_eq!(
            text,
            format!(
                "open connections: 2; topics that they follow: 3; bytes held for them: 9\n\n\
                 SUBJECT  ADDRESS   OPENED                   TOPICS  HELD BYTES  STALLED\n\
                 ada      10.0.0.7  {at}       2           9  1500ms\n\
                 bo       -         {at}       1           0  0s\n"
            )
        );
    }
}
