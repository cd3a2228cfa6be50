//! What workloads on keeping updates share: filling a topic, measuring appends, and counting what is there afterwards.

use khala_testing::{Failure, ensure};

use super::fanout::PAYLOAD;
use crate::comparison::{
    generator::Generator,
    load::{
        command,
        log::command::{Again, Amount, Command, Open, Order, Read, Work},
    },
    log_servers::LogServer,
    sample::Sample,
    server::Server,
    tools::Tools,
    wire::log::Protocol,
};

/// The topic of everything but what is appended beside readers.
pub(super) const TOPIC: usize = 0;

/// Nobody connected, to begin with.
pub(super) fn open(protocol: &Protocol) -> Open {
    Open {
        protocol: protocol.clone(),
        payload_bytes: PAYLOAD,
        appenders: 0,
        window: 1,
        append_to: TOPIC,
        readers: 0,
        read_from: TOPIC,
    }
}

/// Makes the connections.
pub(super) fn connect(generator: &mut Generator, open: Open) -> Result<(), Failure> {
    generator.ask(&command::Command::Log(Command::Open(open))).map(drop)
}

/// Appends for so long, with the connections that there are; the units are what was acknowledged.
pub(super) fn append(generator: &mut Generator, server: &Server, work: Work) -> Result<Sample, Failure> {
    let mut sample = generator.measure(server, &command::Command::Log(Command::Work(work)))?;
    let read = sample.units as f64;
    sample.units = sample.extra("published").unwrap_or(0.0) as u64;
    sample.extras = [("delivered".to_owned(), read)].into();
    Ok(sample)
}

/// Has every reader read that; the units are what came.
pub(super) fn read(
    generator: &mut Generator,
    server: &Server,
    first: u64,
    count: u64,
) -> Result<Sample, Failure> {
    let read = Read { first, count, order: Order::ByNumber, again: Again::Never };
    let work = Work { read: Some(read), append: None };
    let mut sample = generator.measure(server, &command::Command::Log(Command::Work(work)))?;
    sample.extras.clear();
    Ok(sample)
}

/// How many of `count` acknowledged updates are not in the topic.
pub(super) fn missing(tools: &Tools, protocol: &Protocol, topic: usize, count: u64) -> Result<u64, Failure> {
    let mut generator = Generator::start(tools)?;
    connect(&mut generator, Open { readers: 1, read_from: topic, ..open(protocol) })?;
    let read = Read { first: 0, count, order: Order::Any, again: Again::Never };
    let work = Work { read: Some(read), append: None };
    let done = generator.ask(&command::Command::Log(Command::Work(work)))?;
    Ok(done.lost + done.disordered)
}

/// A server with `count` updates in a topic, started anew if it reads from disk.
pub(super) fn filled(
    tools: &Tools,
    log_server: LogServer,
    count: u64,
) -> Result<(Server, Protocol), Failure> {
    let mut server = Server::new(tools.target())?;
    let protocol = (log_server.start)(tools, &mut server)?;
    let mut generator = Generator::start(tools)?;
    let filling = Open { appenders: 1, window: 1_024, ..open(&protocol.clone().streaming()) };
    connect(&mut generator, filling)?;
    let work = Work { append: Some(Amount::Updates(count)), read: None };
    let done = generator.ask(&command::Command::Log(Command::Work(work)))?;
    ensure(done.published == count, || format!("{} updates were appended, not {count}", done.published))?;
    drop(generator);
    let protocol = if log_server.starts_cold { again(tools, log_server, &mut server)? } else { protocol };
    Ok((server, protocol))
}

/// Starts it anew.
pub(super) fn again(tools: &Tools, log_server: LogServer, server: &mut Server) -> Result<Protocol, Failure> {
    server.end()?;
    (log_server.start)(tools, server)
}
