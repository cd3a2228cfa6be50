//! A full disk: publishers are told so and told when to come back, readers go on, and nothing that was acknowledged is
//! lost, whether space comes back or the server is killed meanwhile.
//!
//! The database lies on a small disk of its own (see `small_disk`), with a ballast file on it that is taken away to make
//! room. [`run_with_sweeps`] does the same to sweeps of the history, which are ordered on the full disk, and while it fills
//! up: those that fail are told and counted as failed, and the next one goes to its end when there is room.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use ::http::StatusCode;
use khala_testing::{During as _, Failure, Program, ensure};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{
    client_pool::{ClientPool, Group},
    clock::{between, micros},
    environment::Environment,
    http::Answer,
    phoenix::From,
    publisher::ByHand,
    server::Server,
    settings::Settings,
    small_disk::SmallDisk,
    topics::Topics,
};

/// The folder that the small disk is mounted on.
const DISK: &str = "disk";
const BALLAST: &str = "ballast";
const REST: &str = "rest";
/// Updates that are published together.
const BATCH: u32 = 20;
/// How often a publisher that was refused is refused again before there is room.
const REFUSALS: u32 = 3;
/// How often the disk fills up while a sweep is under way, at most.
const FILLINGS: u64 = 8;
/// Where history that is no longer kept is looked after.
const RETENTION: &str = "/internal/v1/khala/retention";
const PATIENCE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "benches and tests write out what they differ in")]
pub struct Params {
    /// Subscribers.
    pub clients: usize,
    /// Topics, which they follow in turn, one each.
    pub topics: usize,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// Bytes that are taken away to make room.
    pub ballast_bytes: usize,
    /// Updates that are published once there is room.
    pub then: u32,
    /// Whether a server that is killed on the full disk has to come back before there is room. If not, it is only
    /// reported whether it does.
    pub back_when_full: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            clients: 20,
            topics: 4,
            payload_bytes: 1_024,
            disk_bytes: 12 << 20,
            ballast_bytes: 4 << 20,
            then: 500,
            back_when_full: true,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What was run.
    pub params: Params,
    /// Updates that were acknowledged until the disk was full.
    pub before: u64,
    /// Bytes of the server's files then.
    pub files: u64,
    /// What `/readyz` answered on the full disk.
    pub ready_when_full: u16,
    /// Whether the server, killed on the full disk, came back before there was room.
    pub back_when_full: bool,
    /// From when there was room until the publish that had been refused was acknowledged.
    pub room_to_acknowledged_ms: f64,
    /// Updates that were acknowledged in all.
    pub published: u64,
}

/// What was found of sweeps.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SweepReport {
    /// What was run.
    pub params: Params,
    /// How many of the newest updates of a topic are kept.
    pub retain_updates: u64,
    /// Updates that were acknowledged until the disk was full.
    pub before: u64,
    /// What a sweep on the full disk was answered.
    pub when_full: String,
    /// What sweeps were answered while the disk filled up, and how often.
    pub while_filling: BTreeMap<String, u64>,
    /// Sweeps that were begun and failed.
    pub failed: u64,
    /// Sweeps that could not be begun: even who leads could not be written. They are counted and recorded as failed, as
    /// those are, once there is room.
    pub not_begun: u64,
    /// Updates that were acknowledged in all.
    pub published: u64,
}

/// A server on a small disk, and who follows it.
struct Scene {
    params: Params,
    environment: Arc<Environment>,
    small_disk: SmallDisk,
    topics: Arc<Topics>,
    pool: ClientPool,
    publisher: ByHand,
}

/// Runs it, without sweeps.
///
/// # Errors
/// A [`Failure`] for anything that must not be, as the head of this file says, and where no small disk can be mounted.
pub async fn run(program: &Program, params: Params) -> Result<Report, Failure> {
    let (mut scene, mut server) = Scene::set(program, params, &Settings::default()).await?;
    scene.fill().await?;
    let (before, files) = (scene.topics.updates(), scene.small_disk.used()?);
    let files = files.saturating_sub(scene.params.ballast_bytes as u64);
    let ready = scene.environment.http()?.get("/readyz").await?;
    scene.serves(1).await?;

    scene.refuses().await?;

    server.kill().await?;
    server.restart()?;
    let back = server.answers("/healthz").await;
    let back_when_full = back.is_ok();
    match back {
        Ok(_) => {
            scene.serves(2).await?;
            scene.refuses().await?;
        }
        Err(fault) if scene.params.back_when_full => return Err(fault),
        Err(_) => {}
    }

    let room_at = micros();
    scene.small_disk.free(BALLAST)?;
    scene.small_disk.free(REST)?;
    if !back_when_full {
        scene.again(&mut server).await?;
    }
    scene.resume().await?;
    let room_to_acknowledged_ms = between(room_at, micros()).as_secs_f64() * 1_000.0;
    let mut left = scene.params.then;
    while left > 0 {
        let updates = left.min(BATCH);
        let refused = scene.publisher.publish(updates).await?;
        ensure(refused.is_none(), || refused.map_or_else(String::new, |answer| answer.words()))?;
        left -= updates;
    }
    scene.serves(2).await?;

    server.kill().await?;
    scene.again(&mut server).await?;
    scene.serves(3).await?;
    server.signal("TERM").await?;
    let status = server.ended(PATIENCE).await?;
    ensure(status.success(), || format!("the server that was told to stop ended with {status}"))?;
    scene.again(&mut server).await?;
    scene.serves(4).await?;
    let published = scene.topics.updates();
    scene.pool.leave().await?;
    Ok(Report {
        before,
        files,
        ready_when_full: ready.status.as_u16(),
        back_when_full,
        room_to_acknowledged_ms,
        published,
        params: scene.params,
    })
}

