//! `/internal/v1/khala/revocations`: takes tokens back, and lists what was taken back.
//!
//! # Invariants
//! A revocation is kept for as long as anything that it names may be valid.

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

use super::order;
use crate::{
    RevocationTerms, openapi,
    problem::Problem,
    request::{
        Admin, Context, Empty, Limit, NoParams, Params, given, given_whole, invalid, parse, watermark,
    },
    response::json,
    shared::Shared,
};

/// Bytes of a reason.
const REASON_BYTES: usize = 1_024;
/// Longer ids are cut off in the log.
const LOGGED_ID: usize = 64;

/// A revocation as it is ordered.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewRevocation)]
struct Ordered {
    by: By,
    #[schema(value_type = openapi::RevocationId)]
    id: RevocationId,
    /// When nothing that it names can still be valid, so that it may be forgotten. It is in the future; for sub it can only be
    /// later than what the server sets without it. Without it, a sid is kept for good.
    #[serde(default, deserialize_with = "given_whole")]
    #[schema(value_type = openapi::Timestamp, required = false)]
    until: Option<u64>,
    /// For the server's log; at most 1024 bytes.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, max_length = 1024)]
    reason: Option<String>,
}

/// The claim: one token, every token of a login whenever issued, or every token of a subject issued until now; where the server
/// allows clocks a leeway, also those issued within it.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RevokedBy)]
enum By {
    Jti,
    Sid,
    Sub,
}

/// A revocation as it is told.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Revocation)]
struct Told<'a> {
    /// Covers this revocation and all before it.
    #[schema(value_type = openapi::Watermark)]
    watermark: Watermark,
    #[schema(value_type = By)]
    by: &'static str,
    #[schema(value_type = openapi::RevocationId)]
    id: &'a RevocationId,
    /// When it was made; for sub, later by the leeway that the server allows clocks.
    #[schema(value_type = openapi::Timestamp)]
    at: u64,
    /// When it may be forgotten; absent if never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = openapi::Timestamp, required = false)]
    until: Option<u64>,
}

impl<'a> Told<'a> {
    fn new(watermark: Watermark, Revocation { target, at, until, .. }: &'a Revocation) -> Self {
        let until = until.map(Timestamp::as_millis);
        Self { watermark, by: target.by(), id: target.id(), at: at.as_millis(), until }
    }
}

/// Takes grants back: what they opened is closed on every node within a second, and refused from then on.
#[utoipa::path(
    post, path = "/internal/v1/khala/revocations", operation_id = "revoke", tag = "admin", security(("admin" = [])),
    params(openapi::RequestIdHeader),
    request_body(content = Ordered, content_type = "application/json", examples(
        ("token" = (value = json!({"by": "jti", "id": "0f6c2d", "reason": "found in a bug report"}))),
        ("login" = (value = json!({"by": "sid", "id": "login-7"}))),
        ("subject" = (value = json!({"by": "sub", "id": "ada"}))),
    )),
    responses(
        (status = 201, body = Told<'_>, description = "It is on stable storage."),
        openapi::AdminRefusals,
        openapi::BodyRefusals,
        openapi::StoreRefusals,
    )
)]
pub(crate) async fn revoke(
    State(shared): State<Shared>,
    _: Admin,
    Params(NoParams {}): Params<NoParams>,
    Context { request_id, .. }: Context,
    request: Request,
) -> Result<Response, Problem> {
    let body = order::read(&shared, request, Empty::Refused).await?;
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
            let left = usual.since(now).as_secs().div_ceil(3600);
            Err(fault(format!(
                "until is too early: tokens that this names may last for another {left} h; name a later moment, or none"
            )))
        }
        _ => Ok(Some(until)),
    }
}

/// Which part of the list is told.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct RevocationsQuery {
    /// The watermark to continue after; without it, from the oldest.
    #[serde(deserialize_with = "watermark")]
    #[param(value_type = Option<openapi::Watermark>)]
    after: Option<Watermark>,
    #[param(inline)]
    limit: Limit,
}

/// A page of revocations, oldest first.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = RevocationPage)]
struct Revocations<'a> {
    revocations: Vec<Told<'a>>,
    complete: bool,
    /// Where the next page is; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<String>,
}

/// Lists the revocations that are kept.
#[utoipa::path(
    get, path = "/internal/v1/khala/revocations", operation_id = "listRevocations", tag = "admin", security(("admin" = [])),
    params(RevocationsQuery),
    responses(
        (status = 200, body = Revocations<'_>, description = "A page of them."),
        openapi::AdminRefusals,
        openapi::StoreRefusals,
    )
)]
pub(crate) async fn revocations(
    State(shared): State<Shared>,
    _: Admin,
    Params(query): Params<RevocationsQuery>,
) -> Result<Response, Problem> {
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
    use std::time::Duration;

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
