//! Who sends a request, by its token, and what that opens.

use axum::extract::FromRequestParts;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use khala_auth::bearer_token;
use khala_core::{
    Grant, Token, Topic,
    auth::{Access, Denied},
};

use super::{Context, TopicPath};
use crate::{problem::Problem, shared::Shared};

/// What the request's token proves; the request is one of its subject's from then on.
pub(crate) struct Authenticated(pub(crate) Grant);

impl FromRequestParts<Shared> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let token = match shared.token_of_source(parts) {
            Some(token) => token,
            None => bearer_token(&parts.headers)?,
        };
        let grant = shared.0.khala.access().verify(&token).await?;
        Context::of(parts).hold_subject(shared, grant.subject())?;
        Ok(Self(grant))
    }
}

/// The topic that the path names, open to be read by the subject of the request's token.
pub(crate) struct Readable {
    pub(crate) grant: Grant,
    pub(crate) topic: Topic,
}

impl FromRequestParts<Shared> for Readable {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let Authenticated(grant) = Authenticated::from_request_parts(parts, shared).await?;
        let TopicPath(topic) = TopicPath::from_request_parts(parts, shared).await?;
        shared.0.khala.access().authorize(&grant, &topic, Access::Read).await?;
        Ok(Self { grant, topic })
    }
}

impl Shared {
    /// The token that the application takes from elsewhere, where the request says none itself.
    pub(crate) fn token_of_source(&self, parts: &Parts) -> Option<Token> {
        let source =
            self.0.token_source.as_ref().filter(|_| !parts.headers.contains_key(header::AUTHORIZATION));
        source.and_then(|source| source(parts))
    }
}

/// An operator, who knows the admin token.
///
/// # Invariants
/// The admin token opens nothing else, and no other token opens what takes this.
pub(crate) struct Admin;

impl FromRequestParts<Shared> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        admit(shared, &parts.headers).map(|()| Self)
    }
}

fn admit(shared: &Shared, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(secret) = &shared.0.admin else {
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
