//! The open connections of a handle: how many, who they are and what they hold, and the order to end them.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    auth::{Denied, Grant, Seat},
    clock::Moment,
    khala::Khala,
    replay::Waiter,
    telemetry,
    update::Timestamp,
    wake::{Bell, Why},
};

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

impl Khala {
    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.0.connections.open.load(Ordering::Relaxed)
    }

    /// How many topics the open connections follow, each counted once for every connection that follows it.
    pub fn channels(&self) -> u64 {
        self.0.connections.lock().values().map(|card| card.channels.load(Ordering::Relaxed)).sum()
    }

    /// The open connections that are worst off, at most `limit`: first those that have taken nothing for longest, then
    /// those for which the most is held.
    pub fn open_connections(&self, limit: NonZeroUsize) -> Vec<OpenConnection> {
        let mut open: Vec<_> = self.0.connections.lock().values().map(|card| card.show()).collect();
        open.sort_by_key(|one| std::cmp::Reverse((one.stalled_for, one.held_bytes)));
        open.truncate(limit.get());
        open
    }

    /// Tells every connection that the server stops, and closes them one after the other within `over`: the first at once, and
    /// each of the others 100 ms after the one before, or sooner where there are too many for that.
    ///
    /// Returns at once; [`connections`](Self::connections) says how many are left.
    pub fn drain(&self, over: Duration) {
        let among = self.connections();
        let connections = &self.0.connections;
        if connections.drain.set(Drain { over, among }).is_ok() {
            connections.lock().values().for_each(|card| card.bell.ring(Why::DRAIN));
        }
    }
}

/// Closes that are further apart than this spare nobody anything: few connections need less than the time that a drain may take.
const EACH_CLOSE: Duration = Duration::from_millis(100);

/// The open connections of a handle.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: AtomicUsize,
    cards: Mutex<HashMap<u64, Arc<Card>>>,
    drain: OnceLock<Drain>,
    drained: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    over: Duration,
    among: usize,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Card>>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection tells of itself.
#[derive(Debug)]
pub(crate) struct Card {
    /// Whose it is: a fresh token is of the same subject.
    grant: Grant,
    address: Option<IpAddr>,
    opened_at: Timestamp,
    channels: AtomicU64,
    held_bytes: AtomicU64,
    stalled_ms: AtomicU64,
    bell: Arc<Bell>,
}

impl Card {
    /// It follows so many topics.
    pub(crate) fn follows(&self, channels: usize) {
        self.channels.store(channels as u64, Ordering::Relaxed);
    }

    /// So much is held for it.
    pub(crate) fn holds(&self, bytes: u64) {
        self.held_bytes.store(bytes, Ordering::Relaxed);
    }

    /// It has taken nothing for so long.
    pub(crate) fn stalls(&self, stalled: Duration) {
        self.stalled_ms.store(u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn show(&self) -> OpenConnection {
        OpenConnection {
            subject: self.grant.subject().to_owned(),
            address: self.address,
            opened_at: self.opened_at,
            channels: self.channels.load(Ordering::Relaxed),
            held_bytes: self.held_bytes.load(Ordering::Relaxed),
            stalled_for: Duration::from_millis(self.stalled_ms.load(Ordering::Relaxed)),
        }
    }
}

/// Counts a connection for as long as it is open, and hears what ends it.
#[derive(Debug)]
pub(crate) struct Connected {
    connections: Arc<Connections>,
    seat: Seat,
    principal: u64,
    card: Arc<Card>,
}

impl Connected {
    pub(crate) fn new(
        connections: &Arc<Connections>,
        seat: Seat,
        principal: u64,
        (grant, address): (Grant, Option<IpAddr>),
        bell: Arc<Bell>,
        now: Timestamp,
    ) -> Self {
        let card = Arc::new(Card {
            grant,
            address,
            opened_at: now,
            channels: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            stalled_ms: AtomicU64::new(0),
            bell,
        });
        connections.lock().insert(seat.number(), Arc::clone(&card));
        // The order reaches who is in the list; who came after it finds that it was given.
        if connections.drain.get().is_some() {
            card.bell.ring(Why::DRAIN);
        }
        connections.open.fetch_add(1, Ordering::Relaxed);
        telemetry::connections(1.0);
        Self { connections: Arc::clone(connections), seat, principal, card }
    }

    /// What it tells of itself.
    pub(crate) fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// Who waits, where turns are taken.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter { principal: self.principal, connection: self.seat.number() }
    }

    /// Goes on under another grant.
    pub(crate) fn take(&mut self, grant: &Grant, now: Moment) {
        self.seat.take(grant, now);
    }

    /// What its task is woken by.
    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.card.bell
    }

    /// Whether the grant stands.
    pub(crate) fn check(&self, grant: &Grant) -> Result<(), Denied> {
        self.seat.check(grant)
    }

    /// When this connection is to be closed, so that the closes of all are spread evenly over the drain time or the part of it
    /// that they need; none without such an order. To be asked once.
    pub(crate) fn drained(&self) -> Option<Duration> {
        let Drain { over, among } = *self.connections.drain.get()?;
        let turn = self.connections.drained.fetch_add(1, Ordering::Relaxed) % among.max(1);
        let over = over.min(EACH_CLOSE.saturating_mul(u32::try_from(among).unwrap_or(u32::MAX)));
        Some(over.mul_f64(turn as f64 / among.max(1) as f64))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.seat.number());
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        telemetry::connections(-1.0);
    }
}
