//! Slow readers among quick ones: some stop reading while updates flow, half of them come back in time, the others never.
//!
//! Quiet phases, in which everybody reads, and stalled ones take turns on one server, so that the quick readers' latencies
//! are compared in pairs; what is due once some have come back and catch up is told apart. What must hold: who comes back before the limit catches up on the same socket without a hole;
//! who does not is evicted as `slow_consumer_evicted`, and nobody else is; the server's memory stays below the bound; and
//! all have everything in the end.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use khala_testing::{During as _, Failure, Program, ensure};
use serde::Serialize;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{interval, sleep, timeout},
};

use crate::{
    Range,
    client::Order,
    client_pool::{ClientPool, Group},
    clock::{between, micros},
    environment::Environment,
    observations::{LANES, Observations, What},
    publisher::{Load, Publisher},
    server::Server,
    settings::Settings,
    topics::Topics,
};

/// How often the server's memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
const STEADY: usize = 0;
const RETURNING: usize = 1;
const LOST: usize = 2;
/// What is due in no phase that is measured.
const BETWEEN: u8 = 0;

/// What to run.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "benches and tests write out what they differ in")]
pub struct Params {
    /// Subscribers, stalled ones included.
    pub clients: usize,
    /// Those that stop reading; half of them, rounded up, come back.
    pub stalled: usize,
    /// Topics, which the subscribers follow in turn, one each.
    pub topics: usize,
    /// Updates a second, over all topics.
    pub rate: u32,
    /// Updates that are published together.
    pub batch: u32,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// How long a phase lasts.
    pub phase: Duration,
    /// How many times a quiet phase and a stalled one take turns: five at most.
    pub rounds: u8,
    /// How long the stalled ones that come back read nothing.
    pub return_after: Duration,
    /// The server's setting: who takes nothing for so long is evicted.
    pub stall_seconds: u32,
    /// What the system takes for a stalled client, roughly, in bytes.
    pub receive_buffer: u32,
    /// What the server's memory must stay below, in bytes. None: it is only reported.
    pub memory_bound: Option<u64>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            clients: 1_000,
            stalled: 100,
            topics: 4,
            rate: 2_000,
            batch: 100,
            payload_bytes: 1_024,
            phase: Duration::from_secs(60),
            rounds: 2,
            return_after: Duration::from_secs(20),
            stall_seconds: 30,
            receive_buffer: 16 << 10,
            memory_bound: Some(512 << 20),
        }
    }
}

/// What those do who are not always quick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Kind {
    /// They read like everybody.
    Quiet,
    /// They read nothing.
    Stalled,
    /// Half of them have come back, and catch up; the others read nothing.
    Returning,
}

/// What a phase was like.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Phase {
    /// What it was.
    pub kind: Kind,
    /// From when an update was due until a client that never stalled had it.
    pub latency: Range,
    /// The most memory that the server had, in bytes.
    pub resident_max: u64,
    /// Processor time that the server took, in seconds for each second.
    pub server_cores: f64,
    /// Updates that were acknowledged, for each second.
    pub published_per_second: f64,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What was run.
    pub params: Params,
    /// The phases in their order.
    pub phases: Vec<Phase>,
    /// For each round, the quick readers' p99 while some had stalled over that of the quiet phase before.
    pub p99_stalled_to_quiet: Vec<f64>,
    /// The same while some were coming back.
    pub p99_returning_to_quiet: Vec<f64>,
    /// How long those who came back took to have what had been acknowledged when they did.
    pub catch_up: Range,
    /// Connections that the server closed as `slow_consumer_evicted`.
    pub evicted: u64,
    /// From when the lost ones stopped reading until the server had evicted the last, by round, in seconds.
    pub evicted_after_seconds: Vec<f64>,
    /// How long the evicted ones took, once they came back with their cursors, to have what was acknowledged then.
    pub recover: Range,
    /// Memory of the server when everybody had joined and nothing was published, in bytes.
    pub resident_idle: u64,
    /// The most that it ever had, by its own account, in bytes.
    pub resident_peak: u64,
    /// Updates that clients got.
    pub delivered: u64,
    /// Updates that clients got again.
    pub repeated: u64,
    /// Publishes that had to be tried again.
    pub publish_retries: u64,
}

