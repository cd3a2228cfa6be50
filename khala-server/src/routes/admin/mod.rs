//! What operators ask and order under `/internal/v1/khala/`, with a token of their own; each subject in a file of its own.

pub(crate) mod connections;
pub(crate) mod drain;
pub(crate) mod fanout;
pub(crate) mod retention;
pub(crate) mod revocations;
mod rules;

use axum::extract::Request;

pub use self::revocations::RevocationTerms;
pub(crate) use self::{
    connections::connections,
    drain::drain,
    fanout::{fanout_hooks, fanout_metrics},
    retention::{retention, sweep},
    revocations::{revocations, revoke},
};
use crate::{
    problem::Problem,
    request::{self, Empty, Room, Whole},
    server::Shared,
};

/// Bytes of a request's body.
const BODY_BYTES: usize = 16 << 10;

/// The body of an order, which is taken in also where the memory budget is spent.
async fn read(shared: &Shared, request: Request, empty: Empty) -> Result<Whole, Problem> {
    let (head, body) = request.into_parts();
    request::read(shared, &head.headers, body, BODY_BYTES, empty, Room::NotNeeded).await
}
