//! How far a server is that stops: first only its readiness is off, then its connections are told and closed one by one.
//!
//! # Invariants
//! It begins once and goes on by itself, and everything but WebSockets and streams of updates is served until the process ends.

use std::{sync::OnceLock, time::Duration};

use khala_core::Khala;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

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

/// The drain of a server, begun or not.
#[derive(Debug)]
pub(crate) struct Drain {
    /// How long only readiness is off.
    pub(crate) unready: Duration,
    /// Over how long connections are closed after that.
    pub(crate) over: Duration,
    began: OnceLock<Instant>,
    phase: watch::Sender<Phase>,
}

impl Drain {
    pub(crate) fn new(unready: Duration, over: Duration) -> Self {
        Self { unready, over, began: OnceLock::new(), phase: watch::Sender::new(Phase::Serving) }
    }

    /// Begins the drain. False if it had begun before.
    pub(crate) fn begin(&self, khala: &Khala) -> bool {
        let Self { unready, over, began, phase } = self;
        if began.set(Instant::now()).is_err() {
            return false;
        }
        if unready.is_zero() {
            phase.send_replace(Phase::Closing);
            khala.connections().drain(*over);
            return true;
        }
        phase.send_replace(Phase::Unready);
        let (khala, phase, unready, over) = (khala.clone(), phase.clone(), *unready, *over);
        tokio::spawn(async move {
            sleep(unready).await;
            khala.connections().drain(over);
            phase.send_replace(Phase::Closing);
        });
        true
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.began.get().is_some()
    }

    /// The time until every connection is closed, once the drain has begun.
    pub(crate) fn ends_within(&self) -> Duration {
        let elapsed = self.began.get().map_or(Duration::ZERO, Instant::elapsed);
        (self.unready + self.over).saturating_sub(elapsed)
    }

    /// Whether connections are being told to go.
    pub(crate) fn is_closing(&self) -> bool {
        *self.phase.borrow() == Phase::Closing
    }

    /// Waits until connections are being told to go. Cancel safe.
    pub(crate) async fn closing(&self) {
        // The sender is in `self`, so it cannot be gone.
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Closing).await;
    }

    /// Waits until the time is over in which only readiness is off. Cancel safe.
    pub(crate) async fn unready_is_over(&self) {
        // As above.
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Unready).await;
    }
}