/// Looks at the server's memory all the time.
struct Sampler {
    max: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Sampler {
    fn start(server: &Server) -> Result<Self, Failure> {
        let (processes, max) = (server.processes()?, Arc::new(AtomicU64::new(0)));
        let seen = Arc::clone(&max);
        let task = tokio::spawn(async move {
            let mut ticks = interval(SAMPLE_EVERY);
            loop {
                ticks.tick().await;
                // A server that has ended is somebody else's to find out.
                if let Ok(usage) = processes.usage() {
                    seen.fetch_max(usage.resident, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { max, task: task.abort_handle() })
    }

    /// The most since it was asked last.
    fn take(&self) -> u64 {
        self.max.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A run that is under way.
struct Run {
    params: Params,
    environment: Arc<Environment>,
    server: Server,
    pool: ClientPool,
    topics: Arc<Topics>,
    publisher: Publisher,
    sampler: Sampler,
    resident_max: u64,
    catch_up: Vec<Duration>,
    recover: Vec<Duration>,
    evicted_after: Vec<f64>,
}

/// Runs it.
///
/// # Errors
/// A [`Failure`] for anything that must not be, as the head of this file says.
pub async fn run(program: &Program, params: Params) -> Result<Report, Failure> {
    let lost = params.stalled / 2;
    let returning = params.stalled - lost;
    ensure(params.stalled <= params.clients, || "more stall than there are".to_owned())?;
    ensure(3 * usize::from(params.rounds) < LANES, || "more than five rounds".to_owned())?;
    let settings = Settings { stall_seconds: params.stall_seconds, ..Settings::default() };
    let environment = Arc::new(Environment::prepare(program, &settings)?);
    let server = environment.start().await?;
    let topics = Arc::new(Topics::new(params.topics));
    let narrow = |clients| Group {
        receive_buffer: Some(params.receive_buffer),
        pause_over: params.return_after / 10,
        ..Group::of(clients)
    };
    let groups = [Group::of(params.clients - params.stalled), narrow(returning), narrow(lost)];
    let ramp = Duration::from_millis(params.clients as u64);
    let pool = ClientPool::start(&environment, &topics, &groups, params.payload_bytes, ramp)?;
    pool.joined(1, Duration::from_secs(60)).await?;
    let resident_idle = server.usage()?.resident;

    let Params { rate, batch, payload_bytes, .. } = params;
    let load = Load { rate, batch, payload_bytes, connections: 8 };
    let publisher = Publisher::start(&environment, &topics, load)?;
    let sampler = Sampler::start(&server)?;
    let mut run = Run {
        params,
        environment,
        server,
        pool,
        topics,
        publisher,
        sampler,
        resident_max: 0,
        catch_up: Vec::new(),
        recover: Vec::new(),
        evicted_after: Vec::new(),
    };
    // Until caches and connections are as they stay.
    sleep(run.params.phase.min(Duration::from_secs(5))).await;
    let mut phases = Vec::new();
    for round in 0..run.params.rounds {
        phases.push(run.quiet(1 + 3 * round).await?);
        phases.extend(run.stalled(2 + 3 * round).await?);
    }
    run.finish(phases, resident_idle).await
}

impl Run {
    /// How long anything may take that depends on the machine's speed alone.
    fn patience(&self) -> Duration {
        Duration::from_secs(60) + self.params.phase * 4
    }

    /// Everybody reads.
    async fn quiet(&mut self, lane: u8) -> Result<Phase, Failure> {
        let begun = self.begin(lane)?;
        sleep(self.params.phase).await;
        self.end(&begun, Kind::Quiet)
    }

    /// Some stop; half of these come back within the phase. Ends when the others are evicted and are back, too.
    async fn stalled(&mut self, lane: u8) -> Result<[Phase; 2], Failure> {
        let (before, sockets) = (self.evicted().await?, self.connects(RETURNING));
        let lost = self.pool.observations().of_group(LOST).count() as u64;
        let begun = self.begin(lane)?;
        // In a set, so that it ends with this.
        let mut evictions = JoinSet::new();
        evictions.spawn(evicted_at(Arc::clone(&self.environment), before + lost));
        self.pool.order(RETURNING, Order::Pause);
        self.pool.order(LOST, Order::Pause);
        sleep(self.params.return_after).await;
        let stalled = self.end(&begun, Kind::Stalled)?;

        let returning = self.begin(lane + 1)?;
        let back_at = micros();
        self.pool.observations().set_goals(&self.topics.heads());
        self.pool.order(RETURNING, Order::Read);
        let rest = between(begun.at, micros());
        sleep(self.params.phase.saturating_sub(rest)).await;
        let returning = self.end(&returning, Kind::Returning)?;
        let there = |observations: &Observations| {
            observations.of_group(RETURNING).all(|client| observations.reached_at(client).is_some())
        };
        self.pool.until("those who came back have caught up", self.patience(), there).await?;
        self.catch_up.extend(self.reached(RETURNING, back_at));
        let closes = self.environment.metrics().await?.by_label("khala_closes_total", "reason");
        ensure(self.connects(RETURNING) == sockets, || {
            let befell = self.befell(RETURNING, begun.at);
            format!(
                "not everybody who came back in time kept the socket: {befell:?}; the server closed {closes:?}"
            )
        })?;

        // One who does not read cannot see its own close: the server counts it, and later the socket is found dead.
        let limit = Duration::from_secs(self.params.stall_seconds.into()) * 3 + self.patience();
        let evicted_at = timeout(limit, evictions.join_next()).await;
        let Ok(Some(evicted_at)) = evicted_at else {
            let evicted = self.evicted().await? - before;
            return Err(Failure::new(format_args!("{evicted} of {lost} who did not read were evicted")));
        };
        let evicted_at = evicted_at.during("waiting for evictions")??;
        self.evicted_after.push(between(begun.at, evicted_at).as_secs_f64());
        let evicted = self.evicted().await? - before;
        ensure(evicted == lost, || format!("{evicted} were evicted, of {lost} who did not read"))?;
        let (sockets, back_at) = (self.connects(LOST), micros());
        self.pool.observations().set_goals(&self.topics.heads());
        self.pool.order(LOST, Order::Read);
        let there = |observations: &Observations| {
            observations.of_group(LOST).all(|client| observations.reached_at(client).is_some())
        };
        self.pool.until("the evicted ones have caught up", self.patience(), there).await?;
        self.recover.extend(self.reached(LOST, back_at));
        let sockets: Vec<u32> = sockets.iter().map(|connects| connects + 1).collect();
        ensure(self.connects(LOST) == sockets, || {
            format!("the evicted ones did not each find a dead socket: {:?}", self.befell(LOST, back_at))
        })?;
        let codes = self.befell(LOST, back_at);
        let odd = codes.keys().find(|what| matches!(what, What::Closed(Some(code)) if *code != 4002));
        ensure(odd.is_none(), || format!("an evicted client was told {odd:?}"))?;
        Ok([stalled, returning])
    }

    fn begin(&mut self, lane: u8) -> Result<Begun, Failure> {
        self.publisher.check()?;
        self.pool.check()?;
        self.resident_max = self.resident_max.max(self.sampler.take());
        let begun = Begun { at: micros(), cpu: self.server.usage()?.cpu(), published: self.topics.updates() };
        self.publisher.set_lane(lane);
        Ok(begun)
    }

    fn end(&mut self, begun: &Begun, kind: Kind) -> Result<Phase, Failure> {
        self.publisher.set_lane(BETWEEN);
        self.publisher.check()?;
        self.pool.check()?;
        let seconds = between(begun.at, micros()).as_secs_f64();
        let resident_max = self.sampler.take();
        self.resident_max = self.resident_max.max(resident_max);
        Ok(Phase {
            kind,
            // What was due in the phase may still be under way; it is counted when everything has arrived.
            latency: Range::default(),
            resident_max,
            server_cores: (self.server.usage()?.cpu() - begun.cpu).as_secs_f64() / seconds,
            published_per_second: (self.topics.updates() - begun.published) as f64 / seconds,
        })
    }

    async fn finish(mut self, mut phases: Vec<Phase>, resident_idle: u64) -> Result<Report, Failure> {
        let patience = self.patience();
        let retries = self.publisher.finish().await?;
        self.pool.reached(&[STEADY, RETURNING, LOST], &self.topics.heads(), patience).await?;
        self.resident_max = self.resident_max.max(self.sampler.take());
        let resident_peak = self.server.usage()?.peak;
        let evicted = self.environment.metrics().await?.count("khala_closes_total", &[]);
        let observations = self.pool.leave().await?;
        for (at, phase) in phases.iter_mut().enumerate() {
            phase.latency = Range::of(&observations.latency(STEADY, at + 1));
        }
        let ratios = |of: usize| {
            let ratio =
                |round: &[Phase]| round[of].latency.p99_ms / round[0].latency.p99_ms.max(f64::MIN_POSITIVE);
            phases.chunks_exact(3).map(ratio).collect()
        };
        let report = Report {
            p99_stalled_to_quiet: ratios(1),
            p99_returning_to_quiet: ratios(2),
            phases,
            catch_up: Range::of_durations(self.catch_up),
            evicted,
            evicted_after_seconds: self.evicted_after,
            recover: Range::of_durations(self.recover),
            resident_idle,
            resident_peak,
            delivered: observations.updates.load(Ordering::Relaxed),
            repeated: observations.repeated.load(Ordering::Relaxed),
            publish_retries: retries.values().sum(),
            params: self.params,
        };
        let lost = (report.params.stalled / 2) as u64 * u64::from(report.params.rounds);
        ensure(evicted == lost, || format!("{evicted} connections were closed; {lost} were to be"))?;
        if let Some(bound) = report.params.memory_bound {
            ensure(resident_peak < bound, || {
                format!(
                    "the server had {resident_peak} bytes in memory, and the bound is {bound}\n{report:#?}"
                )
            })?;
        }
        Ok(report)
    }

    async fn evicted(&self) -> Result<u64, Failure> {
        evicted(&self.environment).await
    }

    fn connects(&self, group: usize) -> Vec<u32> {
        let observations = self.pool.observations();
        observations.of_group(group).map(|client| observations.clients[client].connects()).collect()
    }

    /// How long each of a group took from that moment to its goal.
    fn reached(&self, group: usize, from: u64) -> Vec<Duration> {
        let observations = self.pool.observations();
        observations
            .of_group(group)
            .filter_map(|client| Some(between(from, observations.reached_at(client)?)))
            .collect()
    }

    /// What befell a group since that moment, and how often.
    fn befell(&self, group: usize, since: u64) -> HashMap<What, u64> {
        let observations = self.pool.observations();
        let mut befell = HashMap::new();
        for event in observations.events_since(since) {
            if observations.clients[event.client].group == group {
                *befell.entry(event.what).or_insert(0) += 1;
            }
        }
        befell
    }
}

/// How many connections the server has evicted.
async fn evicted(environment: &Environment) -> Result<u64, Failure> {
    Ok(environment.metrics().await?.count("khala_closes_total", &[("reason", "slow_consumer_evicted")]))
}

/// Waits until the server has evicted that many; says when that was.
async fn evicted_at(environment: Arc<Environment>, wanted: u64) -> Result<u64, Failure> {
    while evicted(&environment).await? < wanted {
        sleep(SAMPLE_EVERY).await;
    }
    Ok(micros())
}

/// A phase that is under way.
struct Begun {
    at: u64,
    cpu: Duration,
    published: u64,
}
