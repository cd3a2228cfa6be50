//! `/internal/v1/khala/connections`: who is connected to this node, and who takes the least of what is sent.

use std::net::IpAddr;

use axum::{extract::State, response::Response};
use http::StatusCode;
use khala_core::registry::OpenConnection;
use serde::{Deserialize, Serialize};

use super::rules::millis;
use crate::{
    problem::Problem,
    request::{Admin, Limit, Params},
    routes::json,
    server::Shared,
};

/// How many connections are told of.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConnectionsQuery {
    limit: Limit<20>,
}

/// `GET /internal/v1/khala/connections`
pub(crate) async fn connections(
    State(shared): State<Shared>,
    _: Admin,
    Params(query): Params<ConnectionsQuery>,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Connections {
        open: usize,
        channels: u64,
        outbox_bytes: u64,
        slowest: Vec<Open>,
    }
    #[derive(Serialize)]
    struct Open {
        subject: String,
        address: Option<IpAddr>,
        opened_at: u64,
        channels: u64,
        held_bytes: u64,
        stalled_ms: u64,
    }
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
