//! The storm: every connection is cut at once, updates are published meanwhile, and everybody comes back at once.

use super::{
    Scale,
    fanout::{AT_ONCE, DROPPED, PAYLOAD},
};
use crate::{
    beside::{
        figures::Figures,
        generator::Generator,
        load::command::{Command, Open, Pace, Publish},
        peers::{self, Peer},
        row::{Contestant, Headline, Row},
        tools::Tools,
    },
    crowd::{Failure, dropped_handshakes, ensure},
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

pub(super) fn row(scale: &Scale) -> Row {
    let subscribers = scale.large;
    let params = Params { topics: (subscribers / 100).max(1), subscribers, missed: MISSED };
    let contestants = peers::all().into_iter().map(|peer| Contestant {
        name: peer.name,
        role: peer.role,
        over: peer.over,
        durability: peer.durability,
        measure: Box::new(move |tools| measure(tools, peer, params)),
    });
    Row {
        name: "storm",
        title: format!("{subscribers} connections, on {} topics, cut and back at once", params.topics),
        unit: "a connection that came back",
        headline: Headline::More(BACK, "seconds"),
        notes: vec![format!(
            "Khala's subscribers come back with their cursors and are up to date when they have the {MISSED} updates that were \
             published to their topics meanwhile. All others keep no history: their subscribers have lost those, and are \
             back when they are subscribed. At most {AT_ONCE} handshakes are under way at once, as Mosquitto queues no more. \
             Latency is that of one subscriber, from the beginning."
        )],
        contestants: contestants.collect(),
    }
}

fn measure(tools: &Tools, peer: Peer, params: Params) -> Result<Figures, Failure> {
    let Params { topics, subscribers, missed } = params;
    let (server, speech) = (peer.start)(tools)?;
    let mut generator = Generator::start(tools)?;
    generator.ask(&Command::Open(Open {
        speech,
        topics,
        subscribers,
        payload_bytes: PAYLOAD,
        at_once: AT_ONCE,
        publishes: true,
    }))?;
    let cut = generator.measure(&server, &Command::Cut)?;
    if peer.keeps_history {
        let (pace, seconds) = (Pace::Rate(5_000.0), (topics * missed) as f64 / 5_000.0);
        generator.ask(&Command::Publish(Publish { pace, seconds }))?;
    }
    let dropped = dropped_handshakes();
    let mut figures = generator.measure(&server, &Command::Return)?;
    let dropped = dropped_handshakes() - dropped;
    let expected = if peer.keeps_history { (subscribers * missed) as u64 } else { 0 };
    ensure(figures.units == expected, || {
        format!("{} updates came after the cut, not {expected}", figures.units)
    })?;
    figures.server_cpu_seconds += cut.server_cpu_seconds;
    figures.units = subscribers as u64;
    figures.more = [
        (BACK.to_owned(), figures.wall_seconds),
        ("updates caught up".to_owned(), expected as f64),
        (DROPPED.to_owned(), dropped as f64),
    ]
    .into();
    Ok(figures)
}
