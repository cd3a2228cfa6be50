//! Durable, resumable real-time sync over WebSocket and HTTP: routes to mount in an axum application, a tower service for any
//! other, and [`serve`] for a whole server.
//!
//! It is thin: order, resuming, limits and access are those of [`khala_core`]. This crate has sockets, routes, and the answers to
//! requests that are malformed or refused.
//!
//! | part | what it does |
//! | --- | --- |
//! | `listener/` | accepts connections, gives up those that stand still, hands requests to the router |
//! | `router` | which path is answered by which route; what all of them have in common: log, metrics, limits, origins |
//! | `request/` | what routes take from a request: token, topic, query, body |
//! | `routes/` | one file for each kind of route |
//! | `websocket/` | the upgrade, and the frames of a connection |
//! | `document`, `openapi/` | the OpenAPI document, from the types and handlers of the routes |
//! | `shutdown` | the order in which a server stops |
//!
//! # Invariants
//! - Nothing that a client sends can stop the server or touch another client.
//! - No token reaches a log.
//!
//! # Example
//! An axum application with a route of its own, and Khala under a prefix:
//!
//! ```
//! # use std::{net::SocketAddr, sync::Arc};
//! # use axum::{Router, routing::get};
//! # use khala_auth::{JwtOptions, JwtVerifier};
//! # use khala_core::{Khala, MemoryStore, wire::PathPrefix};
//! # use khala_server::Server;
//! # async fn mount(listener: tokio::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
//! let verifier = JwtVerifier::hs256(b"thirty-two bytes that are secret", JwtOptions::default())?;
//! let khala = Khala::builder(MemoryStore::new()).with_verifier(Arc::new(verifier)).build();
//! let server = Server::builder(khala).with_path_prefix(PathPrefix::parse("/realtime")?).build();
//!
//! let app = Router::new().route("/", get(|| async { "hello" })).nest("/realtime", server.router());
//! let stop = async move {
//!     let _ = tokio::signal::ctrl_c().await;
//!     server.shut_down().await;
//! };
//! let app = app.into_make_service_with_connect_info::<SocketAddr>(); // for limits per address
//! axum::serve(listener, app).with_graceful_shutdown(stop).await?;
//! # Ok(())
//! # }
//! ```

mod compatibility;
mod document;
mod listener;
mod log_filter;
mod openapi;
mod origins;
mod problem;
mod request;
mod request_metrics;
mod router;
mod routes;
mod server;
mod shutdown;
mod websocket;

use std::{num::NonZeroU32, time::Duration};

use khala_core::config::{or_none, seconds};
use serde::{Deserialize, Serialize};

pub use self::{
    compatibility::{BuildError, ClientBuild, Compatibility, EmptyWindow, Window},
    document::openapi,
    listener::serve,
    log_filter::may_be_logged,
    origins::{OriginError, Origins},
    routes::RevocationTerms,
    server::{Server, ServerBuilder},
};

/// What clients may send, and how long they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct Limits {
    /// Bytes of a request's body; of a stream of updates, of one line. Default: 8 MiB.
    pub body_bytes: usize,
    /// How long a request's body may take to arrive; of a stream of updates, the next line, and what a line may
    /// wait for a rate. Default: 30 s.
    #[serde(rename = "body_timeout_seconds", with = "seconds")]
    pub body_timeout: Duration,
    /// Bytes of a WebSocket message from a client, and of each of its frames. Default: 64 KiB.
    pub frame_bytes: usize,
    /// Connections over HTTP open at once, of all clients, that are not WebSockets. Set this and
    /// `admission.connections` so that together they stay below the number of files that the process may open.
    /// Default: no limit.
    #[serde(with = "or_none")]
    pub http_connections: Option<NonZeroU32>,
    /// HTTP connections of one address (IPv6: one /64) open at once, but for those of trusted proxies. Default:
    /// no limit.
    #[serde(with = "or_none")]
    pub http_connections_per_address: Option<NonZeroU32>,
    /// Requests under way at once of one token's `sub`. A request ends when its client has taken the answer, or
    /// is gone, and what it publishes is stored. A stream of updates is one request, and a WebSocket is none.
    /// Default: no limit.
    #[serde(with = "or_none")]
    pub requests_per_subject: Option<NonZeroU32>,
    /// Requests under way at once of one address (behind trusted proxies: of the client's). Default: no limit.
    #[serde(with = "or_none")]
    pub requests_per_address: Option<NonZeroU32>,
    /// How long the head of a request may take to arrive, from its first byte; on a new connection from its
    /// start. Default: 10 s.
    #[serde(rename = "header_timeout_seconds", with = "seconds")]
    pub header_timeout: Duration,
    /// How long a connection stays open between two requests. Set it longer than a load balancer in front keeps
    /// its own connections (often 60 s): a request that meets the close is lost. Default: 75 s.
    #[serde(rename = "keep_alive_timeout_seconds", with = "seconds")]
    pub keep_alive_timeout: Duration,
    /// Bytes that the operating system may buffer for one client. The system takes bytes from the server in
    /// steps of about a third of its buffer: with a large one, a client that reads slowly looks like one that
    /// takes nothing. None: the system decides. Default: 256 KiB.
    #[serde(with = "or_none")]
    pub send_buffer_bytes: Option<usize>,
    /// How long a client may take nothing of an answer over HTTP. Default: 30 s.
    #[serde(rename = "stall_timeout_seconds", with = "seconds")]
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            body_timeout: Duration::from_secs(30),
            frame_bytes: 64 << 10,
            http_connections: None,
            http_connections_per_address: None,
            requests_per_subject: None,
            requests_per_address: None,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            send_buffer_bytes: Some(256 << 10),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        let of = |text: &str| {
            serde_json::from_str::<Limits>(text).map(|options| serde_json::to_value(options).unwrap())
        };
        let defaults = serde_json::to_value(Limits::default()).unwrap();
        assert_eq!(of("{}").unwrap(), defaults);
        assert_eq!(of(&defaults.to_string()).unwrap(), defaults);
        assert!(of(r#"{"body_seconds": 1}"#).unwrap_err().to_string().contains("unknown field"));
    }
}
