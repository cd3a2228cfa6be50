//! Appending while others read history over and over: what that costs those who append.

use std::{thread, time::Duration};

use khala_testing::Failure;

use super::{Scale, log};
use crate::comparison::{
    generator::Generator,
    load::log::command::{Again, Amount, Open, Order, Read, Work},
    log_servers::{self, LogServer},
    sample::Sample,
    tools::Tools,
    workload::{Headline, Workload},
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

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let Scale { small, seconds, .. } = *scale;
    let readers = small.div_ceil(10);
    let (kept, paced) = (small as u64 * 20, small as u64 * 10);
    let age = Duration::from_secs(if seconds < 1.0 { 0 } else { 11 });
    vec![
        workload(
            "append-while-read",
            format!(
                "{APPENDERS} connections that append, while {readers} clients read {kept} old updates over and over"
            ),
            "Readers read as quickly as they can, and so take more of the machine where a server serves them better: see how much \
             was read.",
            Params { kept, readers, seconds: seconds / 2.0, again: Again::AtOnce, age },
        ),
        workload(
            "append-while-read-paced",
            format!("the same, while {readers} clients read {paced} old updates every {seconds} seconds"),
            "Readers begin one after the other, so that everybody is asked for as much in the same time.",
            Params { kept: paced, readers, seconds, again: Again::Every(seconds), age },
        ),
    ]
}

fn workload(name: &'static str, title: String, note: &str, params: Params) -> Workload {
    let log_servers = [
        log_servers::KHALA,
        log_servers::REDIS_ALWAYS,
        log_servers::REDIS_EVERYSEC,
        log_servers::JETSTREAM,
        log_servers::JETSTREAM_SYNCED,
    ];
    let competitors = log_servers.map(|log_server| {
        let LogServer { append_over, durability, .. } = log_server;
        log_server.competitor(append_over, durability, move |tools, server| measure(tools, server, params))
    });
    Workload {
        name,
        title,
        unit: "an update that was acknowledged while others read; cost is that of both",
        headline: Headline::extra(LOSS, "percent"),
        notes: vec![format!(
            "Appends are measured alone, beside readers, and alone again; compared is the rate beside readers with the mean of \
             the other two. Readers read another topic of the same server, of {} s before. {note} Khala's limit of replays is off.",
            params.age.as_secs()
        )],
        competitors: competitors.into(),
    }
}

fn measure(tools: &Tools, log_server: LogServer, params: Params) -> Result<Sample, Failure> {
    let Params { kept, readers, seconds, again, age } = params;
    let (server, protocol) = log::filled(tools, log_server, kept)?;
    thread::sleep(age);
    let mut generator = Generator::start(tools)?;
    let open = Open { appenders: APPENDERS, append_to: OTHER, readers, ..log::open(&protocol) };
    log::connect(&mut generator, open)?;
    let mut phase = |seconds, read| {
        let work = Work { append: Some(Amount::Seconds(seconds)), read };
        log::append(&mut generator, &server, work)
    };
    let warm = phase(seconds.min(1.0), None)?;
    let before = phase(seconds, None)?;
    let read = Read { first: 0, count: kept, order: Order::ByNumber, again };
    let mut sample = phase(seconds, Some(read))?;
    let after = phase(seconds, None)?;
    drop(generator);
    let acknowledged = [&warm, &before, &sample, &after].map(|sample| sample.units).iter().sum();
    sample.lost += log::missing(tools, &protocol, OTHER, acknowledged)?;
    let alone = f64::midpoint(before.units_per_second(), after.units_per_second());
    let read = sample.extra("delivered").unwrap_or(0.0) / sample.wall_seconds.max(1e-9);
    sample.extras = [
        (LOSS.to_owned(), (1.0 - sample.units_per_second() / alone) * 100.0),
        (ALONE.to_owned(), alone),
        (READ.to_owned(), read),
    ]
    .into();
    Ok(sample)
}
