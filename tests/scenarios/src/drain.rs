//! A planned restart: the server is told to stop while updates flow, and a successor starts on the same port and file.
//!
//! What must hold: every client is told (`sync:drain`) and closed with 1012, one after the other over the drain time and
//! not all at once; what was acknowledged is all there; and every client comes to the end of it without a hole.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use khala_testing::{Failure, Program, ensure};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    Range,
    client_pool::{ClientPool, Group},
    clock::{between, micros},
    environment::Environment,
    observations::{Event, What},
    publisher::{Load, Publisher},
    settings::Settings,
    topics::Topics,
};

/// Restart, by the protocol.
const RESTART: u16 = 1012;
/// What is due before the stop, and after it.
const BEFORE: u8 = 1;
const AFTER: u8 = 2;
/// What the server allows itself past the drain time, and a bit.
const GRACE: Duration = Duration::from_secs(20);

/// What to run.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "benches and tests write out what they differ in")]
pub struct Params {
    /// Clients.
    pub clients: usize,
    /// Topics, which the clients follow in turn, one each.
    pub topics: usize,
    /// Updates a second, over all topics.
    pub rate: u32,
    /// Updates that are published together.
    pub batch: u32,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// How long updates flow before the stop, and after the successor has everybody.
    pub steady: Duration,
    /// The server's setting: over how long it closes connections.
    pub drain_seconds: u32,
    /// How many times its even share of the closes a tenth of that time may see.
    pub max_share: f64,
    /// How long the clients may take to be back: so long that only clients that never are fail.
    pub patience: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            clients: 2_000,
            topics: 20,
            rate: 500,
            batch: 10,
            payload_bytes: 200,
            steady: Duration::from_secs(5),
            drain_seconds: 10,
            max_share: 2.0,
            patience: Duration::from_secs(120),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What was run.
    pub params: Params,
    /// Closes in each tenth of the drain time, from the first `sync:drain` on.
    pub closes_by_tenth: [u64; 10],
    /// Closes after that.
    pub closes_later: u64,
    /// From the signal until a client was told.
    pub told: Range,
    /// From the signal until the server had ended.
    pub stopped_ms: f64,
    /// From the signal until the successor was ready.
    pub ready_ms: f64,
    /// From the end of a client's connection until it was joined again.
    pub away: Range,
    /// Connections that were tried since the signal.
    pub tries: u64,
    /// From when an update was due until a client had it, before the signal.
    pub latency_before: Range,
    /// The same from the signal on: the restart is in it.
    pub latency_after: Range,
    /// Updates that were acknowledged.
    pub published: u64,
    /// Publishes that were tried again, by the reason.
    pub publish_retries: BTreeMap<String, u64>,
    /// Updates that clients got again.
    pub repeated: u64,
}

/// Runs it.
///
/// # Errors
/// A [`Failure`] for anything that must not be, as the head of this file says.
pub async fn run(program: &Program, params: Params) -> Result<Report, Failure> {
    let settings = Settings { drain_seconds: params.drain_seconds, ..Settings::default() };
    let environment = Arc::new(Environment::prepare(program, &settings)?);
    let mut server = environment.start().await?;
    let topics = Arc::new(Topics::new(params.topics));
    let groups = [Group::of(params.clients)];
    let ramp = Duration::from_micros(500) * params.clients as u32;
    let pool = ClientPool::start(&environment, &topics, &groups, params.payload_bytes, ramp)?;
    pool.joined(1, params.patience).await?;
    let Params { rate, batch, payload_bytes, .. } = params;
    let load = Load { rate, batch, payload_bytes, connections: 4 };
    let mut publisher = Publisher::start(&environment, &topics, load)?;
    publisher.set_lane(BEFORE);
    sleep(params.steady).await;
    publisher.check()?;

    publisher.set_lane(AFTER);
    let (tries, told_at) = (pool.tries(), micros());
    server.signal("TERM").await?;
    let drain = Duration::from_secs(params.drain_seconds.into());
    let status = server.ended(drain + GRACE).await?;
    let stopped_at = micros();
    ensure(status.success(), || format!("the server that was told to stop ended with {status}"))?;
    server.restart()?;
    server.ready().await?;
    let ready_at = micros();
    pool.joined(2, params.patience).await?;
    sleep(params.steady).await;
    publisher.check()?;

    let publish_retries = publisher.finish().await?;
    pool.reached(&[0], &topics.heads(), params.patience).await?;
    let checked = topics.check_history(&environment).await?;
    let published = topics.updates();
    ensure(checked == published, || {
        format!("{published} updates were acknowledged, and {checked} are there")
    })?;
    let tries = pool.tries() - tries;
    let observations = pool.leave().await?;
    server.kill().await?;

    let events = observations.events_since(told_at);
    let ms = |moment: u64| between(told_at, moment).as_secs_f64() * 1_000.0;
    let told =
        events.iter().filter(|event| event.what == What::Drain).map(|event| between(told_at, event.at));
    let mut report = Report {
        closes_by_tenth: [0; 10],
        closes_later: 0,
        told: Range::of_durations(told),
        stopped_ms: ms(stopped_at),
        ready_ms: ms(ready_at),
        away: Range::of_durations(absences(&events)),
        tries,
        latency_before: Range::of(&observations.latency(0, BEFORE.into())),
        latency_after: Range::of(&observations.latency(0, AFTER.into())),
        published,
        publish_retries,
        repeated: observations.repeated.load(Ordering::Relaxed),
        params,
    };
    report.count(&events)?;
    report.check()?;
    Ok(report)
}

