//! Requests, tried again where that is right.
//!
//! Everything that is sent here may be sent twice: reads change nothing, and a publish carries its key.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    Method, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use khala_core::{
    Token,
    clock::{SystemClock, within},
};
use reqwest::{RequestBuilder, Response};
use tokio::time::{Instant, sleep};

use crate::{
    address::Address,
    backoff::{Backoff, random},
    connect::{Connector, reason},
    error::{Error, Refused},
    token::Tokens,
};

/// The most that an answer may hold: far more than a page, and bounded.
const MAX_ANSWER: usize = 64 << 20;

/// A failure that the client is about to try again after.
#[derive(Debug)]
#[non_exhaustive]
pub struct Retry<'a> {
    /// What failed.
    pub error: &'a Error,
    /// How often it failed in a row.
    pub failures: u32,
    /// How long it waits now.
    pub wait: Duration,
}

/// Told of every retry.
#[derive(Clone)]
pub(crate) struct OnRetry(pub(crate) Arc<dyn Fn(&Retry<'_>) + Send + Sync>);

impl fmt::Debug for OnRetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRetry(…)")
    }
}

/// A request, so that it can be made as often as needed.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// The path and query after the address's prefix.
    pub(crate) path: String,
    pub(crate) header: Option<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn read(path: String) -> Self {
        Self { method: Method::GET, path, header: None, body: Bytes::new() }
    }
}

/// An answer that came in whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    retry_after: Option<Duration>,
}

impl Answer {
    /// The refusal that this is.
    pub(crate) fn refused(&self) -> Refused {
        let mut refused = Refused::read(&self.body, Some(self.status.as_u16()));
        refused.retry_after = refused.retry_after.or(self.retry_after);
        refused
    }
}

/// The HTTP side of a client.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) address: Address,
    pub(crate) connector: Connector,
    pub(crate) connect_timeout: Duration,
    pub(crate) tokens: Tokens,
    pub(crate) backoff: Backoff,
    pub(crate) answer_within: Duration,
    /// How long to try again; none is for as long as it takes.
    pub(crate) retry_for: Option<Duration>,
    pub(crate) on_retry: Option<OnRetry>,
}

impl Http {
    /// Makes the call, again and again where that may help, until it is answered. `accept` says which statuses,
    /// besides success, the caller understands.
    ///
    /// Cancel safe in the sense that nothing is left half done here; the server may have carried it out.
    pub(crate) async fn call(&self, call: &Call, accept: &[StatusCode]) -> Result<Answer, Error> {
        let started = Instant::now();
        let mut failures = 0;
        let mut renewed = false;
        loop {
            let error = match self.attempt(call, &mut renewed).await {
                Ok(answer) if answer.status.is_success() || accept.contains(&answer.status) => {
                    return Ok(answer);
                }
                Ok(answer) => Error::Refused(answer.refused()),
                Err(error) => error,
            };
            failures += 1;
            let wait = self.backoff.wait(failures, error.at_least(&self.backoff), random());
            let too_late = self.retry_for.is_some_and(|most| started.elapsed() + wait > most);
            if !error.is_retryable() || too_late {
                return Err(error);
            }
            tracing::debug!(%error, failures, ?wait, "trying again");
            if let Some(OnRetry(told)) = &self.on_retry {
                told(&Retry { error: &error, failures, wait });
            }
            sleep(wait).await;
        }
    }

    /// One attempt; a second one with a fresh token if the server no longer takes the one there is.
    async fn attempt(&self, call: &Call, renewed: &mut bool) -> Result<Answer, Error> {
        loop {
            let token = self.tokens.current().await?;
            let answer = self.exchange(call, token.as_ref()).await?;
            let spent = answer.status == StatusCode::UNAUTHORIZED && !*renewed;
            if !spent || !self.tokens.renew(token.as_ref()) {
                return Ok(answer);
            }
            *renewed = true;
        }
    }

    async fn exchange(&self, call: &Call, token: Option<&Token>) -> Result<Answer, Error> {
        self.in_time(async {
            let Call { method, path, header, body } = call;
            let mut request = self.request(&self.connector.requests, method, path, token)?;
            request = request.header(header::ACCEPT, "application/json");
            if !body.is_empty() {
                request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
            }
            if let Some((name, value)) = header {
                request = request.header(name, value);
            }
            self.whole(self.send(request).await?).await
        })
        .await
    }

    /// A request, with the token.
    pub(crate) fn request(
        &self,
        client: &reqwest::Client,
        method: &Method,
        path: &str,
        token: Option<&Token>,
    ) -> Result<RequestBuilder, Error> {
        let request = client.request(method.clone(), self.address.url(path)?);
        Ok(match token {
            Some(token) => request.header(header::AUTHORIZATION, bearer(token)?),
            None => request,
        })
    }

    /// Waits for the head of the answer.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        request.send().await.map_err(|cause| self.broken(&cause))
    }

    /// Reads the rest of the answer, which is of bounded size.
    pub(crate) async fn whole(&self, mut response: Response) -> Result<Answer, Error> {
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(|cause| self.broken(&cause))? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(self.unreachable(format!("its answer is larger than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status, body: body.freeze(), retry_after })
    }

    /// The same, where it takes no longer than an answer may.
    pub(crate) async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        within(&SystemClock::new(), self.answer_within, work).await.unwrap_or_else(|| {
            Err(self.unreachable(format!("no answer within {} s", self.answer_within.as_secs_f64())))
        })
    }

    pub(crate) fn unreachable(&self, cause: impl fmt::Display) -> Error {
        Error::Unreachable { url: self.address.to_string(), reason: cause.to_string() }
    }

    pub(crate) fn broken(&self, error: &reqwest::Error) -> Error {
        if error.is_builder() {
            return Error::Settings(format!("that makes no HTTP request: {}", reason(error)));
        }
        let reason = reason(error);
        if error.is_connect() && error.is_timeout() {
            self.unreachable(format!("no connection within {} s", self.connect_timeout.as_secs_f64()))
        } else if reason.ends_with("InvalidContentType") {
            self.unreachable(format!("{reason}: it seems to speak http there, and not https"))
        } else {
            self.unreachable(reason)
        }
    }
}

/// The `Authorization` header for a token, marked so that it is never printed.
fn bearer(token: &Token) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.reveal()))
        .map_err(|_| Error::Settings("the token holds characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Retry-After` in seconds. Its other form, a date, needs an agreement about clocks that nobody has.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