/// Runs it with sweeps that leave that many updates in each topic.
///
/// # Errors
/// As [`run`].
pub async fn run_with_sweeps(
    program: &Program,
    params: Params,
    retain_updates: u64,
) -> Result<SweepReport, Failure> {
    let settings = Settings { retain_updates: Some(retain_updates), ..Settings::default() };
    let (mut scene, mut server) = Scene::set(program, params, &settings).await?;
    scene.fill().await?;
    let before = scene.topics.updates();
    let mut answers = vec![scene.sweep().await?];
    scene.serves(1).await?;

    // Room for a moment, which something else takes while the sweep is under way: each time a little later.
    for turn in 0..FILLINGS {
        scene.small_disk.free(BALLAST)?;
        let fill = async {
            sleep(Duration::from_millis(turn)).await;
            scene.small_disk.fill_up(BALLAST)
        };
        let (answer, filled) = tokio::join!(scene.sweep(), fill);
        filled?;
        scene.serves(1).await?;
        let answer = answer?;
        let done = answer.status == StatusCode::OK;
        answers.push(answer);
        if done {
            break;
        }
    }

    scene.small_disk.free(BALLAST)?;
    scene.small_disk.free(REST)?;
    let answer = scene.sweep().await?;
    ensure(answer.status == StatusCode::OK, || {
        format!("there is room, and a sweep fails: {}", answer.words())
    })?;
    scene.resume().await?;
    scene.swept(retain_updates).await?;
    scene.serves(1).await?;
    let status = |status| answers.iter().filter(|answer| answer.status == status).count() as u64;
    let (failed, not_begun) =
        (status(StatusCode::INTERNAL_SERVER_ERROR), status(StatusCode::SERVICE_UNAVAILABLE));
    let counted = scene.environment.metrics().await?.count("khala_sweeps_total", &[("outcome", "failed")]);
    ensure(counted == failed + not_begun, || {
        format!("{failed} sweeps failed, {not_begun} could not be begun, and {counted} are counted as failed")
    })?;
    let recorded = scene.recorded("failed").await?;
    ensure(recorded == counted, || format!("{counted} sweeps failed, and {recorded} are recorded"))?;

    server.kill().await?;
    scene.again(&mut server).await?;
    scene.serves(2).await?;
    scene.resume().await?;
    scene.serves(2).await?;
    let published = scene.topics.updates();
    scene.pool.leave().await?;
    let mut outcomes = answers.iter().map(outcome);
    let when_full = outcomes.next().unwrap_or_default();
    let mut while_filling = BTreeMap::new();
    for outcome in outcomes {
        *while_filling.entry(outcome).or_insert(0) += 1;
    }
    let params = scene.params;
    Ok(SweepReport { params, retain_updates, before, when_full, while_filling, failed, not_begun, published })
}

impl Scene {
    /// A server on a small disk, with everybody joined.
    async fn set(program: &Program, params: Params, settings: &Settings) -> Result<(Self, Server), Failure> {
        // The drain is not what this is about.
        let settings = Settings { drain_seconds: 1, ..settings.clone() };
        let database = |folder: &Path| folder.join(DISK).join("khala.db");
        let environment = Arc::new(Environment::prepare_at(program, &settings, database)?);
        let disk = environment.folder().join(DISK);
        fs::create_dir(&disk).during("making a folder for the small disk")?;
        let small_disk = SmallDisk::with_disk(&disk, params.disk_bytes).await?;
        small_disk.fill(BALLAST, params.ballast_bytes)?;
        let server = environment.start_within(small_disk.entry()).await?;
        let topics = Arc::new(Topics::new(params.topics));
        let pool = ClientPool::start(
            &environment,
            &topics,
            &[Group::of(params.clients)],
            params.payload_bytes,
            Duration::ZERO,
        )?;
        pool.joined(1, PATIENCE).await?;
        let publisher = ByHand::new(&environment, &topics, params.payload_bytes)?;
        Ok((Self { params, environment, small_disk, topics, pool, publisher }, server))
    }

