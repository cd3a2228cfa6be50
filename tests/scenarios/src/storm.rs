//! The storm after a `kill -9`: every client comes back at once, as `phoenix` does, to a server that has just started.
//!
//! What must hold: everybody is joined again with its cursor and gets what is published next, without a hole; and what
//! that costs in reads of the journal does not grow with the number of clients, when they were at the head. With `behind`, each
//! client comes back that many updates behind: what waits at the gate before replays is counted, and has to come through.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use khala_testing::{Failure, Program, ensure, usage::dropped_handshakes};
use serde::Serialize;

use crate::{
    Range,
    client_pool::{ClientPool, Group},
    clock::{between, micros},
    environment::Environment,
    observations::{Observations, What},
    publisher::publish_to_each,
    settings::{ReplayGate, Settings},
    topics::Topics,
};

/// What a join is refused with when enough history is being read.
const DEFERRED: &str = "replay_deferred";

/// What to run.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "benches and tests write out what they differ in")]
pub struct Params {
    /// Clients.
    pub clients: usize,
    /// Topics, which the clients follow in turn, one each.
    pub topics: usize,
    /// How many updates behind each client comes back. 0: at the head.
    pub behind: u64,
    /// Whether each is another number behind, from that down to half, as clients that went at different times: then they
    /// do not read the same pages.
    pub scattered: bool,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Reads of the journal, by topic, that may have happened when everybody who was at the head is joined again.
    /// None: they are only reported.
    pub max_reads_per_topic: Option<f64>,
    /// The server's setting: pages a second that may be replayed. None: as it has it by default.
    pub replay_pages_per_second: Option<u32>,
    /// Whether the gate before replays has to turn some away.
    pub must_defer: bool,
    /// How long the clients may take to be back: so long that only clients that never are fail.
    pub patience: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            clients: 5_000,
            topics: 50,
            behind: 0,
            scattered: false,
            payload_bytes: 200,
            max_reads_per_topic: Some(1.0),
            replay_pages_per_second: None,
            must_defer: false,
            patience: Duration::from_secs(300),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What was run.
    pub params: Params,
    /// From the kill until the new server said that it was ready.
    pub ready_ms: f64,
    /// From the kill until a client was joined again.
    pub joined: Range,
    /// From the kill until a client had everything that had been published before.
    pub caught_up: Range,
    /// From when the first update after that was due until a client had it.
    pub next_update: Range,
    /// Connections that were tried since the kill.
    pub tries: u64,
    /// Those that nobody answered, or were cut, by what became of them.
    pub failed: BTreeMap<String, u64>,
    /// Those that were answered with something else than a WebSocket, by status.
    pub refused: BTreeMap<u16, u64>,
    /// Handshakes that the system dropped because the server took too few at once.
    pub dropped_handshakes: u64,
    /// Joins that were refused, by code.
    pub joins_refused: BTreeMap<String, u64>,
    /// The `retry_after_ms` of these: the shortest and the longest.
    pub retry_after_ms: Option<(u64, u64)>,
    /// Refused joins that were not told when to come back.
    pub refused_without_retry_after: u64,
    /// Joins that were not answered within the 10 s after which `phoenix` gives up.
    pub joins_unanswered: u64,
    /// Connections that were lost again after the kill.
    pub lost_again: u64,
    /// Reads of the journal when everybody was joined again, by temperature.
    pub reads: BTreeMap<String, u64>,
    /// The same when everybody had caught up.
    pub reads_caught_up: BTreeMap<String, u64>,
    /// Processor time that the new server took until everybody had caught up, in seconds.
    pub server_cpu_seconds: f64,
    /// The most memory that the new server had, in bytes.
    pub resident_peak: u64,
}

