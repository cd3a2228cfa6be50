//! `/internal/v1/khala/revocations`: takes tokens back, and lists what was taken back.
//!
//! # Invariants
//! A revocation is kept for as long as anything that it names may be valid.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use khala_core::{
    Timestamp, Watermark,
    auth::{Revocation, RevocationId, RevocationTarget},
    telemetry,
};
use serde::{Deserialize, Serialize};

use crate::{
    problem::Problem,
    request::{
        Admin, Context, Empty, Limit, NoParams, Params, given, given_whole, invalid, parse, watermark,
    },
    routes::json,
    server::Shared,
};

/// Bytes of a reason.
const REASON_BYTES: usize = 1_024;
/// Longer ids are cut off in the log.
const LOGGED_ID: usize = 64;

/// What tokens may say of their own time, and so how long a revocation has to be kept.
///
/// They are those of the verifier: with shorter ones, what was revoked could be valid again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct RevocationTerms {
    /// The longest age of a token. None: there is none, so what is revoked is kept for good unless its order says
    /// until when. Default: a day.
    pub max_age: Option<Duration>,
    /// How far the clocks of issuers may be off. Default: five seconds, as in [`JwtOptions`](khala_auth::JwtOptions).
    ///
    /// A token may say that it is issued that much later than it was. So a revocation by `sub` takes back what says
    /// to be issued until this much after it, a new login's tokens too.
    pub leeway: Duration,
}

impl Default for RevocationTerms {
    fn default() -> Self {
        Self { max_age: Some(Duration::from_secs(24 * 60 * 60)), leeway: Duration::from_secs(5) }
    }
}

/// A revocation as it is ordered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ordered {
    by: By,
    id: RevocationId,
    #[serde(default, deserialize_with = "given_whole")]
    until: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    reason: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum By {
    Jti,
    Sid,
    Sub,
}

/// A revocation as it is told.
#[derive(Serialize)]
struct Told<'a> {
    watermark: Watermark,
    by: &'static str,
    id: &'a RevocationId,
    at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

impl<'a> Told<'a> {
    fn new(watermark: Watermark, Revocation { target, at, until, .. }: &'a Revocation) -> Self {
        let until = until.map(Timestamp::as_millis);
        Self { watermark, by: target.by(), id: target.id(), at: at.as_millis(), until }
    }
}

/// `POST /internal/v1/khala/revocations`
pub(crate) async fn revoke(
    State(shared): State<Shared>,
    _: Admin,
    Params(NoParams {}): Params<NoParams>,
    Context { request_id, .. }: Context,
    request: Request,
) -> Result<Response, Problem> {
    let body = super::read(&shared, request, Empty::Refused).await?;
    let Ordered { by, id, until, reason } = parse(&body)?;
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES) {
        return Err(invalid("reason", format!("reason: at most {REASON_BYTES} bytes are allowed")));
    }
    let target = match by {
        By::Jti => RevocationTarget::Jti(id),
        By::Sid => RevocationTarget::Sid(id),
        By::Sub => RevocationTarget::Sub(id),
    };
    let khala = &shared.0.khala;
    let now = khala.now();
    let terms = &shared.0.revocation_terms;
    // The issuer of a token may have had a clock that was ahead.
    let at = if by == By::Sub { now.plus(terms.leeway) } else { now };
    let revocation = Revocation::new(target, at);
    let revocation = match end(by, until.map(Timestamp::from_millis), terms, now)? {
        Some(until) => revocation.with_until(until),
        None => revocation,
    };
    let watermark = khala.access().revoke(revocation.clone()).await?;
    let told = Told::new(watermark, &revocation);
    telemetry::revocation_made(told.by);
    let logged = &told.id.as_str()[..told.id.as_str().floor_char_boundary(LOGGED_ID)];
    tracing::info!(
        request_id = &*request_id,
        by = told.by,
        id = logged,
        watermark = watermark.as_u64(),
        reason,
        "revoked"
    );
    json(StatusCode::CREATED, &told)
}

