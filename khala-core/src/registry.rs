//! The registry of a node's open connections: whose they are, what they hold, and how each of them is woken.
//!
//! # Invariants
//! - A connection has one entry, from when it is registered until its guard is dropped, and everything that is known of it for
//!   others stands there.
//! - The index leads from a name that can be revoked to the connections whose grant has it: a revocation wakes those that it
//!   may name, and no other connection.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    auth::{Grant, RevocationTarget},
    clock::{Moment, Now},
    replay::Waiter,
    stats::Stats,
    update::Timestamp,
    wake::{ConnectionWaker, WakeReasons},
};

/// The time between two closes of a drain need not be longer: few connections need less than the whole drain time.
const LONGEST_BETWEEN_CLOSES: Duration = Duration::from_millis(100);

/// One open connection, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenConnection {
    /// Whose it is.
    pub subject: String,
    /// Where it comes from, as far as that is known.
    pub address: Option<IpAddr>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Topics that it follows.
    pub channels: u64,
    /// Bytes that wait for the client to take them; none are counted while it takes everything at once.
    pub held_bytes: u64,
    /// For how long it has taken nothing, to the second; zero while it takes what it is sent.
    pub stalled_for: Duration,
}

/// The open connections of a node.
#[derive(Debug, Default)]
pub struct ConnectionRegistry {
    stats: Arc<Stats>,
    state: Mutex<State>,
    drain: OnceLock<Drain>,
    /// Connections that were given their time to close.
    draining: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    registered: u64,
    entries: HashMap<u64, Registered>,
    index: RevocationIndex,
}

#[derive(Debug)]
struct Registered {
    entry: Arc<ConnectionEntry>,
    held: HeldGrant,
}

/// A grant, and since when this node has known it.
#[derive(Clone, Debug)]
pub(crate) struct HeldGrant {
    pub(crate) grant: Grant,
    pub(crate) since: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    over: Duration,
    among: usize,
}

impl ConnectionRegistry {
    /// An empty registry that counts its connections in `stats`.
    pub(crate) fn new(stats: Arc<Stats>) -> Self {
        Self { stats, ..Self::default() }
    }

    /// How many connections are open.
    pub fn count(&self) -> usize {
        self.lock().entries.len()
    }

    /// How many topics the open connections follow, each counted once for every connection that follows it.
    pub fn channels(&self) -> u64 {
        self.lock().entries.values().map(|one| one.entry.channels.load(Ordering::Relaxed)).sum()
    }

    /// The open connections, at most `limit`: first those that have taken nothing for the longest time, then those for which
    /// the most bytes are held.
    pub fn list(&self, limit: NonZeroUsize) -> Vec<OpenConnection> {
        let mut open: Vec<_> = self.lock().entries.values().map(Registered::show).collect();
        open.sort_by_key(|one| std::cmp::Reverse((one.stalled_for, one.held_bytes)));
        open.truncate(limit.get());
        open
    }

    /// Tells every connection that the server stops, and closes them one after the other within `over`: the first at once, and
    /// each of the others 100 ms after the one before, or sooner where there are too many for that.
    ///
    /// Returns at once; [`count`](Self::count) says how many are left.
    pub fn drain(&self, over: Duration) {
        let among = self.count();
        if self.drain.set(Drain { over, among }).is_ok() {
            self.lock().entries.values().for_each(|one| one.entry.waker.wake(WakeReasons::DRAIN));
        }
    }

