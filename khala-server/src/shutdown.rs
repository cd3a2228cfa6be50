//! The order in which a server stops, for `serve` and for applications.

use std::time::Duration;

use tokio::time::timeout;

use crate::{Server, shared::Inner};

/// How long last frames may take after the drain time.
const GRACE: Duration = Duration::from_secs(5);

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
        if timeout(self.shared.0.drain.ends_within() + GRACE, self.drained()).await.is_err() {
            tracing::warn!("some connections were still open after the drain time");
        }
    }

    /// Begins that, and returns at once. Does nothing when called again.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if there is an unready time.
    pub fn drain(&self) {
        let Inner { drain, khala, .. } = &*self.shared.0;
        drain.begin(khala);
    }

    /// Waits until no WebSocket of this service is open and, of a drain that has begun, the unready time is over. Cancel
    /// safe.
    pub async fn drained(&self) {
        let Inner { drain, upgraded, .. } = &*self.shared.0;
        drain.unready_is_over().await;
        // The sender is in `self`, so it cannot be gone.
        let _ = upgraded.subscribe().wait_for(|open| *open == 0).await;
    }
}
