//! Connections that do nothing: what each takes of the server's memory, with a topic of its own.

use std::{thread::sleep, time::Duration};

use super::{
    Scale,
    fanout::{AT_ONCE, DROPPED, PAYLOAD},
};
use crate::{
    beside::{
        figures::Figures,
        generator::Generator,
        load::command::{Command, Open},
        peers::{self, Peer},
        row::{Contestant, Headline, Row},
        tools::Tools,
    },
    crowd::{Failure, dropped_handshakes},
};

const EACH: &str = "resident memory of a connection";
/// What is given back after connecting is, by then.
const SETTLED: Duration = Duration::from_secs(2);

pub(super) fn row(scale: &Scale) -> Row {
    let (connections, settled) = (scale.large, SETTLED.min(Duration::from_secs_f64(scale.seconds)));
    let contestants = peers::all().into_iter().map(|peer| Contestant {
        name: peer.name,
        role: peer.role,
        over: peer.over,
        durability: peer.durability,
        measure: Box::new(move |tools| measure(tools, peer, connections, settled)),
    });
    Row {
        name: "idle",
        title: format!("{connections} connections with a topic each, idle"),
        unit: "a connection that was opened and has joined its topic",
        headline: Headline::More(EACH, "KiB"),
        notes: vec![
            "Memory is that of the server's processes, resident, after less before, by connection; what the system's \
             sockets take is not in it."
                .to_owned(),
        ],
        contestants: contestants.collect(),
    }
}

fn measure(tools: &Tools, peer: Peer, connections: usize, settled: Duration) -> Result<Figures, Failure> {
    let (server, speech) = (peer.start)(tools)?;
    let mut generator = Generator::start(tools)?;
    let open = |subscribers| {
        Command::Open(Open {
            speech: speech.clone(),
            topics: connections,
            subscribers,
            payload_bytes: PAYLOAD,
            at_once: AT_ONCE,
            publishes: false,
        })
    };
    // A few before, so that what a server makes once is not counted as theirs. They are closed by the next crowd.
    generator.ask(&open(10))?;
    sleep(settled);
    let before = server.usage()?;
    let dropped = dropped_handshakes();
    let mut figures = generator.measure(&server, &open(connections))?;
    let dropped = dropped_handshakes() - dropped;
    sleep(settled);
    let after = server.usage()?;
    figures.units = connections as u64;
    figures.resident_bytes = after.resident;
    let each = after.resident.saturating_sub(before.resident) as f64 / connections as f64 / 1_024.0;
    figures.more = [(EACH.to_owned(), each), (DROPPED.to_owned(), dropped as f64)].into();
    Ok(figures)
}
