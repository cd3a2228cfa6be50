//! `/internal/v1/khala/drain`: has this node's clients go elsewhere, before an operator stops the process.

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::order;
use crate::{
    openapi,
    problem::Problem,
    request::{Admin, Context, Empty, NoParams, Params, parse},
    response::json,
    shared::Shared,
};

/// There is nothing to say.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DrainOrder)]
struct Ordered {}

/// A drain that has begun.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Drain)]
struct Begun {
    /// WebSockets that are open now.
    connections: usize,
    /// In how many milliseconds the last of them will have been closed.
    drain_ms: u64,
    /// Whether it had been ordered before.
    already: bool,
}

/// Has this node's clients go elsewhere.
///
/// It is not ready from now on and takes no new WebSocket, and those that are open are told and closed one after the other. The
/// process goes on.
#[utoipa::path(
    post, path = "/internal/v1/khala/drain", operation_id = "drain", tag = "admin", security(("admin" = [])),
    params(openapi::RequestIdHeader),
    request_body(content = Ordered, content_type = "application/json", description = "There is nothing to say."),
    responses(
        (status = 202, body = Begun, description = "It has begun. Ordering it again changes nothing."),
        openapi::AdminRefusals,
        openapi::BodyRefusals,
    )
)]
pub(crate) async fn drain(
    State(shared): State<Shared>,
    _: Admin,
    Params(NoParams {}): Params<NoParams>,
    Context { request_id, .. }: Context,
    request: Request,
) -> Result<Response, Problem> {
    let body = order::read(&shared, request, Empty::Allowed).await?;
    if !body.is_empty() {
        let Ordered {} = parse(&body)?;
    }
    let already = !shared.0.drain.begin(&shared.0.khala);
    let connections = shared.0.khala.connections().count();
    let drain_ms = u64::try_from(shared.0.drain.ends_within().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(request_id = &*request_id, connections, drain_ms, already, "a drain was ordered");
    json(StatusCode::ACCEPTED, &Begun { connections, drain_ms, already })
}
