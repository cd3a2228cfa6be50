//! What operators ask and order under `/internal/v1/khala/`, with a token of their own; each subject in a file of its own.
//!
//! # Invariants
//! The admin token opens nothing else, and no other token opens this.

mod connections;
mod drain;
pub(crate) mod fanout;
pub(crate) mod retention;
mod revocations;
mod rules;

use std::error::Error as StdError;

use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use hyper::body::Body;
use khala_auth::bearer_token;
use khala_core::auth::Denied;

pub use self::revocations::RevocationTerms;
pub(crate) use self::{
    connections::connections,
    drain::drain,
    revocations::{revocations, revoke},
};
use crate::{
    Server,
    body::{self, Empty, Room, Whole},
    problem::Problem,
};

/// Bytes of a request's body.
const BODY_BYTES: usize = 16 << 10;

/// Lets an operator through.
pub(crate) fn admit(server: &Server, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(secret) = &server.0.admin else {
        return Err(Problem::not_found("admin_off", "this server has no admin routes"));
    };
    let invalid = || {
        let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        Problem::new(StatusCode::UNAUTHORIZED, "invalid_admin_token", "this is not the admin token")
            .with_header(header::WWW_AUTHENTICATE, challenge)
    };
    let presented = bearer_token(headers).map_err(|denied| match denied {
        // Its own words name places that an admin token is not taken from.
        Denied::MissingToken => {
            let detail = "there is no admin token: send an Authorization: Bearer header";
            Problem::new(StatusCode::UNAUTHORIZED, denied.code().as_str(), detail)
                .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
        }
        denied => denied.into(),
    })?;
    if secret.is(presented.reveal()) { Ok(()) } else { Err(invalid()) }
}

/// The body of an order, which is taken in also where the memory budget is spent.
async fn read<B>(server: &Server, head: &Parts, body: B, empty: Empty) -> Result<Whole, Problem>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    body::read(server, &head.headers, body, BODY_BYTES, empty, Room::NotNeeded).await
}
