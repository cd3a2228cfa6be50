//! Why somebody is not let in: one reason each, for a client to act on and an operator to count.

use std::time::Duration;

use crate::{error::Error, update::Timestamp, wire::Code};

/// Why no access was given. Its `Display` says what was wrong and never holds the token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// A claim is not what is asked for: another issuer, audience, claims version; in a refresh, another subject.
    #[error("the token's {claim} is not the one that is asked for")]
    ClaimMismatch {
        /// Which claim.
        claim: &'static str,
    },
    /// No topic class opens this topic, or the authorizer says no.
    #[error("this topic is not open to the token's subject")]
    ForbiddenTopic,
    /// There is an `Authorization` header of another scheme than `Bearer`.
    #[error("the Authorization header is not of the Bearer scheme")]
    InvalidAuthorizationScheme,
    /// It is no token, or its signature is wrong, or a claim is missing.
    #[error("the token is invalid: {0}")]
    InvalidToken(&'static str),
    /// It does not say when it was issued.
    #[error("the token has no iat, which is asked for")]
    MissingIat,
    /// It has no name by which it could be revoked.
    #[error("the token has no jti, which is asked for")]
    MissingJti,
    /// It carries none of the scopes that open the topic.
    #[error("the token does not carry {}", scopes.join(" or "))]
    MissingScope {
        /// Those that would do, of which one is enough.
        scopes: Vec<String>,
    },
    /// There is no token.
    #[error("there is no token: send an Authorization: Bearer header, the phoenix subprotocol, or ?token=")]
    MissingToken,
    /// The page that sends it is of an origin that is not listed.
    #[error("requests from pages of this origin are not accepted")]
    OriginNotAllowed,
    /// The topic belongs to somebody else.
    #[error("the topic's {claim} is not the token's")]
    OwnerMismatch {
        /// The placeholder of the topic's pattern that differs.
        claim: String,
    },
    /// It has run out.
    #[error("the token has expired")]
    TokenExpired,
    /// Its time has not come.
    #[error(
        "the token is not valid yet: its {claim} is {}, and this server's clock says {}, in seconds since 1970; \
         they may be {} s apart (jwt.leeway_seconds)",
        begins.as_millis() / 1000, now.as_millis() / 1000, leeway.as_secs()
    )]
    TokenNotYetValid {
        /// `nbf` or `iat`.
        claim: &'static str,
        /// What the token says, by the clock of its issuer.
        begins: Timestamp,
        /// What the clock of the verifier says.
        now: Timestamp,
        /// How far they may be apart.
        leeway: Duration,
    },
    /// It, its login or its subject was revoked.
    #[error("the token was revoked")]
    TokenRevoked,
    /// It was issued too long ago, whenever it says that it ends.
    #[error("the token was issued too long ago")]
    TokenTooOld,
    /// It cannot be checked now. Neither an access nor a refusal: try again.
    #[error("access cannot be checked now")]
    Unavailable(#[source] Error),
    /// The key that it names is not, or no longer, among those that are trusted.
    #[error("the token is signed with a key that is not known here")]
    UnknownKid,
}

impl Denied {
    /// The reason as it is on the wire, in logs and in metrics.
    pub fn code(&self) -> Code {
        match self {
            Self::ClaimMismatch { .. } => Code::ClaimMismatch,
            Self::ForbiddenTopic => Code::ForbiddenTopic,
            Self::InvalidAuthorizationScheme => Code::InvalidAuthorizationScheme,
            Self::InvalidToken(_) => Code::InvalidToken,
            Self::MissingIat => Code::MissingIat,
            Self::MissingJti => Code::MissingJti,
            Self::MissingScope { .. } => Code::MissingScope,
            Self::MissingToken => Code::MissingToken,
            Self::OriginNotAllowed => Code::OriginNotAllowed,
            Self::OwnerMismatch { .. } => Code::OwnerMismatch,
            Self::TokenExpired => Code::TokenExpired,
            Self::TokenNotYetValid { .. } => Code::TokenNotYetValid,
            Self::TokenRevoked => Code::TokenRevoked,
            Self::TokenTooOld => Code::TokenTooOld,
            Self::Unavailable(_) => Code::Unavailable,
            Self::UnknownKid => Code::UnknownKid,
        }
    }
}
