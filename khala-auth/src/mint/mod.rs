//! Minting: a caller proves itself with a credential that it has already, and gets a token.
//!
//! A [`Credential`] says which [`MintPolicy`] a caller has; a policy and a [`MintRequest`] give the claims of the token.
//! The route over HTTP is the server's (`POST /v1/token`); an application that knows its callers already makes the policy
//! itself.
//!
//! # Invariants
//! - A token never says more than the credential allows, and never outlives it. A request for more is refused; nothing is
//!   narrowed or widened quietly.
//! - No error holds a credential or a token.

mod claim_name;
mod credential;
mod lifetime;
mod policy;
mod request;

use std::sync::Arc;

use http::HeaderMap;
use khala_core::{
    Error, Timestamp,
    auth::{IssuedToken, Issuer, TokenClaims},
};

pub use self::{
    claim_name::{ClaimName, ClaimNameError},
    credential::{Credential, CredentialError, SecretCredential, TokenCredential},
    lifetime::{InvalidLifetime, TokenLifetime},
    policy::{ClaimRule, MintPolicy},
    request::MintRequest,
};

/// Issues tokens to callers that prove that they may have them.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct Mint {
    /// Signs the tokens.
    pub issuer: Arc<dyn Issuer>,
    /// The credentials that are accepted, in the order in which they are asked.
    pub credentials: Vec<Arc<dyn Credential>>,
    /// How long tokens are good.
    pub lifetime: TokenLifetime,
}

/// A token, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MintedToken {
    /// What it says of its subject.
    pub claims: TokenClaims,
    /// The token itself.
    pub issued: IssuedToken,
}

/// Why no token was issued.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    /// The credential ends before the shortest lifetime of a token.
    #[error("the credential is about to end")]
    CredentialExpiring,
    /// The request asks for more than the credential gives.
    #[error("{field}: {detail}")]
    ExceedsCredential {
        /// The field of the request.
        field: &'static str,
        /// What is too much.
        detail: &'static str,
    },
    /// The request breaks a rule, whatever the credential gives.
    #[error("{detail}")]
    InvalidField {
        /// The field of the request.
        field: &'static str,
        /// The rule.
        detail: String,
    },
    /// The request asks for a lifetime that is too short or too long.
    #[error("ttl_seconds is {seconds}; it is to be from {min} to {max}")]
    InvalidLifetime {
        /// The seconds that the request asks for.
        seconds: u64,
        /// The fewest seconds.
        min: u64,
        /// The most seconds, as far as the credential lasts.
        max: u64,
    },
    /// The issuer failed.
    #[error("the token could not be signed")]
    Signing(#[source] Error),
}

impl Mint {
    /// Signs with `issuer` for the callers that one of `credentials` knows; tokens last as [`TokenLifetime::default`] says.
    pub fn new(issuer: Arc<dyn Issuer>, credentials: impl IntoIterator<Item = Arc<dyn Credential>>) -> Self {
        let lifetime = TokenLifetime::default();
        Self { issuer, credentials: credentials.into_iter().collect(), lifetime }
    }

    /// The policy of the caller that sent these headers.
    ///
    /// The credentials are asked in their order, and the first that knows the caller decides alone: policies are never
    /// added up. Whether a credential could not be asked matters only where none knows the caller; the caller should then
    /// try again. Credentials that ask nobody else come first.
    ///
    /// A policy with a [`grant`](MintPolicy::grant) counts only while that is not revoked, which is not checked here.
    ///
    /// # Errors
    /// A [`CredentialError`]: `Missing` where no credential was presented, `Invalid` where none was good, `Unavailable`
    /// where one could not be checked.
    pub async fn policy(&self, headers: &HeaderMap, now: Timestamp) -> Result<MintPolicy, CredentialError> {
        let mut invalid = None;
        let mut unavailable = None;
        for credential in &self.credentials {
            match credential.policy(headers, now).await {
                Ok(policy) => return Ok(policy),
                Err(CredentialError::Invalid(reason)) => invalid = invalid.or(Some(reason)),
                Err(CredentialError::Missing) => {}
                Err(CredentialError::Unavailable(error)) => unavailable = Some(error),
            }
        }
        Err(match (unavailable, invalid) {
            (Some(error), _) => CredentialError::Unavailable(error),
            (None, Some(reason)) => CredentialError::Invalid(reason),
            (None, None) => CredentialError::Missing,
        })
    }

    /// A token for `request`, as far as `policy` allows it.
    ///
    /// # Errors
    /// A [`MintError`], with the reason.
    pub async fn mint(
        &self,
        policy: &MintPolicy,
        request: &MintRequest,
        now: Timestamp,
    ) -> Result<MintedToken, MintError> {
        let claims = policy.claims(request)?;
        let lifetime = self.lifetime.decide(request.ttl_seconds, policy.expires_at(), now)?;
        let issued = self.issuer.issue(&claims, now, lifetime).await.map_err(MintError::Signing)?;
        Ok(MintedToken { claims, issued })
    }
}
