//! What the nodes say of their readiness, held against what is known, and how much memory they take.
//!
//! # Invariants
//! An answer counts as wrong only from the moment at which it could be known to be: the later of the last change of what
//! is expected, and the first wrong answer.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ::http::StatusCode;
use khala_scenarios::{http::Client, workspace::Workspace};
use khala_testing::usage::Processes;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::faults::Fault;

const LOOK_EVERY: Duration = Duration::from_millis(250);
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Readiness may be wrong for that long, after what it tells of has changed.
const WRONG_AT_MOST: Duration = Duration::from_secs(15);

/// Those who look.
#[derive(Debug)]
pub(crate) struct Watching {
    nodes: Vec<Arc<Mutex<Node>>>,
    lookers: JoinSet<()>,
}

#[derive(Debug)]
struct Node {
    process: Option<u32>,
    well: bool,
    /// It is killed or stands still, so that nothing that it says is wrong.
    mute: bool,
    /// Faults of the database that are under way.
    without_database: u32,
    /// When what is expected changed last.
    changed: Instant,
    wrong_since: Option<Instant>,
    seen: Watched,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    looks: u64,
    /// The longest time that a node said it was ready and was not, and the other way around, and what it said.
    ready_wrongly: (Duration, String),
    unready_wrongly: (Duration, String),
    most_kib: u64,
    /// What kept it from looking.
    broken: Option<String>,
}

impl Watching {
    /// Starts to look at these nodes.
    pub(crate) fn begin(nodes: Vec<(SocketAddr, Option<u32>)>, workspace: &Arc<Workspace>) -> Self {
        let mut lookers = JoinSet::new();
        let watched = nodes.into_iter().map(|(address, process)| {
            let node = Arc::new(Mutex::new(Node {
                process,
                well: false,
                mute: false,
                without_database: 0,
                changed: Instant::now(),
                wrong_since: None,
                seen: Watched::default(),
            }));
            lookers.spawn(look(address, Arc::clone(workspace), Arc::clone(&node)));
            node
        });
        Self { nodes: watched.collect(), lookers }
    }

    /// From now on a node without a fault is expected to be ready.
    pub(crate) fn all_is_well(&self) {
        self.each(|node| node.well = true);
    }

    pub(crate) fn fault_begins(&self, fault: Fault, victim: usize) {
        match fault {
            Fault::KillServer | Fault::PauseServer => self.change(victim, |node| node.mute = true),
            Fault::FillDisk | Fault::KillPostgres => self.each(|node| node.without_database += 1),
            _ => {}
        }
    }

    pub(crate) fn fault_ends(&self, fault: Fault, victim: usize) {
        match fault {
            Fault::KillServer | Fault::PauseServer => self.change(victim, |node| node.mute = false),
            Fault::FillDisk | Fault::KillPostgres => self.each(|node| node.without_database -= 1),
            _ => {}
        }
    }

    /// A node has another process now.
    pub(crate) fn restarted(&self, node: usize, process: Option<u32>) {
        self.change(node, |node| node.process = process);
    }

    /// The most memory that any node took so far.
    pub(crate) fn most_mib(&self) -> u64 {
        self.nodes.iter().map(|node| lock(node).seen.most_kib).max().unwrap_or_default() >> 10
    }

    fn each(&self, change: impl Fn(&mut Node)) {
        (0..self.nodes.len()).for_each(|node| self.change(node, &change));
    }

    fn change(&self, node: usize, change: impl FnOnce(&mut Node)) {
        let mut node = lock(&self.nodes[node]);
        change(&mut node);
        node.changed = Instant::now();
    }

    /// What all of them came to.
    pub(crate) fn end(mut self) -> Watched {
        let mut all = Watched::default();
        // None of them ends but by a panic.
        while let Some(ended) = self.lookers.try_join_next() {
            all.broken = ended.err().map(|panic| format!("nobody looked at a node: {panic}"));
        }
        for node in &self.nodes {
            let seen = lock(node).seen.clone();
            all.looks += seen.looks;
            all.most_kib = all.most_kib.max(seen.most_kib);
            for (most, other) in [
                (&mut all.ready_wrongly, seen.ready_wrongly),
                (&mut all.unready_wrongly, seen.unready_wrongly),
            ] {
                if other.0 > most.0 {
                    *most = other;
                }
            }
        }
        all
    }
}

fn lock(node: &Mutex<Node>) -> MutexGuard<'_, Node> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look(address: SocketAddr, workspace: Arc<Workspace>, node: Arc<Mutex<Node>>) {
    loop {
        sleep(LOOK_EVERY).await;
        let Ok(token) = workspace.token() else { continue };
        let answer = timeout(ANSWER_WITHIN, Client::new(address, token).get("/readyz")).await;
        let (ready, said) = match answer {
            Ok(Ok(answer)) => (answer.status == StatusCode::OK, answer.words()),
            Ok(Err(failure)) => (false, failure.to_string()),
            Err(late) => (false, late.to_string()),
        };
        lock(&node).take(ready, said);
    }
}

impl Node {
    fn take(&mut self, ready: bool, said: String) {
        self.seen.looks += 1;
        let usage = self.process.and_then(|id| Processes::new(vec![id]).usage().ok());
        let resident = usage.map_or(0, |usage| usage.resident >> 10);
        self.seen.most_kib = self.seen.most_kib.max(resident);
        let expected = self.without_database == 0;
        if !self.well || self.mute || ready == expected {
            self.wrong_since = None;
            return;
        }
        let since = (*self.wrong_since.get_or_insert_with(Instant::now)).max(self.changed);
        let wrong = if ready { &mut self.seen.ready_wrongly } else { &mut self.seen.unready_wrongly };
        if since.elapsed() > wrong.0 {
            *wrong = (since.elapsed(), said);
        }
    }
}

impl Watched {
    /// What is not as it has to be.
    pub(crate) fn objection(&self, memory_mib: u64) -> Option<String> {
        if self.broken.is_some() {
            return self.broken.clone();
        }
        for (how, (longest, said)) in [("ready", &self.ready_wrongly), ("not ready", &self.unready_wrongly)] {
            if *longest > WRONG_AT_MOST {
                return Some(format!(
                    "a node said for {:.1} s wrongly that it was {how}: {said}",
                    longest.as_secs_f64()
                ));
            }
        }
        let mib = self.most_kib >> 10;
        (mib > memory_mib).then(|| format!("a node took {mib} MiB of memory; it may take {memory_mib}"))
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { looks, ready_wrongly, unready_wrongly, most_kib, .. } = self;
        write!(
            f,
            "readiness: {looks} answers; ready and not in truth for {:.1} s at most, not ready and in truth for {:.1} s at most \
             ({}); memory of a node: {} MiB at most",
            ready_wrongly.0.as_secs_f64(),
            unready_wrongly.0.as_secs_f64(),
            unready_wrongly.1,
            most_kib >> 10
        )
    }
}
