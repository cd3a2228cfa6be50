//! Two nodes: what is published at one, at the subscribers of the other.

use super::{Scale, fanout};
use crate::comparison::{fanout_servers, load::command::Pace, workload::Workload};

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let subscribers = scale.small.div_ceil(10);
    let workloads = [("nodes-50", 50.0), ("nodes-500", 500.0)].map(|(name, rate)| {
        fanout::workload(
            name,
            format!("{rate} updates/s published at one node, to {subscribers} subscribers at another"),
            "The floor is one process, with both. All processes count as the server: both nodes, and what is between them, \
             PostgreSQL with its syncs, NATS. Latency is from when an update was due, whatever became of those \
             before it."
                .to_owned(),
            fanout_servers::nodes::ALL.into(),
            fanout::Params { topics: 1, subscribers, pace: Pace::Rate(rate), seconds: scale.seconds },
        )
    });
    workloads.into()
}
