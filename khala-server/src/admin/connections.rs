//! `/internal/v1/khala/connections`: who is connected to this node, and who takes the least of what is sent.

use std::{net::IpAddr, num::NonZeroUsize};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use khala_core::registry::OpenConnection;
use serde::Serialize;

use super::rules::millis;
use crate::{Server, problem::Problem, query::Query, service::json};

/// How many connections are told of when nobody says.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(20).expect("20 is not zero");

/// `GET /internal/v1/khala/connections`
pub(crate) fn connections(server: &Server, query: Option<&str>) -> Result<Response<Full<Bytes>>, Problem> {
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
    let limit = Query::parse(query, &["limit"])?.at_most("limit", CONNECTIONS)?;
    let khala = &server.0.khala;
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