    /// Starts the server again, and waits until it answers.
    async fn again(&self, server: &mut Server) -> Result<(), Failure> {
        server.restart()?;
        server.answers("/healthz").await.map(drop)
    }

    /// Publishes until the disk is full, and fills what is left, so that nothing more fits.
    async fn fill(&mut self) -> Result<(), Failure> {
        let most = self.params.disk_bytes / self.params.payload_bytes as u64;
        loop {
            if let Some(refused) = self.publisher.publish(BATCH).await? {
                full(&refused)?;
                break;
            }
            let updates = self.topics.updates();
            ensure(updates < most, || {
                format!("{updates} updates fit on a disk that has no room for {most}")
            })?;
        }
        self.small_disk.fill_up(REST)?;
        Ok(())
    }

    /// Everything that was acknowledged can be read, live subscribers have it, and a new one gets it from the start.
    async fn serves(&self, joins: u32) -> Result<(), Failure> {
        let heads = self.topics.heads();
        self.topics.check_history(&self.environment).await?;
        self.pool.joined(joins, PATIENCE).await?;
        self.pool.reached(&[0], &heads, PATIENCE).await?;
        let new = [Group { from: From::Floor, ..Group::of(self.topics.count()) }];
        let new = ClientPool::start(
            &self.environment,
            &self.topics,
            &new,
            self.params.payload_bytes,
            Duration::ZERO,
        )?;
        new.reached(&[0], &heads, PATIENCE).await?;
        new.leave().await?;
        Ok(())
    }

    /// A publisher that tries again is told the same, and nothing of it is stored.
    async fn refuses(&mut self) -> Result<(), Failure> {
        for _ in 0..REFUSALS {
            let refused = self.publisher.publish(BATCH).await?;
            full(&refused.ok_or_else(|| Failure::new("a publish was acknowledged on the full disk"))?)?;
        }
        Ok(())
    }

    /// Orders a sweep.
    async fn sweep(&self) -> Result<Answer, Failure> {
        self.environment.operator().post(RETENTION, None, "{}".into()).await
    }

    /// How many of the last sweeps are recorded with that outcome.
    async fn recorded(&self, outcome: &str) -> Result<u64, Failure> {
        #[derive(Deserialize)]
        struct Record {
            outcome: String,
        }
        #[derive(Deserialize)]
        struct Status {
            records: Vec<Record>,
        }
        let answer = self.environment.operator().get(RETENTION).await?.success()?;
        let status: Status = serde_json::from_slice(&answer).during("reading the records of sweeps")?;
        Ok(status.records.iter().filter(|record| record.outcome == outcome).count() as u64)
    }

    /// Every topic keeps that many updates, and what was published since the sweep.
    async fn swept(&self, retain_updates: u64) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Bounds {
            floor: u64,
            head: u64,
        }
        let client = self.environment.http()?;
        for topic in (0..self.topics.count()).map(|topic| self.topics.name(topic)) {
            let answer = client.get(&format!("/v1/topics/{topic}")).await?.success()?;
            let Bounds { floor, head } =
                serde_json::from_slice(&answer).during("reading a topic's bounds")?;
            let kept = head - floor;
            ensure((retain_updates..=retain_updates + u64::from(BATCH)).contains(&kept), || {
                format!("{topic} keeps {kept} updates after a sweep that leaves {retain_updates}")
            })?;
        }
        Ok(())
    }

    /// Tries what was refused until it is acknowledged: as often as the server says, and no more often.
    async fn resume(&mut self) -> Result<(), Failure> {
        let begun = micros();
        while let Some(refused) = self.publisher.publish(BATCH).await? {
            let wait = full(&refused)?;
            ensure(between(begun, micros()) < PATIENCE, || {
                format!("there is room, and publishing is still refused: {}", refused.words())
            })?;
            sleep(wait).await;
        }
        Ok(())
    }
}

/// What became of a sweep, in a few words.
fn outcome(answer: &Answer) -> String {
    match answer.code() {
        Some(code) => format!("{} {code}", answer.status.as_u16()),
        None => answer.status.as_u16().to_string(),
    }
}

/// Checks that a publisher is told that the disk is full, and when to come back; gives that.
fn full(answer: &Answer) -> Result<Duration, Failure> {
    let told = answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.code().as_deref() == Some("full");
    ensure(told, || format!("a publish on a full disk: {}", answer.words()))?;
    answer.retry_after.ok_or_else(|| Failure::new("a publish on a full disk was not told when to come back"))
}
