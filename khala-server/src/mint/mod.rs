//! `POST /v1/token`: the caller proves itself with what it has already, and gets a token to sync with.
//!
//! Who it is comes first, from the headers alone: nobody who proves nothing has a body read. What must stay true: a
//! token says no more than the credential allows and lasts no longer; and no answer, log line or metric holds a
//! credential or a token, but the answer to whom it was made for.

mod credential;
mod holder;

use std::{error::Error as StdError, fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::body::Body;
use khala_core::{
    Error, ErrorKind, Khala, Timestamp,
    auth::{Denied, Issued, Issuer, Mandate},
    telemetry,
};
use serde::Serialize;

use self::holder::{Asked, Refused};
pub use self::{
    credential::{Credential, MintSecret, Unproven, VerifiedToken},
    holder::{ClaimName, ClaimNameError, Holder},
};
use crate::{
    Server,
    body::{self, Empty, Room},
    patience::timeout,
    problem::Problem,
    query::Query,
    service::json,
};

/// Bytes of a request's body.
const BODY_BYTES: usize = 16 << 10;
/// How long a credential may take to be checked, and a token to be signed.
const CHECK_WITHIN: Duration = Duration::from_secs(5);
/// What a client says of itself in the query, as it does to the WebSocket.
const COMPATIBILITY: &[&str] = &["client_build", "protocol_version", "schema_version"];

/// Makes tokens for those who prove that they may have them.
#[derive(Clone, Debug)]
pub struct Mint {
    issuer: Arc<dyn Issuer>,
    credentials: Vec<Arc<dyn Credential>>,
    ttl: Ttl,
}

/// How long tokens last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ttl {
    min: Duration,
    default: Duration,
    max: Duration,
}

/// Bounds that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the shortest time is at least a second, and not over the usual one, which is not over the longest one"
)]
#[non_exhaustive]
pub struct TtlError;

impl Mint {
    /// Signs with `issuer` for whoever one of `credentials` knows.
    ///
    /// They are asked in their order, and the first that knows the caller decides alone: what several would give is
    /// never added up, and each would have given the same if it were asked alone. Only where none knows the caller
    /// does it matter whether one could not be asked: then the caller is told to try again. All together have five
    /// seconds, so those that ask nobody else come first.
    pub fn new(issuer: Arc<dyn Issuer>, credentials: impl IntoIterator<Item = Arc<dyn Credential>>) -> Self {
        let ttl = Ttl {
            min: Duration::from_secs(60),
            default: Duration::from_secs(60 * 60),
            max: Duration::from_secs(24 * 60 * 60),
        };
        Self { issuer, credentials: credentials.into_iter().collect(), ttl }
    }

    /// Bounds how long tokens last, in whole seconds. Default: a minute, an hour if nobody asks, a day.
    ///
    /// The issuer may have a bound of its own, as that of JSON Web Tokens has with `max_age`: `max` has to be within
    /// it, else asking for more ends in `signing_error`.
    ///
    /// # Errors
    /// A [`TtlError`] unless one second <= `min` <= `default` <= `max`.
    pub fn with_ttl(mut self, min: Duration, default: Duration, max: Duration) -> Result<Self, TtlError> {
        if min < Duration::from_secs(1) || default < min || max < default {
            return Err(TtlError);
        }
        let whole = |time: Duration| Duration::from_secs(time.as_secs());
        self.ttl = Ttl { min: whole(min), default: whole(default), max: whole(max) };
        Ok(self)
    }

    /// Who the caller is.
    async fn holder(&self, headers: &HeaderMap, now: Timestamp) -> Result<Holder, Failure> {
        let mut presented = None;
        let mut unavailable = None;
        for credential in &self.credentials {
            match credential.holder(headers, now).await {
                Ok(holder) => return Ok(holder),
                Err(Unproven::Invalid(reason)) => presented = presented.or(Some(reason)),
                Err(Unproven::Missing) => {}
                Err(Unproven::Unavailable(error)) => unavailable = Some(error),
            }
        }
        match (unavailable, presented) {
            (Some(error), _) => Err(Failure::Unavailable(error)),
            (None, Some(reason)) => Err(Failure::Unproven { presented: true, reason }),
            (None, None) => Err(Failure::Unproven { presented: false, reason: "no credential" }),
        }
    }