    /// A number that no connection has, for a subscriber without a connection.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.lock();
        state.registered += 1;
        state.registered
    }

    /// Registers a connection under `grant`, whose subject has that number.
    pub(crate) fn register(
        self: &Arc<Self>,
        grant: &Grant,
        subject: u64,
        address: Option<IpAddr>,
        now: Now,
    ) -> ConnectionGuard {
        let held = HeldGrant { grant: grant.clone(), since: now.steady };
        let mut state = self.lock();
        state.registered += 1;
        let entry = Arc::new(ConnectionEntry {
            id: state.registered,
            subject,
            address,
            opened_at: now.wall,
            channels: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            stalled_ms: AtomicU64::new(0),
            waker: Arc::default(),
        });
        state.index.insert(grant, entry.id);
        state.entries.insert(entry.id, Registered { entry: Arc::clone(&entry), held });
        drop(state);
        // The order wakes the connections that are registered; one that is registered later finds it given.
        if self.drain.get().is_some() {
            entry.waker.wake(WakeReasons::DRAIN);
        }
        self.stats.cells.connections.change(1);
        ConnectionGuard { registry: Arc::clone(self), entry }
    }

    /// Wakes the connections whose grant may have that name.
    pub(crate) fn wake(&self, name: &RevocableName<'_>) {
        let state = self.lock();
        for one in state.index.of(name).filter_map(|id| state.entries.get(&id)) {
            one.entry.waker.wake(WakeReasons::GRANT);
        }
    }

    /// The grants that may have that name, of the connections that have held theirs since `before` or longer.
    pub(crate) fn grants(&self, name: &RevocableName<'_>, before: Moment) -> Vec<Grant> {
        let state = self.lock();
        let held = state.index.of(name).filter_map(|id| Some(&state.entries.get(&id)?.held));
        held.filter(|held| held.since <= before).map(|held| held.grant.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    fn show(&self) -> OpenConnection {
        let entry = &self.entry;
        OpenConnection {
            subject: self.held.grant.subject().to_owned(),
            address: entry.address,
            opened_at: entry.opened_at,
            channels: entry.channels.load(Ordering::Relaxed),
            held_bytes: entry.held_bytes.load(Ordering::Relaxed),
            stalled_for: Duration::from_millis(entry.stalled_ms.load(Ordering::Relaxed)),
        }
    }
}

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionEntry {
    /// Its number, which no other has.
    id: u64,
    /// The number of its subject.
    subject: u64,
    address: Option<IpAddr>,
    opened_at: Timestamp,
    channels: AtomicU64,
    held_bytes: AtomicU64,
    stalled_ms: AtomicU64,
    waker: Arc<ConnectionWaker>,
}

impl ConnectionEntry {
    /// Sets how many topics it follows.
    pub(crate) fn set_channels(&self, channels: usize) {
        self.channels.store(channels as u64, Ordering::Relaxed);
    }

    /// Sets how many bytes are held for it.
    pub(crate) fn set_held_bytes(&self, bytes: u64) {
        self.held_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Sets for how long it has taken nothing.
    pub(crate) fn set_stalled_for(&self, stalled: Duration) {
        self.stalled_ms.store(u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Keeps a connection registered until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    registry: Arc<ConnectionRegistry>,
    entry: Arc<ConnectionEntry>,
}

impl ConnectionGuard {
    pub(crate) fn entry(&self) -> &Arc<ConnectionEntry> {
        &self.entry
    }

    /// What wakes its task.
    pub(crate) fn waker(&self) -> &Arc<ConnectionWaker> {
        &self.entry.waker
    }

    /// Who waits, where replays take turns.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter { subject: self.entry.subject, connection: self.entry.id }
    }

    /// Goes on under another grant of the same subject.
    pub(crate) fn replace_grant(&self, grant: &Grant, now: Moment) {
        let mut guard = self.registry.lock();
        let state = &mut *guard;
        let Some(one) = state.entries.get_mut(&self.entry.id) else { return };
        state.index.remove(&one.held.grant, self.entry.id);
        state.index.insert(grant, self.entry.id);
        one.held = HeldGrant { grant: grant.clone(), since: now };
    }

    /// After how long this connection is to be closed, so that the closes of all are spread evenly over the drain time or the
    /// part of it that they need; none without such an order. To be asked once.
    pub(crate) fn close_after(&self) -> Option<Duration> {
        let Drain { over, among } = *self.registry.drain.get()?;
        let place = self.registry.draining.fetch_add(1, Ordering::Relaxed) % among.max(1);
        let over = over.min(LONGEST_BETWEEN_CLOSES.saturating_mul(u32::try_from(among).unwrap_or(u32::MAX)));
        Some(over.mul_f64(place as f64 / among.max(1) as f64))
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        if let Some(one) = state.entries.remove(&self.entry.id) {
            state.index.remove(&one.held.grant, self.entry.id);
        }
        drop(state);
        self.registry.stats.cells.connections.change(-1);
    }
}

/// A name that a grant can be revoked by.
#[derive(Debug, Hash)]
pub(crate) enum RevocableName<'a> {
    Jti(&'a str),
    Kid(&'a str),
    Sid(&'a str),
    Sub(&'a str),
}

impl<'a> RevocableName<'a> {
    /// The name that a revocation gives.
    pub(crate) fn of(target: &'a RevocationTarget) -> Self {
        match target {
            RevocationTarget::Jti(id) => Self::Jti(id.as_str()),
            RevocationTarget::Sid(id) => Self::Sid(id.as_str()),
            RevocationTarget::Sub(id) => Self::Sub(id.as_str()),
        }
    }
}

/// Which connections hold a grant of a name, by the hash of the name and the connection's number.
///
/// A connection whose name has the same hash by chance is woken for nothing, and looks. A name may have as many connections as
/// there are, as that of a key does, so that removing one must not look through them.
#[derive(Debug, Default)]
struct RevocationIndex {
    hasher: RandomState,
    connections: BTreeSet<(u64, u64)>,
}

impl RevocationIndex {
    fn names(&self, grant: &Grant) -> impl Iterator<Item = u64> + use<> {
        let names = [
            grant.token_id().map(RevocableName::Jti),
            grant.key_id().map(RevocableName::Kid),
            grant.session_id().map(RevocableName::Sid),
            Some(RevocableName::Sub(grant.subject())),
        ];
        names.map(|name| name.map(|name| self.hasher.hash_one(name))).into_iter().flatten()
    }

    fn insert(&mut self, grant: &Grant, connection: u64) {
        self.connections.extend(self.names(grant).map(|name| (name, connection)));
    }

    fn remove(&mut self, grant: &Grant, connection: u64) {
        for name in self.names(grant) {
            self.connections.remove(&(name, connection));
        }
    }

    fn of(&self, name: &RevocableName<'_>) -> impl Iterator<Item = u64> {
        let hash = self.hasher.hash_one(name);
        self.connections.range((hash, 0)..=(hash, u64::MAX)).map(|(_, connection)| *connection)
    }
}
