//! `khala retention`: how much history a server keeps, what its sweeps did, what the next would do, and the order for one.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use khala_core::{
    Timestamp,
    retention::{FailedTopic, SweepPlan, SweepRecord},
};
use serde::Deserialize;
use serde_json::json;

use crate::{admin, duration, exit::Failure, moment::local, output, server::Server};

/// How long a sweep, or the plan of one, may take before nobody waits for it any more. It goes on all the same.
const SWEPT_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Show and apply retention
///
/// On a terminal it prints tables, else the server's answer: one JSON object. In a table, TOPICS is the number of topics that are
/// trimmed, and the number of topics that were examined: 3/12. It needs an admin token.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala retention status
  khala retention plan
  khala retention run --force")]
pub(crate) struct Retention {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What is kept of each class, and what the last sweeps did
    #[command(after_help = "\
Examples:
  khala retention status
  khala retention status --json | jq '.records[0].outcome'")]
    Status(Ask),
    /// A dry run: what the next sweep would delete, and how many cursors that would make stale
    #[command(after_help = "\
Examples:
  khala retention plan
  khala retention plan --json | jq .plan.updates")]
    Plan(Ask),
    /// Sweep now
    ///
    /// It ends when the sweep has ended; a command that is interrupted does not stop the sweep. It fails with 1 where the server's
    /// guard (sweep.max_stale_cursors) holds the sweep back, and with 69 while another sweep is under way.
    #[command(after_help = "\
Examples:
  khala retention run
  khala retention run --force")]
    Run {
        #[command(flatten)]
        ask: Ask,
        /// Sweep even where the guard would hold the sweep back
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct Ask {
    /// JSON, on a terminal too
    #[arg(long)]
    json: bool,
}

/// What is kept, as the server tells it.
#[derive(Deserialize)]
struct Status {
    node: String,
    leads_until: Option<u64>,
    every_ms: Option<u64>,
    guard_cursors: Option<u64>,
    classes: Vec<Class>,
    records: Vec<SweepRecord>,
}

#[derive(Deserialize)]
struct Class {
    class: String,
    pattern: String,
    tier: String,
    retain_for_ms: Option<u64>,
    retain_updates: Option<u64>,
    retain_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Planned {
    plan: SweepPlan,
}

#[derive(Deserialize)]
struct Ran {
    record: SweepRecord,
}

impl Retention {
    pub(crate) async fn run(self, server: &Server) -> Result<(), Failure> {
        match self.command {
            Command::Status(Ask { json }) => {
                let answer = admin::call(server, Method::GET, "retention", Bytes::new()).await?;
                admin::print(json, &answer, |status: Status| status_in_words(&status))
            }
            Command::Plan(Ask { json }) => {
                let answer = order(server, &json!({"dry_run": true})).await?;
                admin::print(json, &answer, |Planned { plan }| plan_in_words(&plan))
            }
            Command::Run { ask: Ask { json }, force } => {
                let answer = order(server, &json!({"force": force})).await?;
                admin::print(json, &answer, |Ran { record }| records(&[record]))
            }
        }
    }
}

async fn order(server: &Server, order: &serde_json::Value) -> Result<Bytes, Failure> {
    let body = Bytes::from(order.to_string());
    admin::call_within(SWEPT_WITHIN, server, Method::POST, "retention", body).await
}

fn status_in_words(status: &Status) -> String {
    let Status { node, leads_until, every_ms, guard_cursors, classes, records: past } = status;
    let every =
        every_ms.map_or_else(|| "by order only".to_owned(), |ms| format!("every {}", duration::shown(ms)));
    let guard =
        guard_cursors.map_or_else(|| "no guard".to_owned(), |most| format!("at most {most} stale cursors"));
    let mut out = format!("{node} sweeps {every}, with {guard}");
    out.push_str(if leads_until.is_some() { ", and does so now\n\n" } else { "\n\n" });
    let none = || "-".to_owned();
    let row = |class: &Class| {
        [
            class.class.clone(),
            class.pattern.clone(),
            class.tier.clone(),
            class.retain_for_ms.map_or_else(none, duration::shown),
            class.retain_updates.map_or_else(none, |most| most.to_string()),
            class.retain_bytes.map_or_else(none, |most| most.to_string()),
        ]
    };
    let rows: Vec<_> = classes.iter().map(row).collect();
    out.push_str(&output::table(["CLASS", "PATTERN", "TIER", "KEPT FOR", "UPDATES", "BYTES"], &rows));
    out.push('\n');
    if past.is_empty() {
        out.push_str("no sweep was recorded yet\n");
    } else {
        out.push_str(&records(past));
    }
    out
}

fn records(past: &[SweepRecord]) -> String {
    let row = |record: &SweepRecord| {
        [
            local(record.began_at),
            duration::shown(record.took_ms),
            record.trigger.as_str().to_owned(),
            record.outcome.as_str().to_owned(),
            format!("{}/{}", record.topics_trimmed, record.topics),
            record.updates.to_string(),
            record.bytes.to_string(),
            (record.stale_connected + record.stale_seen).to_string(),
            record.node.to_string(),
        ]
    };
    let rows: Vec<_> = past.iter().map(row).collect();
    let heads = ["BEGAN", "TOOK", "BY", "OUTCOME", "TOPICS", "UPDATES", "BYTES", "STALE", "NODE"];
    let mut out = output::table(heads, &rows);
    if let Some(error) = past.first().and_then(|newest| newest.error.as_ref()) {
        // Writing to a String does not fail.
        let _ = writeln!(out, "\nthe newest: {error}");
    }
    out
}

fn plan_in_words(plan: &SweepPlan) -> String {
    let moment = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), local);
    let row = |class: &khala_core::retention::ClassSwept| {
        [
            class.class.clone(),
            format!("{}/{}", class.topics_trimmed, class.topics),
            class.updates.to_string(),
            class.bytes.to_string(),
            moment(class.oldest_kept),
        ]
    };
    let rows: Vec<_> = plan.classes.iter().map(row).collect();
    let mut out = output::table(["CLASS", "TOPICS", "UPDATES", "BYTES", "OLDEST KEPT"], &rows);
    if !plan.worst.is_empty() {
        let row = |topic: &khala_core::retention::TopicPlan| {
            [
                topic.topic.to_string(),
                topic.floor.to_string(),
                topic.floor_after.to_string(),
                topic.head.to_string(),
                topic.updates.to_string(),
                topic.bytes.to_string(),
                (topic.stale_connected + topic.stale_seen).to_string(),
            ]
        };
        let rows: Vec<_> = plan.worst.iter().map(row).collect();
        let heads = ["TOPIC", "FLOOR", "AFTER", "HEAD", "UPDATES", "BYTES", "STALE"];
        out.push('\n');
        out.push_str(&output::table(heads, &rows));
    }
    let SweepPlan { stale_connected, stale_seen, updates, bytes, .. } = plan;
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "\n{} of {} would go; {} of connected clients and {} of clients that were seen recently would become stale",
        output::counted(*updates, "update"),
        output::counted(*bytes, "byte"),
        output::counted(*stale_connected, "cursor"),
        output::counted(*stale_seen, "cursor"),
    );
    if plan.held_back {
        let guard = plan.guard.unwrap_or_default();
        let _ =
            writeln!(out, "the guard (sweep.max_stale_cursors) allows {guard}: the sweep would be held back");
    }
    if let Some(error) = &plan.error {
        let _ = writeln!(out, "{} cannot be read: {error}", output::counted(plan.topics_failed, "topic"));
        for FailedTopic { topic, error, .. } in plan.failed.iter().skip(1) {
            let _ = writeln!(out, "  {topic:?}: {error}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_in_words() {
        let status = r#"{"node":"node-1","leads_until":null,"every_ms":60000,"guard_cursors":null,"seen_ms":1,"lead_ms":1,
            "classes":[{"class":"all","pattern":"**","tier":"cold","retain_for_ms":604800000,"retain_updates":null,
            "retain_bytes":9}],"records":[{"node":"node-2","began_at":0,"took_ms":12,"trigger":"order",
            "outcome":"failed","topics":3,"topics_trimmed":1,"topics_failed":1,"updates":5,"bytes":50,
            "stale_connected":1,"stale_seen":2,"classes":[],"error":"no"}]}"#;
        let status: Status = serde_json::from_str(status).unwrap();
        let began = local(Timestamp::from_millis(0));
        assert_eq!(
            status_in_words(&status),
            format!(
                "node-1 sweeps every 1m, with no guard\n\n\
                 CLASS  PATTERN  TIER  KEPT FOR  UPDATES  BYTES\n\
                 all    **       cold  7d              -      9\n\n\
                 BEGAN                    TOOK  BY     OUTCOME  TOPICS  UPDATES  BYTES  STALE  NODE\n\
                 {began}  12ms  order  failed   1/3           5     50      3  node-2\n\n\
                 the newest: no\n"
            )
        );
    }

    #[test]
    fn a_plan_is_read_in_words() {
        let plan = r#"{"at":0,"topics":1,"topics_trimmed":1,"topics_failed":0,"updates":3,"bytes":30,"stale_connected":1,
            "stale_seen":0,"guard":0,"held_back":true,"classes":[{"class":"all","topics":1,"topics_trimmed":1,
            "updates":3,"bytes":30,"oldest_kept":1000}],"worst":[{"topic":"t","class":"all","floor":0,
            "floor_after":3,"head":5,"updates":3,"bytes":30,"stale_connected":1,"stale_seen":0,
            "oldest_kept":1000}],"error":null}"#;
        let plan: SweepPlan = serde_json::from_str(plan).unwrap();
        let oldest = local(Timestamp::from_millis(1000));
        assert_eq!(
            plan_in_words(&plan),
            format!(
                "CLASS  TOPICS  UPDATES  BYTES  OLDEST KEPT\n\
                 all    1/1           3     30  {oldest}\n\n\
                 TOPIC  FLOOR  AFTER  HEAD  UPDATES  BYTES  STALE\n\
                 t          0      3     5        3     30      1\n\n\
                 3 updates of 30 bytes would go; 1 cursor of connected clients and 0 cursors of clients that were seen recently \
                 would become stale\n\
                 the guard (sweep.max_stale_cursors) allows 0: the sweep would be held back\n"
            )
        );
    }
}
