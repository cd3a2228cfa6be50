//! How a caller of the token routes proves itself: by what exists already, a secret or the application's own token.
//!
//! What must stay true: a credential never gives more than its holder has, and what was presented reaches neither an
//! answer nor a log.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::HeaderMap;
use khala_core::{
    Error, Timestamp, Token,
    auth::{Denied, Verifier},
};

use super::holder::{ClaimName, Holder};
use crate::{
    secret::{Secret, SecretError},
    token,
};

/// Checks an existing credential, and says what its holder may have.
///
/// ```
/// # use async_trait::async_trait;
/// # use http::HeaderMap;
/// # use khala_core::Timestamp;
/// # use khala_server::{Credential, Holder, Unproven};
/// /// The application's own login, which a cookie names.
/// #[derive(Debug)]
/// struct Logins(std::collections::HashMap<String, String>);
///
/// #[async_trait]
/// impl Credential for Logins {
///     async fn holder(&self, headers: &HeaderMap, _: Timestamp) -> Result<Holder, Unproven> {
///         let cookie = headers.get("cookie").and_then(|value| value.to_str().ok()).ok_or(Unproven::Missing)?;
///         let id = cookie.strip_prefix("login=").ok_or(Unproven::Missing)?;
///         let user = self.0.get(id).ok_or(Unproven::Invalid("no such login"))?;
///         Ok(Holder::one(user, ["khala:read"]).with_session_id(id))
///     }
/// }
/// ```
#[async_trait]
pub trait Credential: fmt::Debug + Send + Sync + 'static {
    /// What the sender of these headers may have at most.
    ///
    /// Dropping the future leaves nothing behind; it is dropped after five seconds.
    ///
    /// # Errors
    /// [`Unproven`], with the reason.
    async fn holder(&self, headers: &HeaderMap, now: Timestamp) -> Result<Holder, Unproven>;
}

/// Why a credential proves nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unproven {
    /// There is one, and it is not good. The reason is for the log: the caller is told the same for all.
    #[error("the credential is not good: {0}")]
    Invalid(&'static str),
    /// There is none.
    #[error("there is no credential")]
    Missing,
    /// It cannot be checked now: neither good nor bad.
    #[error("the credential cannot be checked now")]
    Unavailable(#[source] Error),
}

/// The bearer of the `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<Token, Unproven> {
    token::in_header(headers).map_err(|denied| match denied {
        Denied::MissingToken => Unproven::Missing,
        denied => Unproven::Invalid(denied.code().as_str()),
    })
}

/// A secret that the application's backend shares with this server, as `Authorization: Bearer <secret>`: it may have
/// tokens made for anybody.
#[derive(Clone, Debug)]
pub struct MintSecret {
    secret: Secret,
    holder: Holder,
}

impl MintSecret {
    /// Whoever knows `secret` may have tokens with these scopes at most.
    ///
    /// # Errors
    /// A [`SecretError`] for a secret that is shorter than 32 characters or not of visible ASCII.
    pub fn new(
        secret: &str,
        scopes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, SecretError> {
        Ok(Self { secret: Secret::new(secret)?, holder: Holder::anyone(scopes) })
    }

    /// Lets it have tokens for this organisation alone.
    #[must_use]
    pub fn with_organisation(mut self, organisation: impl Into<String>) -> Self {
        self.holder = self.holder.with_organisation(organisation);
        self
    }

    /// Lets it set these claims as it likes.
    #[must_use]
    pub fn with_claims(mut self, names: impl IntoIterator<Item = ClaimName>) -> Self {
        self.holder = names.into_iter().fold(self.holder, Holder::with_free_claim);
        self
    }
}

#[async_trait]
impl Credential for MintSecret {
    async fn holder(&self, headers: &HeaderMap, _: Timestamp) -> Result<Holder, Unproven> {
        if self.secret.is(bearer(headers)?.reveal()) {
            Ok(self.holder.clone())
        } else {
            Err(Unproven::Invalid("not the mint secret"))
        }
    }
}

/// The application's own token, as `Authorization: Bearer <token>`: its holder may have tokens for itself.
///
/// Subject and organisation are those of the credential. What is minted ends with it at the latest. Scopes are none
/// unless said otherwise.
///
/// Its `sid` is that of the credential or, where that has none, the credential's `jti`. So revoking by this `sid`
/// takes back the credential and all that was minted for it, and revoking by `sub` does; revoking the credential by
/// `jti` only ends the minting.
#[derive(Clone, Debug)]
pub struct VerifiedToken {
    verifier: Arc<dyn Verifier>,
    scopes: Vec<String>,
    carried: Vec<String>,
    claims: Vec<ClaimName>,
    leeway: Duration,
}

impl VerifiedToken {
    /// Whoever has a token that `verifier` accepts.
    ///
    /// It should not accept what is minted here: give it another key set, issuer or audience. Where it does, the
    /// leeway has to be told, else each token could be exchanged for one that lasts so much longer.
    pub fn new(verifier: Arc<dyn Verifier>) -> Self {
        Self {
            verifier,
            scopes: Vec::new(),
            carried: Vec::new(),
            claims: Vec::new(),
            leeway: Duration::from_secs(5),
        }
    }

    /// Gives these scopes to every holder, whatever its credential carries: for identity providers that know nothing
    /// of Khala.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// Gives, of these scopes, those that the holder's own credential carries.
    #[must_use]
    pub fn with_carried_scopes(mut self, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.carried = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// Takes these claims over from the credential, where it has them.
    #[must_use]
    pub fn with_claims(mut self, names: impl IntoIterator<Item = ClaimName>) -> Self {
        self.claims = names.into_iter().collect();
        self
    }

    /// Takes that much off the credential's end: the leeway that its verifier allows.
    #[must_use]
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }
}

#[async_trait]
impl Credential for VerifiedToken {
    async fn holder(&self, headers: &HeaderMap, now: Timestamp) -> Result<Holder, Unproven> {
        let grant = self.verifier.verify(&bearer(headers)?, now).await.map_err(|denied| match denied {
            Denied::Unavailable(error) => Unproven::Unavailable(error),
            denied => Unproven::Invalid(denied.code().as_str()),
        })?;
        if grant.expires_at() <= now {
            return Err(Unproven::Invalid(Denied::TokenExpired.code().as_str()));
        }
        let carried = self.carried.iter().filter(|scope| grant.allows(scope) && !self.scopes.contains(scope));
        let scopes: Vec<_> = self.scopes.iter().chain(carried).cloned().collect();
        let claims: Vec<_> = self
            .claims
            .iter()
            .filter_map(|name| Some((name.clone(), grant.claim(name.as_str())?.to_owned())))
            .collect();
        let end = grant.expires_at().minus(self.leeway);
        let holder = Holder::of(grant, scopes).with_end(end);
        Ok(claims.into_iter().fold(holder, |holder, (name, value)| holder.with_claim(name, value)))
    }
}