/// When a revocation may be forgotten.
///
/// A caller that revokes one token may know its end, and a caller that ends a login may know that its `sid` is not used again:
/// without word of that a login stays ended, for its tokens are taken back whenever they are issued. Of a subject
/// nobody knows all tokens, so there the time can only be made longer.
fn end(
    by: By,
    until: Option<Timestamp>,
    terms: &RevocationTerms,
    now: Timestamp,
) -> Result<Option<Timestamp>, Problem> {
    // A token may say to be issued a leeway from now, and is good for a leeway after its end.
    let usual = terms.max_age.filter(|_| by != By::Sid);
    let usual = usual.map(|age| now.plus(age.saturating_add(terms.leeway.saturating_mul(2))));
    let Some(until) = until else { return Ok(usual) };
    let fault = |detail: String| Problem::invalid("invalid_until", detail).with("field", "until");
    if until <= now {
        return Err(fault(format!("until is not in the future: it is {} now", now.as_millis())));
    }
    match usual {
        Some(usual) if by == By::Sub && until < usual => {
            let usual = usual.as_millis();
            Err(fault(format!("until is before {usual}, when the last token that this names may end")))
        }
        _ => Ok(Some(until)),
    }
}

/// Which part of the list is told.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RevocationsQuery {
    #[serde(deserialize_with = "watermark")]
    after: Option<Watermark>,
    limit: Limit,
}

/// `GET /internal/v1/khala/revocations`
pub(crate) async fn revocations(
    State(shared): State<Shared>,
    _: Admin,
    Params(query): Params<RevocationsQuery>,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Revocations<'a> {
        revocations: Vec<Told<'a>>,
        complete: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let (after, Limit(limit)) = (query.after.unwrap_or(Watermark::ORIGIN), query.limit);
    let one_more = limit.saturating_add(1);
    let (mut found, mut at) = (Vec::new(), Some(after));
    // A row that cannot be read makes a page shorter and is not the end.
    while let (Some(after), true) = (at, found.len() < one_more.get()) {
        let page = shared.0.khala.access().revocations(after, one_more).await?;
        found.extend(page.revocations);
        at = page.next;
    }
    let complete = found.len() <= limit.get();
    found.truncate(limit.get());
    let revocations: Vec<_> = found.iter().map(|(watermark, one)| Told::new(*watermark, one)).collect();
    let last = revocations.last().filter(|_| !complete);
    let next =
        last.map(|last| format!("/internal/v1/khala/revocations?after={}&limit={limit}", last.watermark));
    json(StatusCode::OK, &Revocations { revocations, complete, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_outlasts_what_it_names() {
        let at = Timestamp::from_millis;
        let now = at(1_000);
        let ms = Duration::from_millis;
        let unknown = RevocationTerms { max_age: None, ..RevocationTerms::default() };
        let known = RevocationTerms { max_age: Some(ms(500)), leeway: ms(50) };
        let ends = |by, until: Option<u64>, terms| {
            end(by, until.map(at), terms, now).map_err(|problem| problem.code())
        };
        for by in [By::Jti, By::Sid, By::Sub] {
            let usual = if by == By::Sid { None } else { Some(at(1_600)) };
            assert_eq!(ends(by, None, &known), Ok(usual));
            assert_eq!(ends(by, None, &unknown), Ok(None));
            assert_eq!(ends(by, Some(1_000), &known), Err("invalid_until"), "the past is over");
            assert_eq!(ends(by, Some(1_600), &known), Ok(Some(at(1_600))));
            assert_eq!(ends(by, Some(9_000), &known), Ok(Some(at(9_000))));
            let sooner = if by == By::Sub { Err("invalid_until") } else { Ok(Some(at(1_599))) };
            assert_eq!(ends(by, Some(1_599), &known), sooner);
            assert_eq!(
                ends(by, Some(1_001), &unknown),
                Ok(Some(at(1_001))),
                "nothing is known of tokens: as ordered"
            );
        }
        let endless = RevocationTerms { max_age: Some(Duration::MAX), leeway: Duration::MAX };
        assert!(ends(By::Sub, None, &endless).unwrap().is_some_and(|end| end > now));
    }
}
