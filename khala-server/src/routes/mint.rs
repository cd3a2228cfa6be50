//! `POST /v1/token`: the caller proves itself with a credential that it has already, and gets a token to sync with.
//!
//! The caller is known from the headers alone, and first: no body is read for a caller that proves nothing. The policy is
//! that of [`khala_auth::mint`].
//!
//! # Invariants
//! - No answer, log line or metric holds a credential or a token, except the answer to the caller that the token is for.

use std::{error::Error as StdError, fmt, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::{HeaderValue, StatusCode, header, request::Parts};
use khala_auth::mint::{CredentialError, Mint, MintError, MintPolicy, MintRequest, MintedToken};
use khala_core::{
    Error, ErrorKind, Khala,
    auth::{Denied, RevocationId},
    telemetry,
};
use serde::Serialize;

use crate::{
    compatibility::ClientOfQuery,
    openapi,
    problem::Problem,
    request::{self, Context, Empty, Room, invalid, parameters},
    response::json,
    shared::Shared,
    timeouts::timeout,
};

/// Bytes of a request's body.
const BODY_BYTES: usize = 16 << 10;
/// How long a credential may take to be checked, and a token to be signed.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

fn late() -> Error {
    Error::new(ErrorKind::Unavailable, "mint", format!("no answer within {} s", CHECK_WITHIN.as_secs()))
}

/// Why there is no token.
#[derive(Debug)]
enum Failure {
    /// The credential proves nothing, or cannot be checked now.
    Credential(CredentialError),
    /// The request gets no token.
    Mint(MintError),
    /// The request itself is wrong.
    Request(Problem),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Request(problem)
    }
}

impl From<CredentialError> for Failure {
    fn from(error: CredentialError) -> Self {
        Self::Credential(error)
    }
}

impl From<MintError> for Failure {
    fn from(error: MintError) -> Self {
        match error {
            MintError::CredentialExpiring => {
                Self::Credential(CredentialError::Invalid("the credential is about to end"))
            }
            MintError::InvalidField { field, detail } => Self::Request(invalid(field, detail)),
            MintError::InvalidLifetime { min, max, .. } => {
                let problem = Problem::invalid("invalid_ttl", error.to_string());
                let problem = problem.with("field", "ttl_seconds");
                Self::Request(problem.with("min_seconds", min).with("max_seconds", max))
            }
            error => Self::Mint(error),
        }
    }
}

/// The reason, for the log.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error: &dyn StdError = match self {
            Self::Credential(CredentialError::Invalid(reason)) => return f.write_str(reason),
            Self::Request(problem) => return f.write_str(problem.code()),
            Self::Credential(error) => error,
            Self::Mint(error) => error,
        };
        write!(f, "{error}")?;
        let mut cause = error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Failure {
    /// The failure's class, in metrics.
    fn class(&self) -> &'static str {
        match self {
            Self::Request(_) => "invalid",
            failure => failure.code(),
        }
    }

    /// What the answer and the log say.
    fn code(&self) -> &'static str {
        match self {
            Self::Credential(CredentialError::Unavailable(_)) => "upstream_unavailable",
            Self::Credential(_) | Self::Mint(MintError::ExceedsCredential { .. }) => "authz_denied",
            Self::Mint(_) => "signing_error",
            Self::Request(problem) => problem.code(),
        }
    }

    /// Whether the caller did not prove itself.
    fn is_unproven(&self) -> bool {
        matches!(self, Self::Credential(CredentialError::Invalid(_) | CredentialError::Missing))
    }

    fn into_problem(self) -> Problem {
        let code = self.code();
        match self {
            Self::Credential(CredentialError::Unavailable(_)) => {
                Problem::unavailable(code, "the credential cannot be checked now")
            }
            Self::Credential(error) => {
                // RFC 6750, section 3: no error code where the client did not try to authenticate.
                let challenge = match error {
                    CredentialError::Missing => "Bearer",
                    _ => "Bearer error=\"invalid_token\"",
                };
                let detail = "there is no credential, or none that lets you have tokens made";
                Problem::new(StatusCode::UNAUTHORIZED, code, detail)
                    .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
            }
            Self::Mint(MintError::ExceedsCredential { field, detail }) => {
                Problem::new(StatusCode::FORBIDDEN, code, format!("{field}: {detail}")).with("field", field)
            }
            Self::Mint(_) => {
                let detail = "the token could not be signed; the server's log says why";
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, code, detail)
            }
            Self::Request(problem) => problem,
        }
    }
}

/// A token, and what it says.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = MintedToken)]
struct Minted<'a> {
    token: &'a str,
    #[schema(value_type = openapi::TokenType)]
    token_type: &'static str,
    subject: &'a str,
    scopes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    organisation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    session_id: Option<&'a str>,
    /// When it runs out.
    #[schema(value_type = openapi::Timestamp)]
    expires_at: u64,
    /// How long that is from now, in seconds.
    expires_in: u64,
    /// The token's name, by which it can be revoked.
    jti: &'a str,
    /// The key that it is signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    kid: Option<&'a str>,
}

