//! `khala stats`: how delivery does on a node, in sums and by topic, and whether what wakes the node up works.

use bytes::Bytes;
use clap::Args;
use http::Method;
use khala_core::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::{admin, duration::number, exit::Failure, moment::local, output, server::Server};

/// Show how delivery does on one node
///
/// Topics with the most incidents come first, then those whose slowest follower is farthest behind. An incident is a broken rule: a
/// publish above the rate, a stale cursor, an evicted slow consumer. On a terminal tables, else one JSON object: "topics", "delivery" and
/// "hooks". It needs an admin token.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala stats
  khala stats --topics 100
  khala stats --json | jq .delivery.slow_evictions")]
pub(crate) struct Stats {
    /// How many topics to show
    #[arg(long, value_name = "N", default_value = "20", value_parser = number(1..=1000))]
    topics: u64,
    /// JSON, on a terminal too
    #[arg(long)]
    json: bool,
}

/// Both answers.
#[derive(Deserialize)]
struct Told {
    topics: Vec<Topic>,
    delivery: Delivery,
    hooks: Vec<Hook>,
}

#[derive(Deserialize)]
struct Topic {
    topic: String,
    class: Option<String>,
    floor: u64,
    head: u64,
    lag: u64,
    connected: u64,
    /// How often each rule was broken.
    incidents: std::collections::BTreeMap<String, u64>,
    last_reason: Option<String>,
    last_at: Option<u64>,
}

#[derive(Deserialize)]
struct Delivery {
    connections: u64,
    channels: u64,
    behind: u64,
    slow_evictions: u64,
    stale_cursors: u64,
    outbox_bytes: u64,
    storms: Storms,
}

#[derive(Deserialize)]
struct Storms {
    deferred: u64,
}

#[derive(Deserialize)]
struct Hook {
    hook: String,
    announced: u64,
    announce_failures: u64,
    heard: u64,
    poll_finds: u64,
}

impl Stats {
    pub(crate) async fn run(self, server: &Server) -> Result<(), Failure> {
        let path = format!("fanout/metrics?topic_limit={}", self.topics);
        let mut all: Value = admin::read(&admin::call(server, Method::GET, &path, Bytes::new()).await?)?;
        let hooks: Value =
            admin::read(&admin::call(server, Method::GET, "fanout/hooks", Bytes::new()).await?)?;
        all["hooks"] = hooks["hooks"].clone();
        admin::print(self.json, all.to_string().as_bytes(), |told: Told| in_words(&told))
    }
}

fn in_words(told: &Told) -> String {
    let Told { topics, delivery, hooks } = told;
    let Delivery { connections, channels, behind, slow_evictions, stale_cursors, outbox_bytes, storms } =
        delivery;
    let sums = [
        ("connections", connections),
        ("topics that they follow", channels),
        ("of these, read from the journal", behind),
        ("bytes held for slow consumers", outbox_bytes),
        ("slow consumers evicted", slow_evictions),
        ("stale cursors", stale_cursors),
        ("joins told to come back later", &storms.deferred),
    ];
    let width = sums.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut out: String = sums.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect();
    let rows: Vec<_> = hooks
        .iter()
        .map(|hook| {
            let counts = [hook.announced, hook.announce_failures, hook.heard, hook.poll_finds];
            let [announced, failures, heard, missed] = counts.map(|count| count.to_string());
            [hook.hook.clone(), announced, failures, heard, missed]
        })
        .collect();
    out.push('\n');
    out.push_str(&output::table(["ANNOUNCEMENTS", "SENT", "FAILED", "HEARD", "MISSED"], &rows));
    if !topics.is_empty() {
        let rows: Vec<_> = topics.iter().map(row).collect();
        out.push('\n');
        let heads = ["TOPIC", "CLASS", "FLOOR", "HEAD", "FOLLOWERS", "LAG", "INCIDENTS", "LAST INCIDENT"];
        out.push_str(&output::table(heads, &rows));
    }
    out
}

fn row(topic: &Topic) -> [String; 8] {
    let last = match (&topic.last_reason, topic.last_at) {
        (Some(reason), Some(at)) => format!("{reason}, {}", local(Timestamp::from_millis(at))),
        _ => "-".to_owned(),
    };
    [
        topic.topic.clone(),
        topic.class.clone().unwrap_or_else(|| "-".to_owned()),
        topic.floor.to_string(),
        topic.head.to_string(),
        topic.connected.to_string(),
        topic.lag.to_string(),
        topic.incidents.values().sum::<u64>().to_string(),
        last,
    ]
}
