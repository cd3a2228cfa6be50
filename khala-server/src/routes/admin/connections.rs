//! `/internal/v1/khala/connections`: who is connected to this node, and who takes the least of what is sent.

use std::net::IpAddr;

use axum::{extract::State, response::Response};
use http::StatusCode;
use khala_core::registry::OpenConnection;
use serde::{Deserialize, Serialize};

use super::rules::millis;
use crate::{
    openapi,
    problem::Problem,
    request::{Admin, Limit, Params},
    response::json,
    shared::Shared,
};

/// How many connections are told of.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ConnectionsQuery {
    /// How many of the slowest are told of.
    #[param(inline)]
    limit: Limit<20>,
}

/// The open connections of this node.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = OpenConnections)]
struct Connections {
    open: usize,
    /// Topics that they follow, each counted once for every connection.
    channels: u64,
    /// What is held for those that do not take it.
    outbox_bytes: u64,
    /// First those that have taken nothing for longest, then those for which the most is held.
    slowest: Vec<Open>,
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = OpenConnection)]
struct Open {
    subject: String,
    /// Where it comes from, as far as that is known.
    #[schema(value_type = Option<String>, required)]
    address: Option<IpAddr>,
    #[schema(value_type = openapi::Timestamp)]
    opened_at: u64,
    channels: u64,
    held_bytes: u64,
    /// For how long it has taken nothing.
    stalled_ms: u64,
}

/// Counts the open connections of this node, and tells of the slowest.
#[utoipa::path(
    get, path = "/internal/v1/khala/connections", operation_id = "countConnections", tag = "admin", security(("admin" = [])),
    params(ConnectionsQuery),
    responses(
        (status = 200, body = Connections, description = "How many are open, and which take the least."),
        openapi::AdminRefusals,
    )
)]
pub(crate) async fn connections(
    State(shared): State<Shared>,
    _: Admin,
    Params(query): Params<ConnectionsQuery>,
) -> Result<Response, Problem> {
    let Limit(limit) = query.limit;
    let khala = &shared.0.khala;
    let show = |connection| {
        let OpenConnection { subject, address, opened_at, channels, held_bytes, stalled_for, .. } =
            connection;
        Open {
            subject,
            address,
            opened_at: opened_at.as_millis(),
            channels,
            held_bytes,
            stalled_ms: millis(stalled_for),
        }
    };
    json(
        StatusCode::OK,
        &Connections {
            open: khala.connections().count(),
            channels: khala.connections().channels(),
            outbox_bytes: khala.stats().counters().outbox_bytes,
            slowest: khala.connections().list(limit).into_iter().map(show).collect(),
        },
    )
}
