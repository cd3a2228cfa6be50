//! Requests to the server's internal routes, with the admin token, once each.
//!
//! What is asked here is asked by a person, who sees what happened and tries again.
//!
//! # Invariants
//! The token comes from the environment or a file, and is in no output.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::Method;
use khala_client::{Client, ClientOptions, Error, Refused};
use khala_core::Token;
use serde::de::DeserializeOwned;

use crate::{exit::Failure, file};

/// How long one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Where the server is, and the token for its internal routes.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    /// The server's address
    #[arg(long, env = "KHALA_URL", default_value = "http://127.0.0.1:4510")]
    url: String,
    /// A file that holds the server's auth.admin_token; without it, the environment's KHALA_ADMIN_TOKEN is used
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

impl Admin {
    /// Asks once. `path` is what follows `/internal/v1/khala/`.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        self.call_within(ANSWER_WITHIN, method, path, body).await
    }

    /// The same for what takes its time.
    pub(crate) async fn call_within(
        &self,
        most: Duration,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        // No time to try again in.
        let options = ClientOptions {
            answer_timeout: most,
            retry_for: Some(Duration::ZERO),
            ..ClientOptions::default()
        };
        let client = Client::builder(&self.url).token(self.token()?).options(options).build()?;
        let answer = client.request(method, &format!("/internal/v1/khala/{path}"), body).await;
        answer.map_err(|error| match error {
            Error::Refused(refused) => refused_to_operator(&refused),
            error => error.into(),
        })
    }

    fn token(&self) -> Result<Token, Failure> {
        let text = match &self.admin_token_file {
            Some(path) => file::read_text(path).map_err(|cause| {
                Failure::usage(format!("the admin token file {} cannot be read: {cause}", path.display()))
            })?,
            None => std::env::var("KHALA_ADMIN_TOKEN").map_err(|_| {
                Failure::usage(
                    "there is no admin token: give --admin-token-file or KHALA_ADMIN_TOKEN; it is the server's \
                     auth.admin_token",
                )
            })?,
        };
        Ok(Token::new(text.trim()))
    }
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
    let said = refused.to_string();
    match (refused.status, refused.code.as_str()) {
        (Some(401 | 403), _) => Failure::token(format!(
            "{said}; --admin-token-file or KHALA_ADMIN_TOKEN is to hold its auth.admin_token"
        )),
        (Some(404), "admin_off") => Failure::refused(format!("{said}; set auth.admin_token there")),
        (_, "sweep_busy") => Failure::unreachable(said),
        (_, "sweep_held_back") => Failure::refused(format!("{said} (--force)")),
        (Some(408 | 425 | 429 | 502..=504), _) => Failure::unreachable(said),
        _ => Failure::refused(said),
    }
}
