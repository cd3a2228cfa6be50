//! Making tokens: what a token says, and the trait that signs it.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;

use super::Token;
use crate::{error::Error, update::Timestamp};

/// What a token says about its subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct TokenClaims {
    /// The subject (`sub`).
    pub subject: String,
    /// What the token opens.
    pub scopes: Vec<String>,
    /// The login that the token belongs to (`sid`).
    pub session_id: Option<String>,
    /// The subject's organisation.
    pub organisation: Option<String>,
    /// Other claims of text, by their names in the token.
    pub claims: BTreeMap<String, String>,
}

impl TokenClaims {
    /// The claims of a token for `subject` with these scopes.
    pub fn new(subject: impl Into<String>, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            subject: subject.into(),
            scopes: scopes.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// A token that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "an issuer makes it, and must fill every field")]
pub struct IssuedToken {
    /// The token.
    pub token: Token,
    /// The token's name (`jti`), by which it can be revoked.
    pub token_id: String,
    /// The key that it was signed with (`kid`), if the key has a name.
    pub key_id: Option<String>,
    /// When it expires (`exp`).
    pub expires_at: Timestamp,
}

/// Makes tokens.
#[async_trait]
pub trait Issuer: fmt::Debug + Send + Sync + 'static {
    /// A token with these claims, good from `now` for `ttl`.
    ///
    /// The caller has decided before that it may be issued.
    ///
    /// # Errors
    /// An [`Error`] when it cannot be signed.
    async fn issue(&self, claims: &TokenClaims, now: Timestamp, ttl: Duration) -> Result<IssuedToken, Error>;
}
