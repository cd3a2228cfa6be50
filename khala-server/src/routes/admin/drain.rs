//! `/internal/v1/khala/drain`: has this node's clients go elsewhere, before an operator stops the process.

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    problem::Problem,
    request::{Admin, Context, Empty, NoParams, Params, parse},
    routes::json,
    server::Shared,
};

/// `POST /internal/v1/khala/drain`
pub(crate) async fn drain(
    State(shared): State<Shared>,
    _: Admin,
    Params(NoParams {}): Params<NoParams>,
    Context { request_id, .. }: Context,
    request: Request,
) -> Result<Response, Problem> {
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
    let body = super::read(&shared, request, Empty::Allowed).await?;
    if !body.is_empty() {
        let Ordered {} = parse(&body)?;
    }
    let already = !shared.begin_drain();
    let connections = shared.0.khala.connections().count();
    let drain_ms = u64::try_from(shared.drains_within().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(request_id = &*request_id, connections, drain_ms, already, "a drain was ordered");
    json(StatusCode::ACCEPTED, &Begun { connections, drain_ms, already })
}
