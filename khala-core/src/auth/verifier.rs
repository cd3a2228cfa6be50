//! A token, and who checks it.

use std::fmt;

use async_trait::async_trait;

use super::{Denied, Grant};
use crate::update::Timestamp;

/// A bearer token as it came in. Prints as `Token(…)`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token of that text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, which must not reach a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Checks tokens.
///
/// Whether a token was revoked is not its business: [`AccessControl::verify`](crate::access::AccessControl::verify) asks that after it.
///
/// ```
/// # use async_trait::async_trait;
/// # use khala_core::{Grant, Timestamp, Token, auth::{Access, Denied, VerifiedClaims, Verifier}};
/// /// Admits every client that knows the house word, for an hour.
/// #[derive(Debug)]
/// struct HouseWord(String);
///
/// #[async_trait]
/// impl Verifier for HouseWord {
///     async fn verify(&self, token: &Token, now: Timestamp) -> Result<Grant, Denied> {
///         if token.reveal() != self.0 {
///             return Err(Denied::InvalidToken("not the house word"));
///         }
///         let until = now.plus(std::time::Duration::from_secs(3600));
///         Ok(Grant::from_verified(VerifiedClaims::new("guest", [Access::Read.scope()], until)))
///     }
/// }
/// ```
#[async_trait]
pub trait Verifier: fmt::Debug + Send + Sync + 'static {
    /// What the token proves at `now`.
    ///
    /// Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// [`Denied`], with the reason. [`Denied::Unavailable`] is neither a grant nor a refusal: the client is asked to
    /// try again.
    async fn verify(&self, token: &Token, now: Timestamp) -> Result<Grant, Denied>;
}

/// Accepts no token: what a handle does that was given no verifier.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct DenyAll;

#[async_trait]
impl Verifier for DenyAll {
    async fn verify(&self, _: &Token, _: Timestamp) -> Result<Grant, Denied> {
        Err(Denied::InvalidToken("no tokens are accepted here"))
    }
}
