//! Updates that are acknowledged when they are stored: many connections with one under way each, and one connection that
//! streams.

use super::{Scale, kept};
use crate::{
    beside::{
        alone::{self, Task},
        child::Server,
        figures::Figures,
        generator::Generator,
        keepers::{self, Keeper},
        load::log::command::{Amount, Open, Work},
        pgbench,
        row::{Contestant, Headline, Role, Row},
        tools::Tools,
    },
    crowd::Failure,
};

/// Connections where each waits for its answer.
const CONNECTIONS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Params {
    connections: usize,
    window: usize,
    seconds: f64,
}

pub(super) fn rows(scale: &Scale) -> Vec<Row> {
    let seconds = scale.seconds;
    let mut rows = vec![each(seconds)];
    rows.extend([("append-stream-64", 64), ("append-stream-1024", 1_024)].map(|(name, window)| {
        let params = Params { connections: 1, window, seconds };
        let mut contestants = vec![raw("rusqlite", window, seconds)];
        let stream = |keeper: Keeper| match keeper.role {
            Role::Khala => Keeper { append_over: "HTTP, x-ndjson", ..keeper },
            _ => keeper,
        };
        let keepers = [
            keepers::KHALA,
            keepers::KHALA_POSTGRES,
            keepers::REDIS_ALWAYS,
            keepers::REDIS_EVERYSEC,
            keepers::JETSTREAM,
            keepers::JETSTREAM_SYNCED,
        ];
        contestants.extend(keepers.map(|keeper| served(stream(keeper), params)));
        row(
            name,
            format!("one connection that appends with {window} under way"),
            format!(
                "The next update is sent when one is acknowledged. The floor has transactions of {window} rows, without an order to \
                 keep or anybody to answer."
            ),
            contestants,
        )
    }));
    rows
}

fn each(seconds: f64) -> Row {
    let params = Params { connections: CONNECTIONS, window: 1, seconds };
    let mut contestants = vec![
        raw("rusqlite", 1, seconds),
        Contestant {
            name: "fdatasync",
            role: Role::Floor,
            over: "no server",
            durability: "each payload synced to disk",
            measure: Box::new(move |tools| alone::run(tools, Task::Sync, seconds)),
        },
        Contestant {
            name: "postgres",
            role: Role::Floor,
            over: "pgbench",
            durability: "each row synced to disk (synchronous_commit=on)",
            measure: Box::new(move |tools| pgbench::inserts(tools, CONNECTIONS, seconds)),
        },
    ];
    let keepers = [
        keepers::KHALA,
        keepers::KHALA_POSTGRES,
        keepers::REDIS_ALWAYS,
        keepers::REDIS_EVERYSEC,
        keepers::JETSTREAM,
        keepers::JETSTREAM_SYNCED,
        keepers::DURABLE_STREAMS,
    ];
    contestants.extend(keepers.map(|keeper| served(keeper, params)));
    row(
        "append",
        format!("{CONNECTIONS} connections that append, each with one update under way"),
        format!(
            "All append to one topic. Floors: one thread with a synced transaction for each row; one that syncs a file for each \
             payload; and {CONNECTIONS} clients of PostgreSQL, each transaction one plain insert. Latency is from when an update \
             was sent, as each waits for the one before it."
        ),
        contestants,
    )
}

/// Rows into a plain table of SQLite.
pub(super) fn raw(name: &'static str, per_transaction: usize, seconds: f64) -> Contestant {
    Contestant {
        name,
        role: Role::Floor,
        over: "no server",
        durability: "each transaction synced to disk (synchronous=FULL)",
        measure: Box::new(move |tools| alone::run(tools, Task::RawAppend { per_transaction }, seconds)),
    }
}

fn row(name: &'static str, title: String, note: String, contestants: Vec<Contestant>) -> Row {
    let counted =
        "What was acknowledged is read again afterwards, all of it: what is missing counts as lost."
            .to_owned();
    Row {
        name,
        title,
        unit: "an update that was acknowledged",
        headline: Headline::Cost,
        notes: vec![note, counted],
        contestants,
    }
}

fn served(keeper: Keeper, params: Params) -> Contestant {
    Contestant {
        name: keeper.name,
        role: keeper.role,
        over: keeper.append_over,
        durability: keeper.durability,
        measure: Box::new(move |tools| measure(tools, keeper, params)),
    }
}

fn measure(tools: &Tools, keeper: Keeper, params: Params) -> Result<Figures, Failure> {
    let Params { connections, window, seconds } = params;
    let mut server = Server::new(tools.target())?;
    let speech = (keeper.start)(tools, &mut server)?;
    let speech = if connections == 1 { speech.streaming() } else { speech };
    let mut generator = Generator::start(tools)?;
    kept::connect(&mut generator, Open { appenders: connections, window, ..kept::open(&speech) })?;
    let work = |seconds| Work { append: Some(Amount::Seconds(seconds)), read: None };
    // Buffers grow, and what is compiled while it runs is, before it is measured.
    let warm = kept::append(&mut generator, &server, work(seconds.min(1.0)))?;
    let mut figures = kept::append(&mut generator, &server, work(seconds))?;
    figures.more.clear();
    drop(generator);
    figures.lost += kept::missing(tools, &speech, kept::TOPIC, warm.units + figures.units)?;
    Ok(figures)
}
