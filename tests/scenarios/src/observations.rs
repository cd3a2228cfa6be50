//! What the clients of a pool went through, written down as it happens: where each stands, what befell it and when, how
//! late updates were, and what was wrong beside what the checker finds.
//!
//! # Invariants
//! A fault that a client finds is never lost: waiting for the pool fails with it.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use khala_testing::Histogram;

use crate::clock::micros;

/// Parts of a run, each with its own latencies, at most.
pub(crate) const LANES: usize = 16;
/// Faults that are kept; the first is what matters.
const FAULTS: usize = 16;

/// What befell a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// Its channel ended without being asked to.
    ChannelEnded,
    /// The connection ended: by a close frame with that code, or without one.
    Closed(Option<u16>),
    /// There was no connection: nobody listened, or it was cut.
    ConnectFailed(ErrorKind),
    /// The handshake was answered with this status.
    ConnectRefused(u16),
    /// The server says that it stops.
    Drain,
    /// A heartbeat was not answered before the next.
    HeartbeatUnanswered,
    /// The join was refused.
    JoinRefused { code: String, retry_after_ms: Option<u64> },
    /// The join was not answered in time.
    JoinUnanswered,
    /// The join was answered.
    Joined,
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) client: usize,
    pub(crate) at: u64,
    pub(crate) what: What,
}

/// Where a client stands.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Which group it is of.
    pub(crate) group: usize,
    /// Which topic it follows.
    pub(crate) topic: usize,
    pub(crate) watermark: AtomicU64,
    /// How often it has connected.
    pub(crate) connects: AtomicU32,
    /// How often it has joined.
    pub(crate) joins: AtomicU32,
    /// It is joined now.
    pub(crate) joined: AtomicBool,
    /// When it joined last.
    pub(crate) joined_at: AtomicU64,
    /// When it reached its topic's goal; 0 if it has not.
    pub(crate) reached_at: AtomicU64,
}

impl Standing {
    pub(crate) fn watermark(&self) -> u64 {
        self.watermark.load(Ordering::Acquire)
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.joined.load(Ordering::Acquire)
    }

    pub(crate) fn joins(&self) -> u32 {
        self.joins.load(Ordering::Acquire)
    }

    pub(crate) fn connects(&self) -> u32 {
        self.connects.load(Ordering::Acquire)
    }

    fn reach(&self, now: u64) {
        // Only the first time counts.
        let _ = self.reached_at.compare_exchange(0, now.max(1), Ordering::AcqRel, Ordering::Acquire);
    }
}

/// What the clients of a pool went through.
#[derive(Debug)]
pub(crate) struct Observations {
    pub(crate) clients: Vec<Standing>,
    /// By topic, the seq that its clients are to reach.
    goals: Vec<AtomicU64>,
    /// By group and lane.
    latency: Vec<Vec<Mutex<Histogram>>>,
    events: Mutex<Vec<Event>>,
    faults: Mutex<Vec<String>>,
    /// Connections that were tried.
    pub(crate) tries: AtomicU64,
    /// Updates that arrived for the first time.
    pub(crate) updates: AtomicU64,
    /// Updates that arrived again.
    pub(crate) repeated: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is whole after each line.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observations {
    pub(crate) fn new(clients: Vec<Standing>, groups: usize, topics: usize) -> Self {
        let lanes = || (0..LANES).map(|_| Mutex::default()).collect();
        Self {
            clients,
            goals: (0..topics).map(|_| AtomicU64::new(u64::MAX)).collect(),
            latency: (0..groups).map(|_| lanes()).collect(),
            events: Mutex::default(),
            faults: Mutex::default(),
            tries: AtomicU64::new(0),
            updates: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        }
    }

    pub(crate) fn note(&self, client: usize, what: What) {
        locked(&self.events).push(Event { client, at: micros(), what });
    }

    /// Writes down that the server did what it must not.
    pub(crate) fn fault(&self, client: usize, fault: &str) {
        let mut faults = locked(&self.faults);
        if faults.len() < FAULTS {
            faults.push(format!("client {client}: {fault}"));
        }
    }

    pub(crate) fn first_fault(&self) -> Option<String> {
        locked(&self.faults).first().cloned()
    }

    /// What has happened from that moment on.
    pub(crate) fn events_since(&self, moment: u64) -> Vec<Event> {
        locked(&self.events).iter().filter(|event| event.at >= moment).cloned().collect()
    }

    /// The latencies of a group in a lane.
    pub(crate) fn latency(&self, group: usize, lane: usize) -> MutexGuard<'_, Histogram> {
        locked(&self.latency[group][lane.min(LANES - 1)])
    }

    /// A client has everything up to `watermark`.
    pub(crate) fn advance(&self, client: usize, watermark: u64, now: u64) {
        let standing = &self.clients[client];
        standing.watermark.store(watermark, Ordering::Release);
        if watermark >= self.goals[standing.topic].load(Ordering::Acquire) {
            standing.reach(now);
        }
    }

    /// From now on clients are to reach these, by topic.
    pub(crate) fn set_goals(&self, goals: &[u64]) {
        for place in &self.goals {
            place.store(u64::MAX, Ordering::Release);
        }
        for client in &self.clients {
            client.reached_at.store(0, Ordering::Release);
        }
        for (place, goal) in self.goals.iter().zip(goals) {
            place.store(*goal, Ordering::Release);
        }
        // Who was there already may not move again.
        let now = micros();
        for client in &self.clients {
            if client.watermark() >= self.goals[client.topic].load(Ordering::Acquire) {
                client.reach(now);
            }
        }
    }

    /// When that client reached its goal.
    pub(crate) fn reached_at(&self, client: usize) -> Option<u64> {
        Some(self.clients[client].reached_at.load(Ordering::Acquire)).filter(|at| *at > 0)
    }

    /// The clients of a group.
    pub(crate) fn of_group(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.clients.len()).filter(move |client| self.clients[*client].group == group)
    }

    /// A few words on where the clients stand, for a wait that was too long.
    pub(crate) fn words(&self) -> String {
        let joined = self.clients.iter().filter(|client| client.is_joined()).count();
        let reached = (0..self.clients.len()).filter(|client| self.reached_at(*client).is_some()).count();
        let mut counts = BTreeMap::new();
        for event in locked(&self.events).iter() {
            *counts.entry(format!("{:?}", event.what)).or_insert(0_u64) += 1;
        }
        format!(
            "{joined} of {} are joined, {reached} have reached the goal; so far: {counts:?}",
            self.clients.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_by_who_comes_and_by_who_was_there() {
        let observations = Observations::new(vec![Standing::default(), Standing::default()], 1, 1);
        observations.advance(0, 5, 100);
        assert_eq!(observations.reached_at(0), None);
        observations.set_goals(&[5]);
        assert!(observations.reached_at(0).is_some());
        observations.advance(1, 4, 200);
        assert_eq!(observations.reached_at(1), None);
        observations.advance(1, 6, 300);
        observations.advance(1, 7, 400);
        assert_eq!(observations.reached_at(1), Some(300));
    }
}
