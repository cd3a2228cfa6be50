//! The routes, one file for each kind, and the answers that they share.

pub(crate) mod admin;
pub(crate) mod documents;
pub(crate) mod health;
pub(crate) mod history;
mod lines;
pub(crate) mod mint;
pub(crate) mod publish;
pub(crate) mod stream;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

pub use self::admin::RevocationTerms;
pub(crate) use self::{
    admin::{connections, drain, fanout_hooks, fanout_metrics, retention, revocations, revoke, sweep},
    documents::{document, snapshot},
    health::{WriteProbe, health, metrics, ready},
    history::{bounds, topics, updates},
    mint::mint,
    publish::publish,
    stream::publish_stream,
};
use crate::problem::Problem;

/// A response of JSON.
fn json(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(body).expect("a response has a JSON form");
    let mut response = json_bytes(body);
    *response.status_mut() = status;
    Ok(response)
}

/// A response of text that is JSON already.
pub(crate) fn json_bytes(body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
