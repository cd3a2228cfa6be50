//! Durable, resumable real-time sync over WebSocket and HTTP: routes to mount in an axum application, a tower service for any
//! other, and [`serve`] for a whole server.
//!
//! It is thin: order, resuming, limits and access are those of [`khala_core`]. This crate has sockets, routes, and the answers to
//! requests that are malformed or refused.
//!
//! | part | what it does |
//! | --- | --- |
//! | `serve` | accepts connections, and hands requests to the server |
//! | `server` | how an application makes and mounts it |
//! | `shared` | what all requests and connections share, and what goes on by itself |
//! | `connection/` | how many connections there may be, and how long each may stand still |
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

mod client_address;
mod compatibility;
mod connection;
mod document;
mod drain;
mod log_filter;
mod longpoll;
mod openapi;
mod options;
mod origins;
mod problem;
mod request;
mod request_limits;
mod request_metrics;
mod response;
mod router;
mod routes;
mod serve;
mod server;
mod shared;
mod shutdown;
mod timeouts;
mod websocket;
mod write_probe;

pub use self::{
    compatibility::{BuildError, ClientBuild, Compatibility, EmptyWindow, Window},
    document::openapi,
    log_filter::may_be_logged,
    options::{Limits, RevocationTerms},
    origins::{OriginError, Origins},
    serve::serve,
    server::{Server, ServerBuilder},
};