/// Runs it.
///
/// # Errors
/// A [`Failure`] for anything that must not be, as the head of this file says.
pub async fn run(program: &Program, params: Params) -> Result<Report, Failure> {
    let gate = params.replay_pages_per_second.map(|pages| ReplayGate {
        pages_per_second: pages,
        pages_at_once: pages,
        replays_at_once: 64,
    });
    let settings = Settings { replay_gate: gate, ..Settings::default() };
    let environment = Arc::new(Environment::prepare(program, &settings)?);
    let mut server = environment.start().await?;
    let topics = Arc::new(Topics::new(params.topics));
    // A head to be at, and something to be behind of.
    publish_to_each(&environment, &topics, params.behind.max(1), params.payload_bytes, 0).await?;
    let heads = topics.heads();
    let least = if params.scattered { params.behind / 2 } else { params.behind };
    let groups = [Group { rewind: (params.behind, least), ..Group::of(params.clients) }];
    let ramp = Duration::from_micros(500) * params.clients as u32;
    let pool = ClientPool::start(&environment, &topics, &groups, params.payload_bytes, ramp)?;
    pool.joined(1, params.patience).await?;
    pool.reached(&[0], &heads, params.patience).await?;

    // They are there; who loses its connection has to come there again.
    pool.observations().set_goals(&heads);
    let (tries, dropped) = (pool.tries(), dropped_handshakes());
    let killed_at = micros();
    server.kill().await?;
    server.restart()?;
    server.ready().await?;
    let ready_ms = between(killed_at, micros()).as_secs_f64() * 1_000.0;
    pool.joined(2, params.patience).await?;
    let reads = reads(&environment).await?;
    let there = |observations: &Observations| {
        observations.of_group(0).all(|client| observations.reached_at(client).is_some())
    };
    pool.until("everybody has caught up", params.patience, there).await?;
    let (caught_up, joined) = {
        let observations = pool.observations();
        let since = |moment: u64| between(killed_at, moment);
        let caught_up =
            observations.of_group(0).filter_map(|client| observations.reached_at(client)).map(since);
        let joined =
            observations.clients.iter().map(|client| since(client.joined_at.load(Ordering::Acquire)));
        (Range::of_durations(caught_up), Range::of_durations(joined))
    };
    let (reads_caught_up, usage) = (self::reads(&environment).await?, server.usage()?);

    // The proof that each of them is live.
    publish_to_each(&environment, &topics, 1, params.payload_bytes, 1).await?;
    pool.reached(&[0], &topics.heads(), params.patience).await?;
    topics.check_history(&environment).await?;
    let resident_peak = server.usage()?.peak;
    let tries = pool.tries() - tries;
    let observations = pool.leave().await?;

    let mut report = Report {
        ready_ms,
        joined,
        caught_up,
        next_update: Range::of(&observations.latency(0, 1)),
        tries,
        failed: BTreeMap::new(),
        refused: BTreeMap::new(),
        dropped_handshakes: dropped_handshakes() - dropped,
        joins_refused: BTreeMap::new(),
        retry_after_ms: None,
        refused_without_retry_after: 0,
        joins_unanswered: 0,
        lost_again: 0,
        reads,
        reads_caught_up,
        server_cpu_seconds: usage.cpu().as_secs_f64(),
        resident_peak,
        params,
    };
    report.count(&observations, killed_at);
    report.check()?;
    Ok(report)
}

impl Report {
    /// Counts what befell the clients since the kill.
    fn count(&mut self, observations: &Observations, killed_at: u64) {
        let mut closed = 0_u64;
        for event in observations.events_since(killed_at) {
            match event.what {
                What::ConnectFailed(kind) => *self.failed.entry(kind.to_string()).or_insert(0) += 1,
                What::ConnectRefused(status) => *self.refused.entry(status).or_insert(0) += 1,
                What::JoinRefused { code, retry_after_ms } => {
                    *self.joins_refused.entry(code).or_insert(0) += 1;
                    match retry_after_ms {
                        Some(ms) => {
                            let (least, most) = self.retry_after_ms.unwrap_or((ms, ms));
                            self.retry_after_ms = Some((least.min(ms), most.max(ms)));
                        }
                        None => self.refused_without_retry_after += 1,
                    }
                }
                What::JoinUnanswered => self.joins_unanswered += 1,
                What::Closed(_) => closed += 1,
                What::ChannelEnded | What::Drain | What::HeartbeatUnanswered | What::Joined => {}
            }
        }
        // Once each is the kill itself.
        self.lost_again = closed.saturating_sub(self.params.clients as u64);
    }

    fn check(&self) -> Result<(), Failure> {
        let Params { clients, topics, behind, max_reads_per_topic, .. } = &self.params;
        if let (0, Some(most)) = (behind, max_reads_per_topic) {
            let reads: u64 = self.reads.values().sum();
            let by_topic = reads as f64 / *topics as f64;
            ensure(by_topic <= *most, || {
                format!(
                    "{by_topic} reads of the journal by topic, for clients at the head; {most} may be\n{self:#?}"
                )
            })?;
        }
        ensure(*behind > 0 || self.joins_refused.is_empty(), || {
            format!("some of the {clients} clients, who were all at the head, were turned away\n{self:#?}")
        })?;
        let odd = self.joins_refused.keys().find(|code| *code != DEFERRED);
        ensure(odd.is_none(), || format!("a join was refused with {odd:?}\n{self:#?}"))?;
        ensure(self.refused_without_retry_after == 0, || {
            format!("a join was put off, and not told when to come back\n{self:#?}")
        })?;
        ensure(!(self.params.must_defer && self.joins_refused.is_empty()), || {
            format!("the gate before replays turned nobody away\n{self:#?}")
        })
    }
}

/// Reads of the journal that were for clients, by temperature.
async fn reads(environment: &Environment) -> Result<BTreeMap<String, u64>, Failure> {
    let metrics = environment.metrics().await?;
    let count =
        |temperature: &str| metrics.count("khala_journal_reads_total", &[("temperature", temperature)]);
    let reads = ["bounds", "cold", "hot"].map(|temperature| (temperature.to_owned(), count(temperature)));
    Ok(reads.into_iter().filter(|(_, count)| *count > 0).collect())
}
