//! The open connections of a handle: how many, who they are and what they hold, and the order to end them.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{Khala, revoked::Seat};
use crate::{
    admission::Waiter,
    auth::{Denied, Grant},
    telemetry,
    update::Timestamp,
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

    /// The open connections that are worst off, at most `limit`: first those that have taken nothing for longest, then
    /// those for which the most is held.
    pub fn open_connections(&self, limit: NonZeroUsize) -> Vec<OpenConnection> {
        let mut open: Vec<_> = self.0.connections.lock().values().map(|card| card.show()).collect();
        open.sort_by_key(|one| std::cmp::Reverse((one.stalled_for, one.held_bytes)));
        open.truncate(limit.get());
        open
    }

    /// Tells every connection that the server stops, and closes them one after the other within `over`.
    ///
    /// Returns at once; [`connections`](Self::connections) says how many are left.
    pub fn drain(&self, over: Duration) {
        let among = self.connections();
        self.0.connections.drain.send_replace(Some(Drain { over, among }));
    }
}

/// The open connections of a handle.
#[derive(Debug)]
pub(super) struct Connections {
    open: AtomicUsize,
    cards: Mutex<HashMap<u64, Arc<Card>>>,
    drain: watch::Sender<Option<Drain>>,
    drained: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    over: Duration,
    among: usize,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            open: AtomicUsize::new(0),
            cards: Mutex::default(),
            drain: watch::Sender::new(None),
            drained: AtomicUsize::new(0),
        }
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Card>>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection tells of itself.
#[derive(Debug)]
pub(crate) struct Card {
    subject: String,
    address: Option<IpAddr>,
    opened_at: Timestamp,
    channels: AtomicU64,
    held_bytes: AtomicU64,
    stalled_ms: AtomicU64,
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
            subject: self.subject.clone(),
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
    pub(super) fn new(
        connections: &Arc<Connections>,
        seat: Seat,
        principal: u64,
        (subject, address): (&str, Option<IpAddr>),
        now: Timestamp,
    ) -> Self {
        let card = Arc::new(Card {
            subject: subject.to_owned(),
            address,
            opened_at: now,
            channels: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            stalled_ms: AtomicU64::new(0),
        });
        connections.lock().insert(seat.number(), Arc::clone(&card));
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
    pub(crate) fn take(&mut self, grant: &Grant) {
        self.seat.take(grant);
    }

    /// Waits until the grant may have been taken back; [`check`](Self::check) says whether it was. Cancel safe.
    pub(crate) fn woken(&self) -> impl Future<Output = ()> + Send + 'static {
        self.seat.woken()
    }

    /// Whether the grant stands.
    pub(crate) fn check(&self, grant: &Grant) -> Result<(), Denied> {
        self.seat.check(grant)
    }

    /// Waits for the order to end; gives this connection's share of the time, so that closes are spread evenly.
    pub(crate) fn drained(&self) -> impl Future<Output = Duration> + Send + 'static {
        let connections = Arc::clone(&self.connections);
        let mut drain = connections.drain.subscribe();
        async move {
            let Ok(Some(Drain { over, among })) = drain.wait_for(Option::is_some).await.map(|drain| *drain)
            else {
                return std::future::pending().await;
            };
            let turn = connections.drained.fetch_add(1, Ordering::Relaxed) % among.max(1);
            over.mul_f64((turn + 1) as f64 / among.max(1) as f64)
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.seat.number());
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        telemetry::connections(-1.0);
    }
}
