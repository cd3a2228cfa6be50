//! Reading history: all of it by one client, and the same end of it by many at once.

use super::{Scale, kept};
use crate::{
    beside::{
        alone::{self, Task},
        figures::Figures,
        generator::Generator,
        keepers::{self, Keeper},
        load::log::command::Open,
        row::{Contestant, Headline, Role, Row},
        tools::Tools,
    },
    crowd::{Failure, ensure},
};

const KEEPERS: [Keeper; 4] = [keepers::KHALA, keepers::REDIS, keepers::JETSTREAM, keepers::DURABLE_STREAMS];

const NOTE: &str = "Servers that keep updates on disk are started anew before they are read from; Redis has all in memory. Khala's \
                    clients join over WebSocket, Redis' ask for 200 at once (XREAD), each when it has those before, JetStream's have an \
                    ephemeral push consumer each, without acknowledgements and without flow control, and those of Durable Streams a \
                    GET that gives all. Every client must get every update once and in order. Latency is that of a client, \
                    from the beginning until it has all.";

#[derive(Clone, Copy, Debug)]
struct Params {
    /// Updates of the topic, and how many of these, the last ones, are read.
    kept: u64,
    read: u64,
    clients: usize,
}

pub(super) fn rows(scale: &Scale) -> Vec<Row> {
    let kept = scale.crowd as u64 * 100;
    let all = Params { kept, read: kept, clients: 1 };
    let end = Params { kept: kept / 10, read: scale.crowd as u64, clients: scale.crowd.div_ceil(5) };
    let mut contestants = vec![Contestant {
        name: "rusqlite",
        role: Role::Floor,
        over: "no server",
        durability: "SQLite file",
        measure: Box::new(move |tools| alone::run(tools, Task::RawRead { rows: kept as usize }, 0.0)),
    }];
    contestants.extend(KEEPERS.map(|keeper| contestant(keeper, all)));
    vec![
        row("replay", format!("{kept} updates to one client"), contestants),
        row(
            "replay-many",
            format!("{} clients that each read the same last {} updates", end.clients, end.read),
            KEEPERS.map(|keeper| contestant(keeper, end)).into(),
        ),
    ]
}

fn row(name: &'static str, title: String, contestants: Vec<Contestant>) -> Row {
    Row {
        name,
        title,
        unit: "an update at one client",
        headline: Headline::Cost,
        notes: vec![NOTE.to_owned(), "The last column says where it is read from.".to_owned()],
        contestants,
    }
}

fn contestant(keeper: Keeper, params: Params) -> Contestant {
    Contestant {
        name: keeper.name,
        role: keeper.role,
        over: keeper.read_over,
        durability: keeper.reads_from,
        measure: Box::new(move |tools| measure(tools, keeper, params)),
    }
}

fn measure(tools: &Tools, keeper: Keeper, params: Params) -> Result<Figures, Failure> {
    let Params { kept, read, clients } = params;
    let (mut server, mut speech) = kept::filled(tools, keeper, kept)?;
    let khala = keeper.role == Role::Khala;
    // Whether the journal is read more often for more clients is Khala's to show.
    let few: &[usize] = if khala { &[1, 20] } else { &[] };
    let few = few.iter().copied().filter(|few| *few < clients);
    let mut more = Vec::new();
    let last = clients;
    for clients in few.chain([last]) {
        let mut generator = Generator::start(tools)?;
        kept::connect(&mut generator, Open { readers: clients, ..kept::open(&speech) })?;
        let before = if khala { keepers::journal_reads(&speech)? } else { 0.0 };
        let mut figures = kept::read(&mut generator, &server, kept - read, read)?;
        let expected = read * clients as u64;
        ensure(figures.units + figures.lost == expected, || {
            format!("{} of {expected} updates came, {} were lost", figures.units, figures.lost)
        })?;
        if khala {
            more.push((
                format!("journal reads, {clients} clients"),
                keepers::journal_reads(&speech)? - before,
            ));
        }
        if clients == last {
            figures.more = more.into_iter().collect();
            return Ok(figures);
        }
        drop(generator);
        speech = kept::again(tools, keeper, &mut server)?;
    }
    Err(Failure::new("there are no clients"))
}
