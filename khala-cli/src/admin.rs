//! Requests to the server's internal routes, with the admin token, once each.
//!
//! What is asked here is asked by a person, who sees what happened and tries again.
//!
//! # Invariants
//! The admin token is in no output.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use khala_client::{Error, Refused};
use serde::de::DeserializeOwned;

use crate::{exit::Failure, output, server::Server};

/// How long one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Asks once. `path` is what follows `/internal/v1/khala/`.
pub(crate) async fn call(server: &Server, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
    call_within(ANSWER_WITHIN, server, method, path, body).await
}

/// The same for what takes its time.
pub(crate) async fn call_within(
    most: Duration,
    server: &Server,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, Failure> {
    let client = server.operator(most).await?;
    let answer = client.request(method, &format!("/internal/v1/khala/{path}"), body).await;
    answer.map_err(|error| match error {
        Error::Refused(refused) => refused_to_operator(&refused),
        error => error.into(),
    })
}

/// Prints an answer as it is, or in words for a person at a terminal.
pub(crate) fn print<T: DeserializeOwned>(
    json: bool,
    answer: &[u8],
    words: impl FnOnce(T) -> String,
) -> Result<(), Failure> {
    let told = read(answer)?;
    let as_it_is = || String::from_utf8_lossy(answer).trim_end().to_owned() + "\n";
    output::print(&if output::wants_json(json) { as_it_is() } else { words(told) })
}

/// What an answer says.
pub(crate) fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|fault| {
        Failure::protocol(format!(
            "the answer is not what a Khala server says: {fault}; is this the URL of one?"
        ))
    })
}

/// What to do about a refusal of an internal route.
fn refused_to_operator(refused: &Refused) -> Failure {
    if let Some(failure) = Failure::no_route(refused) {
        return failure;
    }
    let said = refused.to_string();
    match (refused.status, refused.code.as_str()) {
        (Some(401 | 403), _) => Failure::token(format!(
            "{said}; the admin token has to be its auth.admin_token: see --admin-token-file, KHALA_ADMIN_TOKEN and the context"
        )),
        (Some(404), "admin_off") => Failure::refused(format!("{said}; set auth.admin_token there")),
        (_, "sweep_busy") => Failure::unreachable(said),
        (_, "sweep_held_back") => Failure::refused(format!("{said} (--force)")),
        (Some(408 | 425 | 429 | 502..=504), _) => Failure::unreachable(said),
        _ => Failure::refused(said),
    }
}
