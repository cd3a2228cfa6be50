//! How a caller of a mint proves itself: with what it has already, a secret or the application's own token.
//!
//! # Invariants
//! - A credential never gives more than its owner has.
//! - What was presented reaches neither an answer nor a log.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::HeaderMap;
use khala_core::{
    Error, Timestamp,
    auth::{Denied, Verifier},
};

use super::{ClaimName, ClaimRule, MintPolicy};
use crate::{bearer::bearer_token, secret::SharedSecret};

/// Checks an existing credential, and says what its owner may have.
///
/// ```
/// # use async_trait::async_trait;
/// # use http::HeaderMap;
/// # use khala_auth::mint::{ClaimRule, Credential, CredentialError, MintPolicy};
/// # use khala_core::Timestamp;
/// /// The application's own login, which a cookie names.
/// #[derive(Debug)]
/// struct Logins(std::collections::HashMap<String, String>);
///
/// #[async_trait]
/// impl Credential for Logins {
///     async fn policy(&self, headers: &HeaderMap, _: Timestamp) -> Result<MintPolicy, CredentialError> {
///         let cookie = headers.get("cookie").and_then(|value| value.to_str().ok());
///         let id = cookie.and_then(|cookie| cookie.strip_prefix("login=")).ok_or(CredentialError::Missing)?;
///         let user = self.0.get(id).ok_or(CredentialError::Invalid("no such login"))?;
///         let session_id = ClaimRule::Exactly(id.to_owned());
///         Ok(MintPolicy { session_id, ..MintPolicy::for_subject(user, ["khala:read"]) })
///     }
/// }
/// ```
#[async_trait]
pub trait Credential: fmt::Debug + Send + Sync + 'static {
    /// What the sender of these headers may have at most.
    ///
    /// Dropping the future leaves nothing behind; the server drops it after five seconds.
    ///
    /// # Errors
    /// A [`CredentialError`], with the reason.
    async fn policy(&self, headers: &HeaderMap, now: Timestamp) -> Result<MintPolicy, CredentialError>;
}

/// Why a credential proves nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A credential was presented, and it is not good. The reason is for the log: the caller is told the same for all.
    #[error("the credential is not good: {0}")]
    Invalid(&'static str),
    /// No credential was presented.
    #[error("there is no credential")]
    Missing,
    /// The credential cannot be checked now: it is neither good nor bad.
    #[error("the credential cannot be checked now")]
    Unavailable(#[source] Error),
}

impl From<Denied> for CredentialError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::MissingToken => Self::Missing,
            Denied::Unavailable(error) => Self::Unavailable(error),
            denied => Self::Invalid(denied.code().as_str()),
        }
    }
}

/// A secret that the application's backend shares with the mint, as `Authorization: Bearer <secret>`.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct SecretCredential {
    /// The secret.
    pub secret: SharedSecret,
    /// What a caller that knows it may have: for a backend, a [`MintPolicy::any_subject`].
    pub policy: MintPolicy,
}

#[async_trait]
impl Credential for SecretCredential {
    async fn policy(&self, headers: &HeaderMap, _: Timestamp) -> Result<MintPolicy, CredentialError> {
        if self.secret.is(bearer_token(headers)?.reveal()) {
            Ok(self.policy.clone())
        } else {
            Err(CredentialError::Invalid("not the mint secret"))
        }
    }
}

/// The application's own token, as `Authorization: Bearer <token>`: its subject may have tokens for itself.
///
/// Subject and organisation are those of the credential, and a minted token does not outlive it. The `sid` of a minted
/// token is that of the credential or, where that has none, its `jti`. So a revocation by this `sid`, or by `sub`, takes
/// back the credential and all that was minted for it; a revocation of the credential by `jti` only ends the minting.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct TokenCredential {
    /// Checks the application's token.
    ///
    /// It should not accept what is minted: give it another key set, issuer or audience. Where it does, the leeway has to
    /// be right, or each token could be exchanged for one that lasts longer by it.
    pub verifier: Arc<dyn Verifier>,
    /// The scopes of every caller, whatever its token carries: for identity providers that know nothing of Khala.
    pub scopes: Vec<String>,
    /// The scopes of the callers whose own token carries them.
    pub carried_scopes: Vec<String>,
    /// The further claims that are copied from the caller's token, where that has them.
    pub claims: Vec<ClaimName>,
    /// The leeway of the verifier: a minted token ends that much before the verified grant. Default: 5 s.
    pub leeway: Duration,
}

impl TokenCredential {
    /// Accepts the tokens that `verifier` accepts, and gives no scopes yet.
    pub fn new(verifier: Arc<dyn Verifier>) -> Self {
        let (scopes, carried_scopes, claims) = (Vec::new(), Vec::new(), Vec::new());
        Self { verifier, scopes, carried_scopes, claims, leeway: Duration::from_secs(5) }
    }
}

#[async_trait]
impl Credential for TokenCredential {
    async fn policy(&self, headers: &HeaderMap, now: Timestamp) -> Result<MintPolicy, CredentialError> {
        let grant = self.verifier.verify(&bearer_token(headers)?, now).await?;
        if grant.expires_at() <= now {
            return Err(Denied::TokenExpired.into());
        }
        let carried = self.carried_scopes.iter();
        let carried = carried.filter(|scope| grant.allows(scope) && !self.scopes.contains(scope));
        let scopes: Vec<_> = self.scopes.iter().chain(carried).cloned().collect();
        let claim = |name: &ClaimName| {
            let value = grant.claim(name.as_str())?.to_owned();
            Some((name.clone(), ClaimRule::Exactly(value)))
        };
        let claims = self.claims.iter().filter_map(claim).collect();
        let ends_at = Some(grant.expires_at().minus(self.leeway));
        Ok(MintPolicy { claims, ends_at, ..MintPolicy::for_grant(grant, scopes) })
    }
}