    /// How long the token is to last.
    fn ttl(
        &self,
        asked: Option<u64>,
        ends_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Duration, Failure> {
        let Ttl { min, default, max } = self.ttl;
        let rest = ends_at.map_or(max, |end| Duration::from_secs(end.since(now).as_secs()));
        if rest < min {
            return Err(Failure::Unproven { presented: true, reason: "the credential is about to end" });
        }
        let max = max.min(rest);
        let Some(seconds) = asked else { return Ok(default.min(max)) };
        let ttl = Duration::from_secs(seconds);
        if (min..=max).contains(&ttl) {
            return Ok(ttl);
        }
        let (min, max) = (min.as_secs(), max.as_secs());
        let detail = format!("ttl_seconds is {seconds}; it is to be from {min} to {max}");
        Err(Problem::invalid("invalid_ttl", detail)
            .with("field", "ttl_seconds")
            .with("min_seconds", min)
            .with("max_seconds", max)
            .into())
    }

    async fn sign(&self, mandate: &Mandate, now: Timestamp, ttl: Duration) -> Result<Issued, Failure> {
        let signed = timeout(CHECK_WITHIN, self.issuer.issue(mandate, now, ttl)).await;
        signed.unwrap_or_else(|_| Err(late())).map_err(Failure::Signing)
    }
}

fn late() -> Error {
    Error::new(ErrorKind::Unavailable, "mint", format!("no answer within {} s", CHECK_WITHIN.as_secs()))
}

/// Why there is no token.
#[derive(Debug)]
enum Failure {
    /// It is more than the credential reaches.
    Beyond { field: &'static str, detail: &'static str },
    /// The request breaks a rule, whoever sends it.
    Invalid(Problem),
    /// The issuer failed.
    Signing(Error),
    /// The credential cannot be checked now.
    Unavailable(Error),
    /// Nothing that was presented proves anything.
    Unproven { presented: bool, reason: &'static str },
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Invalid(problem)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Beyond { field, detail } => Self::Beyond { field, detail },
            Refused::Invalid(problem) => Self::Invalid(problem),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beyond { field, detail } => write!(f, "{field}: {detail}"),
            Self::Invalid(problem) => f.write_str(problem.code()),
            Self::Signing(error) | Self::Unavailable(error) => {
                write!(f, "{error}")?;
                let mut cause = error.source();
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
            Self::Unproven { reason, .. } => f.write_str(reason),
        }
    }
}

impl Failure {
    /// The failure's class, in metrics.
    fn class(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            failure => failure.code(),
        }
    }

    /// What the answer and the log say.
    fn code(&self) -> &'static str {
        match self {
            Self::Beyond { .. } | Self::Unproven { .. } => "authz_denied",
            Self::Invalid(problem) => problem.code(),
            Self::Signing(_) => "signing_error",
            Self::Unavailable(_) => "upstream_unavailable",
        }
    }

    fn into_problem(self) -> Problem {
        let code = self.code();
        match self {
            Self::Beyond { field, detail } => {
                Problem::new(StatusCode::FORBIDDEN, code, format!("{field}: {detail}")).with("field", field)
            }
            Self::Invalid(problem) => problem,
            Self::Signing(_) => {
                let detail = "the token could not be signed; the server's log says why";
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, code, detail)
            }
            Self::Unavailable(_) => Problem::unavailable(code, "the credential cannot be checked now"),
            Self::Unproven { presented, .. } => {
                // RFC 6750, section 3: no error code where the client did not try to authenticate.
                let challenge = if presented { "Bearer error=\"invalid_token\"" } else { "Bearer" };
                let detail = "there is no credential, or none that lets you have tokens made";
                Problem::new(StatusCode::UNAUTHORIZED, code, detail)
                    .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
            }
        }
    }
}

