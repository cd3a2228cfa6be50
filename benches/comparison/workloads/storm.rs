//! The storm: every connection is cut at once, updates are published meanwhile, and everybody comes back at once.

use khala_testing::{Failure, ensure, usage::dropped_handshakes};

use super::{
    Scale,
    fanout::{AT_ONCE, DROPPED, PAYLOAD},
};
use crate::comparison::{
    fanout_servers::{self, FanoutServer},
    generator::Generator,
    load::command::{Command, Open, Pace, Publish},
    sample::Sample,
    tools::Tools,
    workload::{Headline, Workload},
};

const BACK: &str = "everybody back after";
/// What each subscriber misses, where there is history.
const MISSED: usize = 100;

#[derive(Clone, Copy, Debug)]
struct Params {
    topics: usize,
    subscribers: usize,
    /// Of each topic.
    missed: usize,
}

pub(super) fn workload(scale: &Scale) -> Workload {
    let subscribers = scale.large;
    let params = Params { topics: (subscribers / 100).max(1), subscribers, missed: MISSED };
    let competitors = fanout_servers::all()
        .into_iter()
        .map(|server| server.competitor(move |tools, server| measure(tools, server, params)));
    Workload {
        name: "storm",
        title: format!("{subscribers} connections, on {} topics, cut and back at once", params.topics),
        unit: "a connection that came back",
        headline: Headline::extra(BACK, "seconds"),
        notes: vec![format!(
            "Khala's subscribers come back with their cursors and are up to date when they have the {MISSED} updates that were \
             published to their topics meanwhile. All others keep no history: their subscribers have lost those, and are \
             back when they are subscribed. At most {AT_ONCE} handshakes are under way at once, as Mosquitto queues no more. \
             Latency is that of one subscriber, from the beginning."
        )],
        competitors: competitors.collect(),
    }
}

fn measure(tools: &Tools, fanout_server: FanoutServer, params: Params) -> Result<Sample, Failure> {
    let Params { topics, subscribers, missed } = params;
    let (server, protocol) = (fanout_server.start)(tools)?;
    let mut generator = Generator::start(tools)?;
    generator.ask(&Command::Open(Open {
        protocol,
        topics,
        subscribers,
        payload_bytes: PAYLOAD,
        at_once: AT_ONCE,
        publishes: true,
    }))?;
    let cut = generator.measure(&server, &Command::Cut)?;
    if fanout_server.keeps_history {
        let (pace, seconds) = (Pace::Rate(5_000.0), (topics * missed) as f64 / 5_000.0);
        generator.ask(&Command::Publish(Publish { pace, seconds }))?;
    }
    let dropped = dropped_handshakes();
    let mut sample = generator.measure(&server, &Command::Return)?;
    let dropped = dropped_handshakes() - dropped;
    let expected = if fanout_server.keeps_history { (subscribers * missed) as u64 } else { 0 };
    ensure(sample.units == expected, || {
        format!("{} updates came after the cut, not {expected}", sample.units)
    })?;
    sample.server_cpu_seconds += cut.server_cpu_seconds;
    sample.units = subscribers as u64;
    sample.extras = [
        (BACK.to_owned(), sample.wall_seconds),
        ("updates caught up".to_owned(), expected as f64),
        (DROPPED.to_owned(), dropped as f64),
    ]
    .into();
    Ok(sample)
}
