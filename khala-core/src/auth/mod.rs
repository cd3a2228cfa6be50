//! Who may do what: tokens, what verifying one proves, and why one is refused.
//!
//! A [`Grant`] is a witness: a session cannot be made without one, and only verification makes one. No token
//! ever appears in a `Debug` or `Display` output.

#[cfg(feature = "jwt")]
mod jwt;

use std::fmt;

use async_trait::async_trait;

#[cfg(feature = "jwt")]
pub use self::jwt::{JwtIssuer, JwtOptions, JwtVerifier, KeyError};
use crate::{error::Error, update::Timestamp};

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

/// What a grant lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Publish to topics.
    Publish,
    /// Read topics.
    Read,
}

impl Scope {
    /// The scope as tokens carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "khala:publish",
            Self::Read => "khala:read",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Proof that a token was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    subject: String,
    scopes: Vec<String>,
    expires_at: Timestamp,
}

impl Grant {
    /// Asserts that the caller has verified a token that says this, or vouches for the holder itself.
    ///
    /// For implementers of a [`Verifier`], and for hosts that know their own users. Nothing happens on a
    /// connection after `expires_at`.
    pub fn assertion(
        subject: impl Into<String>,
        scopes: impl IntoIterator<Item = impl Into<String>>,
        expires_at: Timestamp,
    ) -> Self {
        Self { subject: subject.into(), scopes: scopes.into_iter().map(Into::into).collect(), expires_at }
    }

    /// Whose token it was.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// When it runs out.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether it covers `scope`.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|held| held == scope.as_str())
    }
}

/// Why no grant was given. Its `Display` says what was wrong and never holds the token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The issuer or the audience is another.
    #[error("the token's {claim} is not the one that is asked for")]
    ClaimMismatch {
        /// Which claim.
        claim: &'static str,
    },
    /// There is an `Authorization` header of another scheme than `Bearer`.
    #[error("the Authorization header is not of the Bearer scheme")]
    InvalidAuthorizationScheme,
    /// It is no token, or its signature is wrong, or a claim is missing.
    #[error("the token is invalid: {0}")]
    InvalidToken(&'static str),
    /// There is no token.
    #[error("there is no token: send an Authorization: Bearer header, the phoenix subprotocol, or ?token=")]
    MissingToken,
    /// It has run out.
    #[error("the token has expired")]
    TokenExpired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    TokenNotYetValid,
    /// It cannot be checked now. Neither a grant nor a refusal: try again.
    #[error("the token cannot be checked now")]
    Unavailable(#[source] Error),
}

impl Denied {
    /// The reason as it is on the wire, in logs and in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ClaimMismatch { .. } => "claim_mismatch",
            Self::InvalidAuthorizationScheme => "invalid_authorization_scheme",
            Self::InvalidToken(_) => "invalid_token",
            Self::MissingToken => "missing_token",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Checks tokens.
///
/// ```
/// # use async_trait::async_trait;
/// # use khala_core::{Denied, Grant, Scope, Timestamp, Token, Verifier};
/// /// Lets in whoever knows the house word, for an hour.
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
///         Ok(Grant::assertion("guest", [Scope::Read.as_str()], until))
///     }
/// }
/// ```
#[async_trait]
pub trait Verifier: fmt::Debug + Send + Sync + 'static {
    /// What the token proves at `now`.
    ///
    /// # Errors
    /// [`Denied`], with the reason.
    async fn verify(&self, token: &Token, now: Timestamp) -> Result<Grant, Denied>;
}
