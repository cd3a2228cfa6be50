//! How a server stops: first only its readiness is off, then its connections are told and closed one by one.
//!
//! # Invariants
//! It begins once and goes on by itself, and everything but WebSockets and streams of updates is served until the process ends.

use std::{sync::OnceLock, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    Server,
    server::{Inner, Shared},
};

/// How long last frames may take after the drain time.
const GRACE: Duration = Duration::from_secs(5);

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
    /// Stops in the order that costs clients least: turns readiness off and lets no new WebSocket in; after the [unready
    /// time](crate::ServerBuilder::with_readiness_grace) has every open one told and closed within the [drain
    /// time](crate::ServerBuilder::with_drain); and returns when the last is closed, or five seconds after that time.
    ///
    /// The port has to go on accepting meanwhile: a health check that connects anew is told that the server is not ready,
    /// and publishers notice nothing. [`serve`](crate::serve()) does all of this by itself. With axum it is the graceful
    /// shutdown signal of an application:
    ///
    /// ```
    /// # use std::net::SocketAddr;
    /// # async fn run(listener: tokio::net::TcpListener, server: khala_server::Server) -> std::io::Result<()> {
    /// // With the peer's address, which limits per address need.
    /// let app = server.router().into_make_service_with_connect_info::<SocketAddr>();
    /// let stop = async move {
    ///     let _ = tokio::signal::ctrl_c().await;
    ///     server.shut_down().await;
    /// };
    /// axum::serve(listener, app).with_graceful_shutdown(stop).await
    /// # }
    /// ```
    ///
    /// axum then waits for the connections on which a request is under way, without a bound of its own: an application that has to
    /// end in time sets one, as [`serve`](crate::serve()) does.
    ///
    /// # Cancellation
    /// What was begun goes on when the future is dropped.
    pub async fn shut_down(&self) {
        self.drain();
        if timeout(self.shared.drains_within() + GRACE, self.drained()).await.is_err() {
            tracing::warn!("some connections were still open after the drain time");
        }
    }

    /// Begins that, and returns at once. Does nothing when called again.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if there is an unready time.
    pub fn drain(&self) {
        self.shared.begin_drain();
    }

    /// Waits until no WebSocket of this service is open and, of a drain that has begun, the unready time is over. Cancel
    /// safe.
    pub async fn drained(&self) {
        let Inner { drain, upgraded, .. } = &*self.shared.0;
        // The senders are in `self`, so they cannot be gone.
        let _ = drain.phase.subscribe().wait_for(|phase| *phase != Phase::Unready).await;
        let _ = upgraded.subscribe().wait_for(|open| *open == 0).await;
    }
}

impl Shared {
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
