//! Reading history: all of it by one client, and the same end of it by many at once.

use khala_testing::{Failure, ensure};

use super::{Scale, log};
use crate::comparison::{
    embedded::{self, Task},
    generator::Generator,
    load::log::command::Open,
    log_servers::{self, LogServer},
    sample::Sample,
    tools::Tools,
    workload::{Competitor, Headline, Role, Workload},
};

const LOG_SERVERS: [LogServer; 3] = [log_servers::KHALA, log_servers::REDIS, log_servers::JETSTREAM];

const NOTE: &str = "Servers that keep updates on disk are started anew before they are read from; Redis has all in memory. Khala's \
                    clients join over WebSocket, Redis' ask for 200 at once (XREAD), each when it has those before, and \
                    JetStream's have an ephemeral push consumer each, without acknowledgements and without flow control. Every client must get every update once and in order. Latency is that of a client, \
                    from the beginning until it has all.";

#[derive(Clone, Copy, Debug)]
struct Params {
    /// Updates of the topic, and how many of these, the last ones, are read.
    kept: u64,
    read: u64,
    clients: usize,
}

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let kept = scale.small as u64 * 100;
    let all = Params { kept, read: kept, clients: 1 };
    let end = Params { kept: kept / 10, read: scale.small as u64, clients: scale.small.div_ceil(5) };
    let mut competitors = vec![Competitor {
        name: "rusqlite",
        role: Role::Floor,
        over: "no server",
        durability: "SQLite file",
        measure: Box::new(move |tools| embedded::run(tools, Task::FloorRead { rows: kept as usize }, 0.0)),
    }];
    competitors.extend(LOG_SERVERS.map(|log_server| competitor(log_server, all)));
    vec![
        workload("replay", format!("{kept} updates to one client"), competitors),
        workload(
            "replay-many",
            format!("{} clients that each read the same last {} updates", end.clients, end.read),
            LOG_SERVERS.map(|log_server| competitor(log_server, end)).into(),
        ),
    ]
}

fn workload(name: &'static str, title: String, competitors: Vec<Competitor>) -> Workload {
    Workload {
        name,
        title,
        unit: "an update at one client",
        headline: Headline::Cost,
        notes: vec![NOTE.to_owned(), "The last column says where it is read from.".to_owned()],
        competitors,
    }
}

fn competitor(log_server: LogServer, params: Params) -> Competitor {
    let LogServer { read_over, reads_from, .. } = log_server;
    log_server.competitor(read_over, reads_from, move |tools, server| measure(tools, server, params))
}

fn measure(tools: &Tools, log_server: LogServer, params: Params) -> Result<Sample, Failure> {
    let Params { kept, read, clients } = params;
    let (mut server, mut protocol) = log::filled(tools, log_server, kept)?;
    let khala = log_server.role == Role::Khala;
    // Whether the journal is read more often for more clients is Khala's to show.
    let few: &[usize] = if khala { &[1, 20] } else { &[] };
    let few = few.iter().copied().filter(|few| *few < clients);
    let mut more = Vec::new();
    let last = clients;
    for clients in few.chain([last]) {
        let mut generator = Generator::start(tools)?;
        log::connect(&mut generator, Open { readers: clients, ..log::open(&protocol) })?;
        let before = if khala { log_servers::journal_reads(&protocol)? } else { 0.0 };
        let mut sample = log::read(&mut generator, &server, kept - read, read)?;
        let expected = read * clients as u64;
        ensure(sample.units + sample.lost == expected, || {
            format!("{} of {expected} updates came, {} were lost", sample.units, sample.lost)
        })?;
        if khala {
            more.push((
                format!("journal reads, {clients} clients"),
                log_servers::journal_reads(&protocol)? - before,
            ));
        }
        if clients == last {
            sample.extras = more.into_iter().collect();
            return Ok(sample);
        }
        drop(generator);
        protocol = log::again(tools, log_server, &mut server)?;
    }
    Err(Failure::new("there are no clients"))
}