/// A token, and what it says.
#[derive(Serialize)]
struct Minted<'a> {
    token: &'a str,
    token_type: &'static str,
    subject: &'a str,
    scopes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    organisation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    /// Milliseconds since 1970.
    expires_at: u64,
    /// Seconds, whole ones.
    expires_in: u64,
    jti: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
}

/// Answers a request for a token.
pub(crate) async fn mint<B>(
    server: &Server,
    head: &Parts,
    body: B,
    request_id: &str,
    client: Option<IpAddr>,
) -> Result<Response<Full<Bytes>>, Problem>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let Some(mint) = &server.0.mint else {
        return Err(Problem::not_found("mint_off", "this server makes no tokens"));
    };
    server.0.compatibility.check(&head.headers, head.uri.query())?;
    let mut subject = None;
    let khala = &server.0.khala;
    khala.access().check_connect_rate(client)?;
    let minted = minted(mint, server, head, body, &mut subject).await;
    let failure = match minted {
        Ok((mandate, issued)) => {
            telemetry::minted("minted");
            let (jti, kid) = (&*issued.token_id, issued.key_id.as_deref());
            tracing::info!(request_id, subject = mandate.subject, jti, kid, "a token was made");
            return json(
                StatusCode::OK,
                &Minted {
                    token: issued.token.reveal(),
                    token_type: "Bearer",
                    subject: &mandate.subject,
                    scopes: &mandate.scopes,
                    organisation: mandate.organisation.as_deref(),
                    session_id: mandate.session_id.as_deref(),
                    expires_at: issued.expires_at.as_millis(),
                    expires_in: issued.expires_at.since(khala.now()).as_secs(),
                    jti,
                    kid,
                },
            );
        }
        Err(failure) => failure,
    };
    if let Failure::Unproven { .. } = failure {
        khala.access().failed(client);
    }
    telemetry::minted(failure.class());
    let code = failure.code();
    match &failure {
        Failure::Signing(_) => {
            tracing::error!(request_id, subject, code, reason = %failure, "no token was made");
        }
        Failure::Unavailable(_) => {
            tracing::warn!(request_id, subject, code, reason = %failure, "no token was made");
        }
        _ => tracing::info!(request_id, subject, code, reason = %failure, "no token was made"),
    }
    Err(failure.into_problem())
}

/// What the token says, and the token. `subject` is told as soon as it is known.
async fn minted<B>(
    mint: &Mint,
    server: &Server,
    head: &Parts,
    body: B,
    subject: &mut Option<String>,
) -> Result<(Mandate, Issued), Failure>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let (headers, khala) = (&head.headers, &server.0.khala);
    // What is revoked from now on takes the token back too, by its `iat`.
    let now = khala.now();
    let proof = async {
        let holder = mint.holder(headers, now).await?;
        not_revoked(khala, &holder).await?;
        Ok::<_, Failure>(holder)
    };
    let holder = timeout(CHECK_WITHIN, proof).await.map_err(|_| Failure::Unavailable(late()))??;
    *subject = holder.subject().map(str::to_owned);
    Query::parse(head.uri.query(), COMPATIBILITY)?;
    let body = body::read(server, headers, body, BODY_BYTES, Empty::Allowed, Room::Needed).await?;
    let asked: Asked = if body.is_empty() { Asked::default() } else { body::parse(&body)? };
    if subject.is_none() {
        *subject = asked.subject().map(str::to_owned);
    }
    let ttl_seconds = asked.ttl_seconds;
    let mandate = holder.mandate(asked)?;
    let ttl = mint.ttl(ttl_seconds, holder.ends_at(), now)?;
    let issued = mint.sign(&mandate, now, ttl).await?;
    // The body and the issuer may have taken their time.
    not_revoked(khala, &holder).await?;
    Ok((mandate, issued))
}

/// A credential that was taken back must not be exchanged for a token that is not.
async fn not_revoked(khala: &Khala, holder: &Holder) -> Result<(), Failure> {
    let Some(grant) = holder.grant() else { return Ok(()) };
    khala.access().check_revoked(grant).await.map_err(|denied| match denied {
        Denied::Unavailable(error) => Failure::Unavailable(error),
        _ => Failure::Unproven { presented: true, reason: "token_revoked" },
    })
}
