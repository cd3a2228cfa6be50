//! Appending while others read history over and over: what that costs those who append.

use std::{thread, time::Duration};

use super::{Scale, kept};
use crate::{
    beside::{
        figures::Figures,
        generator::Generator,
        keepers::{self, Keeper},
        load::log::command::{Again, Amount, Open, Order, Read, Work},
        row::{Contestant, Headline, Row},
        tools::Tools,
    },
    crowd::Failure,
};

const LOSS: &str = "appends lost";
const ALONE: &str = "appends/s alone";
const READ: &str = "updates read/s";
const APPENDERS: usize = 64;
/// The topic that is appended to.
const OTHER: usize = 1;

#[derive(Clone, Copy, Debug)]
struct Params {
    kept: u64,
    readers: usize,
    seconds: f64,
    again: Again,
    /// For how long what is read has been there. What Khala took in the last ten seconds counts as new, and is not held back.
    age: Duration,
}

pub(super) fn rows(scale: &Scale) -> Vec<Row> {
    let Scale { crowd, seconds, .. } = *scale;
    let readers = crowd.div_ceil(10);
    let (kept, paced) = (crowd as u64 * 20, crowd as u64 * 10);
    let age = Duration::from_secs(if seconds < 1.0 { 0 } else { 11 });
    vec![
        row(
            "append-while-read",
            format!(
                "{APPENDERS} connections that append, while {readers} clients read {kept} old updates over and over"
            ),
            "Readers read as quickly as they can, and so take more of the machine where a server serves them better: see how much \
             was read.",
            Params { kept, readers, seconds: seconds / 2.0, again: Again::AtOnce, age },
        ),
        row(
            "append-while-read-paced",
            format!("the same, while {readers} clients read {paced} old updates every {seconds} seconds"),
            "Readers begin one after the other, so that everybody is asked for as much in the same time.",
            Params { kept: paced, readers, seconds, again: Again::Every(seconds), age },
        ),
    ]
}

fn row(name: &'static str, title: String, note: &str, params: Params) -> Row {
    let keepers = [
        keepers::KHALA,
        keepers::REDIS_ALWAYS,
        keepers::REDIS_EVERYSEC,
        keepers::JETSTREAM,
        keepers::JETSTREAM_SYNCED,
    ];
    let contestants = keepers.map(|keeper| Contestant {
        name: keeper.name,
        role: keeper.role,
        over: keeper.append_over,
        durability: keeper.durability,
        measure: Box::new(move |tools| measure(tools, keeper, params)),
    });
    Row {
        name,
        title,
        unit: "an update that was acknowledged while others read; cost is that of both",
        headline: Headline::More(LOSS, "percent"),
        notes: vec![format!(
            "Appends are measured alone, beside readers, and alone again; compared is the rate beside readers with the mean of \
             the other two. Readers read another topic of the same server, of {} s before. {note} Khala's limit of replays is off.",
            params.age.as_secs()
        )],
        contestants: contestants.into(),
    }
}

fn measure(tools: &Tools, keeper: Keeper, params: Params) -> Result<Figures, Failure> {
    let Params { kept, readers, seconds, again, age } = params;
    let (server, speech) = kept::filled(tools, keeper, kept)?;
    thread::sleep(age);
    let mut generator = Generator::start(tools)?;
    let open = Open { appenders: APPENDERS, append_to: OTHER, readers, ..kept::open(&speech) };
    kept::connect(&mut generator, open)?;
    let mut phase = |seconds, read| {
        let work = Work { append: Some(Amount::Seconds(seconds)), read };
        kept::append(&mut generator, &server, work)
    };
    let warm = phase(seconds.min(1.0), None)?;
    let before = phase(seconds, None)?;
    let read = Read { first: 0, count: kept, order: Order::ByNumber, again };
    let mut figures = phase(seconds, Some(read))?;
    let after = phase(seconds, None)?;
    drop(generator);
    let acknowledged = [&warm, &before, &figures, &after].map(|figures| figures.units).iter().sum();
    figures.lost += kept::missing(tools, &speech, OTHER, acknowledged)?;
    let alone = f64::midpoint(before.units_per_second(), after.units_per_second());
    let read = figures.extra("delivered").unwrap_or(0.0) / figures.wall_seconds.max(1e-9);
    figures.more = [
        (LOSS.to_owned(), (1.0 - figures.units_per_second() / alone) * 100.0),
        (ALONE.to_owned(), alone),
        (READ.to_owned(), read),
    ]
    .into();
    Ok(figures)
}
