//! How a server takes leave: first only its readiness is off, then its connections are told and closed one by one.
//!
//! # Invariants
//! It begins once and goes on by itself, and everything but WebSockets and streams of updates is served until the process ends.

use std::{sync::OnceLock, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::Server;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has not begun.
    Serving,
    /// It says that it is not ready, and waits until that was noticed.
    Unready,
    /// Connections are told and closed.
    Closing,
}

#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) unready: Duration,
    pub(crate) over: Duration,
    began: OnceLock<Instant>,
    phase: watch::Sender<Phase>,
}

impl Drain {
    pub(crate) fn new(unready: Duration, over: Duration) -> Self {
        Self { unready, over, began: OnceLock::new(), phase: watch::Sender::new(Phase::Serving) }
    }
}

impl Server {
    /// Turns readiness off and lets no new WebSocket in; after the [unready
    /// time](crate::ServerBuilder::with_unready), has every open one told and closed within the [drain
    /// time](crate::ServerBuilder::with_drain). Everything else is answered as before.
    ///
    /// Returns at once, and does nothing when called again. [`serve`](crate::serve()) does it by itself; an application
    /// that mounts the service calls it, and then waits for [`drained`](Self::drained), before it exits.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if there is an unready time.
    pub fn drain(&self) {
        self.begin_drain();
    }

    /// Waits until no WebSocket of this service is open and, of a drain that has begun, the unready time is over. Cancel
    /// safe.
    pub async fn drained(&self) {
        // The senders are in `self`, so they cannot be gone.
        let _ = self.0.drain.phase.subscribe().wait_for(|phase| *phase != Phase::Unready).await;
        let _ = self.0.upgraded.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Whether this call is the one that began it.
    pub(crate) fn begin_drain(&self) -> bool {
        let Drain { unready, over, began, phase } = &self.0.drain;
        if began.set(Instant::now()).is_err() {
            return false;
        }
        if unready.is_zero() {
            phase.send_replace(Phase::Closing);
            self.0.khala.connections().drain(*over);
            return true;
        }
        phase.send_replace(Phase::Unready);
        let (khala, phase, unready, over) = (self.0.khala.clone(), phase.clone(), *unready, *over);
        tokio::spawn(async move {
            sleep(unready).await;
            khala.connections().drain(over);
            phase.send_replace(Phase::Closing);
        });
        true
    }

    /// In how long every connection will have been closed, of a drain that has begun.
    pub(crate) fn drains_within(&self) -> Duration {
        let Drain { unready, over, began, .. } = &self.0.drain;
        let elapsed = began.get().map_or(Duration::ZERO, Instant::elapsed);
        (*unready + *over).saturating_sub(elapsed)
    }

    /// Waits until connections are told to go. Cancel safe.
    pub(crate) async fn closing(&self) {
        // The sender is in `self`, so it cannot be gone.
        let _ = self.0.drain.phase.subscribe().wait_for(|phase| *phase == Phase::Closing).await;
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.0.drain.phase.borrow() == Phase::Closing
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.drain.began.get().is_some()
    }
}
