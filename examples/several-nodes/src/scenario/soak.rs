//! A long run: several faults at a time, at random, and everything that loads the nodes beside them.
//!
//! # Invariants
//! What a node is expected to say of its readiness is changed when a fault begins and when it is healed, and by nothing
//! else. After every round all is healed, everybody catches up, and now and then everything is compared.

use std::{collections::BTreeMap, time::Duration};

use khala_scenarios::{
    checker,
    console::{count, say},
    rng::Rng,
};
use khala_testing::Failure;
use tokio::time::{Instant, sleep_until};

use super::{STEADY, Scenario};
use crate::{
    Fanout, Options, Store,
    faults::Fault,
    load::{Load, Loaded},
    publishers::index,
    setting::{NODES, rotate},
    watch::{Watched, Watching},
};

/// Rounds after which everything is compared; it is compared at the end, too.
const COMPARED_EVERY: u32 = 6;
/// A fault begins that long after the round, at most, and lasts that long.
const BEGINS_WITHIN: u64 = 4_000;
const LASTS: std::ops::RangeInclusive<u64> = 1_000..=12_000;
/// How often the key that signs changes.
const ROTATES_EVERY: Duration = Duration::from_secs(20);

/// What a long run came to.
#[derive(Debug)]
pub(crate) struct Soaked {
    rounds: u32,
    faults: BTreeMap<&'static str, u32>,
    rotations: u64,
    watched: Watched,
    loaded: Loaded,
}

impl Soaked {
    /// Prints it.
    pub(crate) fn tell(&self) {
        let Self { rounds, faults, rotations, watched, loaded } = self;
        say(format_args!("\n{rounds} rounds, {rotations} rotations of keys; faults:"));
        for (title, times) in faults {
            say(format_args!("  {times:>4} × {title}"));
        }
        say(watched);
        say(loaded);
    }
}

/// One fault of a round.
#[derive(Clone, Copy, Debug)]
struct Planned {
    fault: Fault,
    victim: usize,
    begins: Instant,
    ends: Instant,
}

