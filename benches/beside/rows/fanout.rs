//! Updates from one publisher to many subscribers: at a rate that anybody keeps up with, as fast as it goes, and to many
//! topics.

use super::Scale;
use crate::{
    beside::{
        figures::Figures,
        generator::Generator,
        load::command::{Command, Open, Pace, Publish},
        peers::{self, Peer},
        row::{Contestant, Headline, Row},
        tools::Tools,
    },
    crowd::Failure,
};

/// Bytes of an update's payload.
pub(super) const PAYLOAD: usize = 200;
/// The shortest queue for connections that were not accepted yet, that of Mosquitto, is 100 long: one that finds it full comes
/// again after a second, which is the system's doing.
pub(super) const AT_ONCE: usize = 100;

/// Updates that may be under way where it goes as fast as it can.
const WINDOW: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Params {
    topics: usize,
    subscribers: usize,
    pace: Pace,
    seconds: f64,
}

pub(super) fn rows(scale: &Scale) -> Vec<Row> {
    let Scale { crowd, large, seconds, .. } = *scale;
    let one = |subscribers, pace| Params { topics: 1, subscribers, pace, seconds };
    vec![
        row(
            "fan-out",
            format!("50 updates/s to {crowd} subscribers of one topic"),
            one(crowd, Pace::Rate(50.0)),
        ),
        row(
            "fan-out-fast",
            format!("as fast as it goes to {crowd} subscribers of one topic"),
            one(crowd, Pace::Window(WINDOW)),
        ),
        row(
            "fan-out-large",
            format!("as fast as it goes to {large} subscribers of one topic"),
            one(large, Pace::Window(WINDOW)),
        ),
        row(
            "topics",
            format!("as fast as it goes to {crowd} topics with one subscriber each"),
            Params { topics: crowd, subscribers: crowd, pace: Pace::Window(WINDOW), seconds },
        ),
    ]
}

fn row(name: &'static str, title: String, params: Params) -> Row {
    let contestants = peers::all().into_iter().map(|peer| Contestant {
        name: peer.name,
        role: peer.role,
        over: peer.over,
        durability: peer.durability,
        measure: Box::new(move |tools| measure(tools, peer, params)),
    });
    Row {
        name,
        title,
        unit: "an update at one subscriber",
        headline: Headline::Cost,
        notes: Vec::new(),
        contestants: contestants.collect(),
    }
}

fn measure(tools: &Tools, peer: Peer, params: Params) -> Result<Figures, Failure> {
    let Params { topics, subscribers, pace, seconds } = params;
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
    // Buffers grow, and what compiles while it runs does.
    generator.ask(&Command::Publish(Publish { pace, seconds: seconds.min(1.0) }))?;
    generator.measure(&server, &Command::Publish(Publish { pace, seconds }))
}
