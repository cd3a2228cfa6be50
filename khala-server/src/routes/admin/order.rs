//! The bodies of orders.

use axum::extract::Request;

use crate::{
    problem::Problem,
    request::{self, Empty, Room, Whole},
    shared::Shared,
};

/// Bytes of a request's body.
const BODY_BYTES: usize = 16 << 10;

/// The body of an order, which is taken in also where the memory budget is spent.
pub(super) async fn read(shared: &Shared, request: Request, empty: Empty) -> Result<Whole, Problem> {
    let (head, body) = request.into_parts();
    request::read(shared, &head.headers, body, BODY_BYTES, empty, Room::NotNeeded).await
}
