//! `/internal/v1/khala/drain`: has this node's clients go elsewhere, before an operator stops the process.

use std::error::Error as StdError;

use bytes::Bytes;
use http::{Response, StatusCode, request::Parts};
use http_body_util::Full;
use hyper::body::Body;
use serde::{Deserialize, Serialize};

use crate::{
    Server,
    body::{self, Empty},
    problem::Problem,
    query::Query,
    service::json,
};

/// `POST /internal/v1/khala/drain`
pub(crate) async fn drain<B>(
    server: &Server,
    head: &Parts,
    body: B,
    request_id: &str,
) -> Result<Response<Full<Bytes>>, Problem>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    /// There is nothing to say.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ordered {}
    #[derive(Serialize)]
    struct Begun {
        /// How many are open now.
        connections: usize,
        /// In how long the last of them will have been closed.
        drain_ms: u64,
        /// Whether it had been ordered before.
        already: bool,
    }
    Query::parse(head.uri.query(), &[])?;
    let body = super::read(server, head, body, Empty::Allowed).await?;
    if !body.is_empty() {
        let Ordered {} = body::parse(&body)?;
    }
    let already = !server.begin_drain();
    let connections = server.0.khala.connections().count();
    let drain_ms = u64::try_from(server.drains_within().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(request_id, connections, drain_ms, already, "a drain was ordered");
    json(StatusCode::ACCEPTED, &Begun { connections, drain_ms, already })
}