/// How long each client was away, each time: from the end of a connection to the next join.
fn absences(events: &[Event]) -> Vec<Duration> {
    let mut gone = BTreeMap::new();
    let mut absences = Vec::new();
    for event in events {
        match event.what {
            What::Closed(_) => drop(gone.insert(event.client, event.at)),
            What::Joined => absences.extend(gone.remove(&event.client).map(|at| between(at, event.at))),
            _ => {}
        }
    }
    absences
}

impl Report {
    /// Sorts the closes; fails unless every client was told first, and then closed with the right code.
    fn count(&mut self, events: &[Event]) -> Result<(), Failure> {
        let told = events.iter().filter(|event| event.what == What::Drain);
        let Some(first) = told.clone().map(|event| event.at).min() else {
            return Err(Failure::new("nobody was told that the server stops"));
        };
        let told: HashSet<usize> = told.map(|event| event.client).collect();
        let tenth = u64::from(self.params.drain_seconds) * 100_000;
        let mut closed = HashSet::new();
        for event in events {
            let What::Closed(code) = event.what else { continue };
            let client = event.client;
            ensure(closed.insert(client), || format!("client {client} was closed twice"))?;
            ensure(told.contains(&client), || format!("client {client} was closed and had not been told"))?;
            ensure(code == Some(RESTART), || format!("client {client} was closed with {code:?}"))?;
            let at = event.at.saturating_sub(first) / tenth.max(1);
            // The last is due at the very end of the drain time.
            match self.closes_by_tenth.get_mut(at as usize) {
                Some(count) => *count += 1,
                None => self.closes_later += 1,
            }
        }
        let clients = self.params.clients;
        ensure(closed.len() == clients, || format!("{} of {clients} clients were closed", closed.len()))
    }

    fn check(&self) -> Result<(), Failure> {
        let share = self.params.clients as f64 / 10.0;
        // What comes late comes on top of the last tenth.
        let last = self.closes_by_tenth[9] + self.closes_later;
        let most = self.closes_by_tenth.iter().copied().max().unwrap_or(0).max(last);
        ensure(most as f64 <= share * self.params.max_share, || {
            format!(
                "{most} of the closes came within a tenth of the drain time; an even share is {share}\n{self:#?}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            params: Params { clients: 20, drain_seconds: 1, ..Params::default() },
            closes_by_tenth: [0; 10],
            closes_later: 0,
            told: Range::default(),
            stopped_ms: 0.0,
            ready_ms: 0.0,
            away: Range::default(),
            tries: 0,
            latency_before: Range::default(),
            latency_after: Range::default(),
            published: 0,
            publish_retries: BTreeMap::new(),
            repeated: 0,
        }
    }

    /// Every client is told, and closed after `close_after` milliseconds.
    fn drained(close_after: impl Fn(usize) -> u64) -> Vec<Event> {
        let event = |client, at, what| Event { client, at, what };
        let told = (0..20).map(|client| event(client, 5_000, What::Drain));
        let closed = |client| event(client, 5_000 + close_after(client) * 1_000, What::Closed(Some(RESTART)));
        told.chain((0..20).map(closed)).collect()
    }

    fn judge(events: &[Event]) -> Result<Report, Failure> {
        let mut report = report();
        report.count(events)?;
        report.check()?;
        Ok(report)
    }

    #[test]
    fn closes_that_are_spread_evenly_are_good() {
        let report = judge(&drained(|client| (client as u64 + 1) * 50)).unwrap();
        assert_eq!((report.closes_by_tenth, report.closes_later), ([1, 2, 2, 2, 2, 2, 2, 2, 2, 2], 1));
    }

    #[test]
    fn what_must_not_be_is_found() {
        let even = || drained(|client| client as u64 * 50);
        let mut silent = even();
        silent.remove(3);
        let mut other = even();
        other[25].what = What::Closed(Some(1001));
        let mut cut = even();
        cut[25].what = What::Closed(None);
        let mut twice = even();
        twice.push(twice[25].clone());
        let mut kept = even();
        kept.pop();
        for (events, named) in [
            (drained(|_| 10), "within a tenth"),
            (drained(|client| client as u64 * 20), "within a tenth"),
            (drained(|client| 1_000 + client as u64), "within a tenth"),
            (silent, "had not been told"),
            (other, "1001"),
            (cut, "None"),
            (twice, "twice"),
            (kept, "19 of 20"),
            (Vec::new(), "nobody was told"),
        ] {
            let fault = judge(&events).unwrap_err().to_string();
            assert!(fault.contains(named), "{named}: {fault}");
        }
    }
}
