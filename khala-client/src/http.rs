//! Requests over HTTP/1.1, on connections that are kept and used again, and tried again where that is right.
//!
//! Everything that is sent here may be sent twice: reads change nothing, and a publish carries its key.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use khala_core::{
    Token,
    clock::{SystemClock, within},
};
use tokio::time::{Instant, sleep};

use crate::{
    backoff::{Backoff, random},
    dial::Dialer,
    error::{Error, Refused},
    token::Tokens,
};

/// The most that an answer may hold: far more than a page, and bounded.
const MAX_ANSWER: usize = 64 << 20;
/// Connections that wait for the next request.
const MAX_IDLE: usize = 8;

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
    pub(crate) dialer: Dialer,
    pub(crate) tokens: Tokens,
    pub(crate) backoff: Backoff,
    pub(crate) answer_within: Duration,
    /// How long to try again; none is for as long as it takes.
    pub(crate) retry_for: Option<Duration>,
    pub(crate) on_retry: Option<OnRetry>,
    pub(crate) idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
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
        let late = || self.dialer.unreachable(format!("no answer within {:?}", self.answer_within));
        within(&SystemClock::new(), self.answer_within, self.send(call, token))
            .await
            .unwrap_or_else(|| Err(late()))
    }

    async fn send(&self, call: &Call, token: Option<&Token>) -> Result<Answer, Error> {
        // A kept connection may have been closed by the server in the meantime: that says nothing about the
        // server, so a fresh one is tried at once.
        while let Some(kept) = self.kept() {
            if let Ok(answer) = self.send_on(kept, call, token).await {
                return Ok(answer);
            }
        }
        let (sender, connection) = http1::handshake(TokioIo::new(self.dialer.dial().await?))
            .await
            .map_err(|cause| self.dialer.unreachable(cause))?;
        tokio::spawn(connection);
        self.send_on(sender, call, token).await
    }

    async fn send_on(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        call: &Call,
        token: Option<&Token>,
    ) -> Result<Answer, Error> {
        let request = self.request(call, token)?;
        let unreachable = |cause| self.dialer.unreachable(with_cause(&cause));
        sender.ready().await.map_err(unreachable)?;
        let response = sender.send_request(request).await.map_err(unreachable)?;
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let body = read_body(response).await.map_err(|cause| self.dialer.unreachable(cause))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
        Ok(Answer { status, body, retry_after })
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|sender| !sender.is_closed())
    }

    fn request(&self, call: &Call, token: Option<&Token>) -> Result<Request<Full<Bytes>>, Error> {
        let Call { method, path, header, body } = call;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.dialer.address.prefix))
            .header(header::HOST, self.dialer.address.authority())
            .header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, bearer(token)?);
        }
        request
            .body(Full::new(body.clone()))
            .map_err(|cause| Error::Settings(format!("that makes no HTTP request: {cause}")))
    }
}

/// The `Authorization` header for a token, marked so that it is never printed.
pub(crate) fn bearer(token: &Token) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.reveal()))
        .map_err(|_| Error::Settings("the token holds characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads a body that is of bounded size.
pub(crate) async fn read_body(
    response: Response<Incoming>,
) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes())
}

/// `Retry-After` in seconds. Its other form, a date, needs an agreement about clocks that nobody has.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// hyper's errors keep what happened in their source.
pub(crate) fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
