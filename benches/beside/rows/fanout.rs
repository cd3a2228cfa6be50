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

/// How often such a queue was full all the same, on the whole machine.
pub(super) const DROPPED: &str = "handshakes dropped";

#[derive(Clone, Copy, Debug)]
pub(super) struct Params {
    pub(super) topics: usize,
    pub(super) subscribers: usize,
    pub(super) pace: Pace,
    pub(super) seconds: f64,
}

pub(super) fn rows(scale: &Scale) -> Vec<Row> {
    let Scale { crowd, large, window, seconds, .. } = *scale;
    let params = Params { topics: 1, subscribers: crowd, pace: Pace::Window(window), seconds };
    let fast = format!(
        "At most {window} updates are under way that not all of their subscribers have, for everybody alike, so that nobody \
         has to drop any. Latency is from when the generator published an update; it is that of a full window."
    );
    vec![
        row(
            "fan-out",
            format!("50 updates/s to {crowd} subscribers of one topic"),
            "Latency is from when an update was due, whatever became of those before it.".to_owned(),
            peers::all_and_posts(),
            Params { pace: Pace::Rate(50.0), ..params },
        ),
        row(
            "fan-out-fast",
            format!("as fast as it goes to {crowd} subscribers of one topic"),
            fast.clone(),
            peers::all(),
            params,
        ),
        row(
            "fan-out-large",
            format!("as fast as it goes to {large} subscribers of one topic"),
            fast.clone(),
            peers::all(),
            Params { subscribers: large, ..params },
        ),
        row(
            "topics",
            format!("as fast as it goes to {crowd} topics with one subscriber each"),
            fast,
            peers::all(),
            Params { topics: crowd, ..params },
        ),
    ]
}

pub(super) fn row(name: &'static str, title: String, note: String, peers: Vec<Peer>, params: Params) -> Row {
    let contestants = peers.into_iter().map(|peer| Contestant {
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
        notes: vec![note],
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
    // Buffers grow, and what is compiled while it runs is, before it is measured.
    let warm = match pace {
        Pace::Rate(_) => pace,
        Pace::Window(updates) => Pace::Window(updates.div_ceil(8)),
    };
    generator.ask(&Command::Publish(Publish { pace: warm, seconds: seconds.min(1.0) }))?;
    generator.measure(&server, &Command::Publish(Publish { pace, seconds }))
}