/// Makes a sync token.
///
/// Failures have three classes: `authz_denied`, `signing_error`, `upstream_unavailable`. An empty body is `{}`, and needs no
/// Content-Type.
#[utoipa::path(
    post, path = "/v1/token", operation_id = "mintToken", tag = "access", security(("credential" = [])),
    params(ClientOfQuery, openapi::RequestIdHeader),
    request_body(content = openapi::TokenRequest, content_type = "application/json", examples(
        ("backend" = (summary = "A backend, with the mint secret", value = json!({
            "subject": "ada", "scopes": ["khala:read"], "organisation": "acme", "session_id": "login-7", "ttl_seconds": 900
        }))),
        ("user" = (summary = "A user, with the application's token", value = json!({}))),
    )),
    responses(
        (status = 200, body = Minted<'_>, description = "A token, and what it says."),
        (status = 400, response = openapi::MintBroken),
        (status = 401, response = openapi::MintDenied),
        (status = 403, response = openapi::MintBeyond),
        (status = 404, response = openapi::MintOff),
        openapi::BodyRefusals,
        (status = 426, response = openapi::TooOld),
        (status = 429, response = openapi::TooManyRequests),
        (status = 500, response = openapi::SigningError),
        (status = 503, response = openapi::MintUnavailable),
    )
)]
pub(crate) async fn mint(
    State(shared): State<Shared>,
    Context { request_id, client, .. }: Context,
    request: Request,
) -> Result<Response, Problem> {
    let (request_id, (head, body)) = (&*request_id, request.into_parts());
    let Some(mint) = &shared.0.mint else {
        return Err(Problem::not_found("mint_off", "this server makes no tokens"));
    };
    shared.0.compatibility.check(&head.headers, head.uri.query())?;
    let mut subject = None;
    let khala = &shared.0.khala;
    khala.access().check_connect_rate(client)?;
    let minted = minted(mint, &shared, &head, body, &mut subject).await;
    let failure = match minted {
        Ok(MintedToken { claims, issued, .. }) => {
            telemetry::minted("minted");
            let (jti, kid) = (&*issued.token_id, issued.key_id.as_deref());
            tracing::info!(request_id, subject = claims.subject, jti, kid, "a token was made");
            return json(
                StatusCode::OK,
                &Minted {
                    token: issued.token.reveal(),
                    token_type: "Bearer",
                    subject: &claims.subject,
                    scopes: &claims.scopes,
                    organisation: claims.organisation.as_deref(),
                    session_id: claims.session_id.as_deref(),
                    expires_at: issued.expires_at.as_millis(),
                    expires_in: issued.expires_at.since(khala.now()).as_secs(),
                    jti,
                    kid,
                },
            );
        }
        Err(failure) => failure,
    };
    if failure.is_unproven() {
        khala.access().failed(client);
    }
    telemetry::minted(failure.class());
    let code = failure.code();
    match &failure {
        Failure::Mint(MintError::Signing(_)) => {
            tracing::error!(request_id, subject, code, reason = %failure, "no token was made");
        }
        Failure::Credential(CredentialError::Unavailable(_)) => {
            tracing::warn!(request_id, subject, code, reason = %failure, "no token was made");
        }
        _ => tracing::info!(request_id, subject, code, reason = %failure, "no token was made"),
    }
    Err(failure.into_problem())
}

/// The token. `subject` is set as soon as it is known.
async fn minted(
    mint: &Mint,
    shared: &Shared,
    head: &Parts,
    body: Body,
    subject: &mut Option<String>,
) -> Result<MintedToken, Failure> {
    let (headers, khala) = (&head.headers, &shared.0.khala);
    // What is revoked from now on takes the token back too, by its `iat`.
    let now = khala.now();
    let proof = async {
        let policy = mint.policy(headers, now).await?;
        not_revoked(khala, &policy).await?;
        Ok::<_, CredentialError>(policy)
    };
    let proof = timeout(CHECK_WITHIN, proof).await;
    let policy = proof.unwrap_or_else(|_| Err(CredentialError::Unavailable(late())))?;
    *subject = policy.subject.fixed().map(str::to_owned);
    let ClientOfQuery { .. } = parameters(head.uri.query())?;
    let body = request::read(shared, headers, body, BODY_BYTES, Empty::Allowed, Room::Needed).await?;
    let request: MintRequest = if body.is_empty() { MintRequest::default() } else { request::parse(&body)? };
    if subject.is_none() {
        // Only what can be a subject goes to the log.
        *subject = request.subject.clone().filter(|subject| RevocationId::parse(subject).is_ok());
    }
    let minted = timeout(CHECK_WITHIN, mint.mint(&policy, &request, now)).await;
    let minted = minted.unwrap_or_else(|_| Err(MintError::Signing(late())))?;
    // The body and the issuer may have taken their time.
    not_revoked(khala, &policy).await?;
    Ok(minted)
}

/// A credential that was revoked must not be exchanged for a token that is not.
async fn not_revoked(khala: &Khala, policy: &MintPolicy) -> Result<(), CredentialError> {
    let Some(grant) = &policy.grant else { return Ok(()) };
    khala.access().check_revoked(grant).await.map_err(|denied| match denied {
        Denied::Unavailable(error) => CredentialError::Unavailable(error),
        _ => CredentialError::Invalid("token_revoked"),
    })
}
