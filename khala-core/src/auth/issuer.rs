//! Making tokens: what one is to say, and who signs it.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;

use super::Token;
use crate::{error::Error, update::Timestamp};

/// What a token is to say about its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mandate {
    /// Whose token it is (`sub`).
    pub subject: String,
    /// What it opens.
    pub scopes: Vec<String>,
    /// The login that it belongs to (`sid`).
    pub session_id: Option<String>,
    /// The holder's organisation.
    pub organisation: Option<String>,
    /// Other claims of text, by their names in the token.
    pub claims: BTreeMap<String, String>,
}

impl Mandate {
    /// A mandate for `subject` with these scopes.
    pub fn new(subject: impl Into<String>, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            subject: subject.into(),
            scopes: scopes.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Names the login.
    #[must_use]
    pub fn with_session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = Some(id.into());
        self
    }

    /// Names the organisation.
    #[must_use]
    pub fn with_organisation(mut self, organisation: impl Into<String>) -> Self {
        self.organisation = Some(organisation.into());
        self
    }

    /// Adds a claim.
    #[must_use]
    pub fn with_claim(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }
}

/// A token that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Issued {
    /// The token.
    pub token: Token,
    /// Its name (`jti`), by which it can be revoked.
    pub token_id: String,
    /// The key that it was signed with (`kid`), if that has a name.
    pub key_id: Option<String>,
    /// When it runs out (`exp`).
    pub expires_at: Timestamp,
}

impl Issued {
    /// A token with its name and its end.
    pub fn new(token: Token, token_id: impl Into<String>, expires_at: Timestamp) -> Self {
        Self { token, token_id: token_id.into(), key_id: None, expires_at }
    }

    /// Names the key.
    #[must_use]
    pub fn with_key_id(mut self, id: impl Into<String>) -> Self {
        self.key_id = Some(id.into());
        self
    }
}

/// Makes tokens.
#[async_trait]
pub trait Issuer: fmt::Debug + Send + Sync + 'static {
    /// A token that says what `mandate` does, good from `now` for `ttl`.
    ///
    /// Whether the caller may have it was decided before.
    ///
    /// # Errors
    /// An [`Error`] when it cannot be signed.
    async fn issue(&self, mandate: &Mandate, now: Timestamp, ttl: Duration) -> Result<Issued, Error>;
}
