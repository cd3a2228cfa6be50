//! Updates from one publisher to many subscribers: at a rate that anybody keeps up with, as fast as it goes, and to many
//! topics.

use khala_testing::Failure;

use super::Scale;
use crate::comparison::{
    fanout_servers::{self, FanoutServer, khala},
    generator::Generator,
    load::command::{Command, Open, Pace, Publish},
    sample::Sample,
    tools::Tools,
    workload::{Headline, Workload},
};

/// Bytes of an update's payload.
pub(super) const PAYLOAD: usize = 200;
/// The shortest queue for connections that were not accepted yet, that of Mosquitto, is 100 long: one that finds it full comes
/// again after a second, which is the system's doing.
pub(super) const AT_ONCE: usize = 100;

/// How often such a queue was full all the same, on the whole machine.
pub(super) const DROPPED: &str = "handshakes dropped";

#[derive(Clone, Copy, Debug)]
pub(super) struct Params {
    pub(super) topics: usize,
    pub(super) subscribers: usize,
    pub(super) pace: Pace,
    pub(super) seconds: f64,
}

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let Scale { small, large, window, seconds, .. } = *scale;
    let params = Params { topics: 1, subscribers: small, pace: Pace::Window(window), seconds };
    let fast = format!(
        "At most {window} updates are under way that not all of their subscribers have, for everybody alike, so that nobody \
         has to drop any. Latency is from when the generator published an update; it is that of a full window."
    );
    vec![
        workload(
            "fan-out",
            format!("50 updates/s to {small} subscribers of one topic"),
            "Latency is from when an update was due, whatever became of those before it.".to_owned(),
            fanout_servers::all_and_posts(),
            Params { pace: Pace::Rate(50.0), ..params },
        ),
        workload(
            "fan-out-fast",
            format!("as fast as it goes to {small} subscribers of one topic"),
            fast.clone(),
            fanout_servers::all(),
            params,
        ),
        workload(
            "fan-out-large",
            format!("as fast as it goes to {large} subscribers of one topic"),
            fast.clone(),
            fanout_servers::all(),
            Params { subscribers: large, ..params },
        ),
        workload(
            "topics",
            format!("as fast as it goes to {small} topics with one subscriber each"),
            fast,
            fanout_servers::all(),
            Params { topics: small, ..params },
        ),
    ]
}

pub(super) fn workload(
    name: &'static str,
    title: String,
    note: String,
    servers: Vec<FanoutServer>,
    params: Params,
) -> Workload {
    let competitors = servers
        .into_iter()
        .map(|server| server.competitor(move |tools, server| measure(tools, server, params)));
    Workload {
        name,
        title,
        unit: "an update at one subscriber",
        headline: Headline::Cost,
        notes: vec![note],
        competitors: competitors.collect(),
    }
}

fn measure(tools: &Tools, fanout_server: FanoutServer, params: Params) -> Result<Sample, Failure> {
    let Params { topics, subscribers, pace, seconds } = params;
    let (server, protocol) = (fanout_server.start)(tools)?;
    let khala = protocol.khala().map(|(address, token)| (address, token.to_owned()));
    let reads = || khala.as_ref().map(|(address, token)| khala::journal_reads(*address, token)).transpose();
    let mut generator = Generator::start(tools)?;
    generator.ask(&Command::Open(Open {
        protocol,
        topics,
        subscribers,
        payload_bytes: PAYLOAD,
        at_once: AT_ONCE,
        publishes: true,
    }))?;
    // Buffers grow, and what is compiled while it runs is, before it is measured.
    let warm = match pace {
        Pace::Rate(_) => pace,
        Pace::Window(updates) => Pace::Window(updates.div_ceil(8)),
    };
    generator.ask(&Command::Publish(Publish { pace: warm, seconds: seconds.min(1.0) }))?;
    let before = reads()?;
    let mut sample = generator.measure(&server, &Command::Publish(Publish { pace, seconds }))?;
    if let (Some(before), Some(after)) = (before, reads()?) {
        let published = sample.extra("published").unwrap_or(0.0).max(1.0);
        sample.extras.insert("journal reads an update".to_owned(), (after - before) / published);
    }
    Ok(sample)
}