impl Scenario<'_> {
    /// Goes on for that long; ends at the first difference. What it came to is there in any case.
    pub(crate) async fn soak(
        &mut self,
        lasts: Duration,
        memory_mib: u64,
    ) -> (Soaked, Result<Vec<checker::Fault>, Failure>) {
        let processes = self.setting.servers.iter().map(|server| (server.address(), server.process()));
        let watching = Watching::begin(processes.collect(), &self.setting.workspace);
        let load = Load::begin(&self.setting, self.options.clients);
        let mut soaked = Soaked {
            rounds: 0,
            faults: BTreeMap::new(),
            rotations: 0,
            watched: Watched::default(),
            loaded: Loaded::default(),
        };
        let mut played = self.rounds(lasts, &watching, &load, &mut soaked).await;
        soaked.watched = watching.end();
        soaked.loaded = load.end();
        if let Ok(found) = &played
            && found.is_empty()
            && let Some(wrong) = soaked.watched.objection(memory_mib).or_else(|| soaked.loaded.objection())
        {
            played = Err(Failure::new(wrong));
        }
        (soaked, played)
    }

    async fn rounds(
        &mut self,
        lasts: Duration,
        watching: &Watching,
        load: &Load,
        soaked: &mut Soaked,
    ) -> Result<Vec<checker::Fault>, Failure> {
        let until = Instant::now() + lasts;
        self.answered(Instant::now()).await?;
        self.reached(self.model.mark_all(Instant::now()), "at the start").await?;
        watching.all_is_well();
        let mut rotated = Instant::now();
        while Instant::now() < until {
            if rotated.elapsed() >= ROTATES_EVERY {
                rotated = Instant::now();
                soaked.rotations += 1;
                rotate(&self.setting.workspace, soaked.rotations).await?;
            }
            self.pass(STEADY).await?;
            let round = self.round(soaked, watching).await?;
            soaked.rounds += 1;
            let last = Instant::now() >= until;
            self.console.tell(format_args!(
                "round {}: {round}; {} updates, {} bulk, {} MiB at most",
                soaked.rounds,
                count(self.model.counts().updates),
                count(load.published()),
                watching.most_mib(),
            ));
            if soaked.rounds.is_multiple_of(COMPARED_EVERY) || last {
                let found = self.compare().await?;
                if !found.is_empty() {
                    return Ok(found);
                }
            }
        }
        Ok(Vec::new())
    }

    /// One round, from all being well to all being well; says what it was.
    async fn round(&mut self, soaked: &mut Soaked, watching: &Watching) -> Result<String, Failure> {
        let plan = draw(self.options, &mut self.rng);
        let mut moments: Vec<(Instant, bool, Planned)> = plan
            .iter()
            .flat_map(|planned| [(planned.begins, true, *planned), (planned.ends, false, *planned)])
            .collect();
        moments.sort_by_key(|(at, begins, _)| (*at, *begins));
        let mut database_lost = 0_u32;
        let mut waiting = Vec::new();
        for (at, begins, planned) in moments {
            let Planned { fault, victim, .. } = planned;
            self.guarded(sleep_until(at)).await?;
            let takes_database = matches!(fault, Fault::FillDisk | Fault::KillPostgres);
            if begins {
                *soaked.faults.entry(fault.title()).or_default() += 1;
                database_lost += u32::from(takes_database);
                watching.fault_begins(fault, victim);
                fault.inject(&mut self.setting, victim).await?;
                continue;
            }
            database_lost -= u32::from(takes_database);
            // A server does not start without its database.
            if fault == Fault::KillServer && database_lost > 0 {
                waiting.push(planned);
                continue;
            }
            self.heal(planned, watching).await?;
            if database_lost == 0 {
                for planned in std::mem::take(&mut waiting) {
                    self.heal(planned, watching).await?;
                }
            }
        }
        let healed = Instant::now();
        self.answered(healed).await?;
        let answered = healed.elapsed();
        self.reached(self.model.mark_all(healed), "after a round").await?;
        for server in &mut self.setting.servers {
            server.alive()?;
        }
        let titles: Vec<_> = plan.iter().map(|planned| planned.fault.title()).collect();
        Ok(format!(
            "{}; published again after {:.1} s, caught up after {:.1} s",
            titles.join(" + "),
            answered.as_secs_f64(),
            healed.elapsed().as_secs_f64()
        ))
    }

    async fn heal(&mut self, planned: Planned, watching: &Watching) -> Result<(), Failure> {
        let Planned { fault, victim, .. } = planned;
        fault.heal(&mut self.setting, victim).await?;
        if fault == Fault::KillServer {
            watching.restarted(victim, self.setting.servers[victim].process());
        }
        watching.fault_ends(fault, victim);
        Ok(())
    }
}

/// The faults of a round: at least one, at most one of each kind, at most one node down at a time.
fn draw(options: &Options, rng: &mut Rng) -> Vec<Planned> {
    let mut kinds: Vec<Vec<Fault>> = vec![vec![Fault::KillServer, Fault::PauseServer]];
    if options.store == Store::Postgres {
        let mut database = vec![Fault::KillPostgres];
        database.extend(options.disk.as_ref().map(|_| Fault::FillDisk));
        kinds.extend([database, vec![Fault::DropListen, Fault::SilentListen]]);
    }
    if options.fanout == Fanout::Nats {
        kinds.push(vec![Fault::KillNats, Fault::SilentNats]);
    }
    let now = Instant::now();
    loop {
        let mut plan = Vec::new();
        for kind in &kinds {
            if rng.number(0..=1) == 0 {
                continue;
            }
            let fault = kind[index(rng, kind.len())];
            let begins = now + Duration::from_millis(rng.number(0..=BEGINS_WITHIN));
            let ends = begins + Duration::from_millis(rng.number(LASTS));
            plan.push(Planned { fault, victim: index(rng, NODES), begins, ends });
        }
        if !plan.is_empty() {
            return plan;
        }
    }
}
