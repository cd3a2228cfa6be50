//! Connections that do nothing: what each takes of the server's memory, with a topic of its own.

use std::{thread::sleep, time::Duration};

use khala_testing::{Failure, usage::dropped_handshakes};

use super::{
    Scale,
    fanout::{AT_ONCE, DROPPED, PAYLOAD},
};
use crate::comparison::{
    fanout_servers::{self, FanoutServer},
    generator::Generator,
    load::command::{Command, Open},
    sample::Sample,
    tools::Tools,
    workload::{Headline, Workload},
};

const EACH: &str = "resident memory of a connection";
/// What is given back after connecting is, by then.
const SETTLED: Duration = Duration::from_secs(2);

pub(super) fn workload(scale: &Scale) -> Workload {
    let (connections, settled) = (scale.large, SETTLED.min(Duration::from_secs_f64(scale.seconds)));
    let competitors = fanout_servers::all()
        .into_iter()
        .map(|server| server.competitor(move |tools, server| measure(tools, server, connections, settled)));
    Workload {
        name: "idle",
        title: format!("{connections} connections with a topic each, idle"),
        unit: "a connection that was opened and has joined its topic",
        headline: Headline::extra(EACH, "KiB"),
        notes: vec![
            "Memory is that of the server's processes, resident, after less before, by connection; what the system's \
             sockets take is not in it."
                .to_owned(),
        ],
        competitors: competitors.collect(),
    }
}

fn measure(
    tools: &Tools,
    fanout_server: FanoutServer,
    connections: usize,
    settled: Duration,
) -> Result<Sample, Failure> {
    let (server, protocol) = (fanout_server.start)(tools)?;
    let mut generator = Generator::start(tools)?;
    let open = |subscribers| {
        Command::Open(Open {
            protocol: protocol.clone(),
            topics: connections,
            subscribers,
            payload_bytes: PAYLOAD,
            at_once: AT_ONCE,
            publishes: false,
        })
    };
    // A few before, so that what a server makes once is not counted as theirs. They are closed by the next small.
    generator.ask(&open(10))?;
    sleep(settled);
    let before = server.usage()?;
    let dropped = dropped_handshakes();
    let mut sample = generator.measure(&server, &open(connections))?;
    let dropped = dropped_handshakes() - dropped;
    sleep(settled);
    let after = server.usage()?;
    sample.units = connections as u64;
    sample.resident_bytes = after.resident;
    let each = after.resident.saturating_sub(before.resident) as f64 / connections as f64 / 1_024.0;
    sample.extras = [(EACH.to_owned(), each), (DROPPED.to_owned(), dropped as f64)].into();
    Ok(sample)
}
