//! What rows on keeping updates share: filling a topic, measuring appends, and counting what is there afterwards.

use super::fanout::PAYLOAD;
use crate::{
    beside::{
        child::Server,
        figures::Figures,
        generator::Generator,
        keepers::Keeper,
        load::{
            command,
            log::command::{Again, Amount, Command, Open, Order, Read, Work},
        },
        tools::Tools,
        wire::log::Speech,
    },
    crowd::{Failure, ensure},
};

/// The topic of everything but what is appended beside readers.
pub(super) const TOPIC: usize = 0;

/// Nobody connected, to begin with.
pub(super) fn open(speech: &Speech) -> Open {
    Open {
        speech: speech.clone(),
        payload_bytes: PAYLOAD,
        appenders: 0,
        window: 1,
        batch: 1,
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
pub(super) fn append(generator: &mut Generator, server: &Server, work: Work) -> Result<Figures, Failure> {
    let mut figures = generator.measure(server, &command::Command::Log(Command::Work(work)))?;
    let read = figures.units as f64;
    figures.units = figures.extra("published").unwrap_or(0.0) as u64;
    figures.more = [("delivered".to_owned(), read)].into();
    Ok(figures)
}

/// Has every reader read that; the units are what came.
pub(super) fn read(
    generator: &mut Generator,
    server: &Server,
    first: u64,
    count: u64,
) -> Result<Figures, Failure> {
    let read = Read { first, count, order: Order::ByNumber, again: Again::Never };
    let work = Work { read: Some(read), append: None };
    let mut figures = generator.measure(server, &command::Command::Log(Command::Work(work)))?;
    figures.more.clear();
    Ok(figures)
}

/// How many of so many acknowledged updates are not in the topic.
pub(super) fn missing(tools: &Tools, speech: &Speech, topic: usize, count: u64) -> Result<u64, Failure> {
    let mut generator = Generator::start(tools)?;
    connect(&mut generator, Open { readers: 1, read_from: topic, ..open(speech) })?;
    let read = Read { first: 0, count, order: Order::Any, again: Again::Never };
    let work = Work { read: Some(read), append: None };
    let done = generator.ask(&command::Command::Log(Command::Work(work)))?;
    Ok(done.lost + done.disordered)
}

/// A server with so many updates in a topic, started anew if it reads from disk.
pub(super) fn filled(tools: &Tools, keeper: Keeper, count: u64) -> Result<(Server, Speech), Failure> {
    let mut server = Server::new(tools.target())?;
    let speech = (keeper.start)(tools, &mut server)?;
    let mut generator = Generator::start(tools)?;
    let (window, batch) = if keeper.fill_batch > 1 { (1, keeper.fill_batch) } else { (1_024, 1) };
    let filling = Open { appenders: 1, window, batch, ..open(&speech.clone().streaming()) };
    connect(&mut generator, filling)?;
    let work = Work { append: Some(Amount::Updates(count)), read: None };
    let done = generator.ask(&command::Command::Log(Command::Work(work)))?;
    ensure(done.published == count, || format!("{} updates were appended, not {count}", done.published))?;
    drop(generator);
    let speech = if keeper.starts_cold { again(tools, keeper, &mut server)? } else { speech };
    Ok((server, speech))
}

/// Starts it anew.
pub(super) fn again(tools: &Tools, keeper: Keeper, server: &mut Server) -> Result<Speech, Failure> {
    server.end()?;
    (keeper.start)(tools, server)
}
