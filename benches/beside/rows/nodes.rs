//! Two nodes: what is published at one, at the subscribers of the other.

use super::{Scale, fanout};
use crate::beside::{load::command::Pace, peers, row::Row};

pub(super) fn rows(scale: &Scale) -> Vec<Row> {
    let subscribers = scale.crowd.div_ceil(10);
    let rows = [("nodes-50", 50.0), ("nodes-500", 500.0)].map(|(name, rate)| {
        fanout::row(
            name,
            format!("{rate} updates/s published at one node, to {subscribers} subscribers at another"),
            "The floor is one process, with both. All processes count as the server: both nodes, and what is between them, \
             PostgreSQL with its syncs, NATS, Redis. Latency is from when an update was due, whatever became of those \
             before it."
                .to_owned(),
            peers::nodes::ALL.into(),
            fanout::Params { topics: 1, subscribers, pace: Pace::Rate(rate), seconds: scale.seconds },
        )
    });
    rows.into()
}
