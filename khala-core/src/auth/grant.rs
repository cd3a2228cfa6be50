//! The witness: what a verified token proved.
//!
//! # Invariants
//! - [`Grant::from_verified`] is the one way to a grant, and its argument has to name what was verified. Nothing else makes
//!   or changes a grant.

use std::{collections::BTreeMap, sync::Arc};

use crate::update::Timestamp;

/// What a verified token says. A [`Verifier`](crate::auth::Verifier) fills it in, and makes a [`Grant`] of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct VerifiedClaims {
    /// The subject (`sub`).
    pub subject: String,
    /// What the token opens.
    pub scopes: Vec<String>,
    /// When the grant ends: no connection lives longer. It includes the leeway that the verifier allows.
    pub expires_at: Timestamp,
    /// When the token was issued. A revocation of its subject spares what was issued after it.
    pub issued_at: Option<Timestamp>,
    /// The token's name (`jti`), by which it can be revoked.
    pub token_id: Option<String>,
    /// The login that the token belongs to (`sid`), by which it can be revoked.
    pub session_id: Option<String>,
    /// The subject's organisation, which `{org}` in a topic pattern binds.
    pub organisation: Option<String>,
    /// The key that the token was signed with (`kid`). The grant ends when that key is distrusted.
    pub key_id: Option<String>,
    /// Other claims that a topic pattern can bind, by their names. `sub`, `sid` and `org` are not among them.
    pub claims: BTreeMap<String, String>,
}

impl VerifiedClaims {
    /// A subject, its scopes and an end. The other claims are absent.
    pub fn new(
        subject: impl Into<String>,
        scopes: impl IntoIterator<Item = impl Into<String>>,
        expires_at: Timestamp,
    ) -> Self {
        Self {
            subject: subject.into(),
            scopes: scopes.into_iter().map(Into::into).collect(),
            expires_at,
            issued_at: None,
            token_id: None,
            session_id: None,
            organisation: None,
            key_id: None,
            claims: BTreeMap::new(),
        }
    }
}

/// Proof that a token was verified. Cloning it gives another handle to the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant(Arc<VerifiedClaims>);

impl Grant {
    /// Asserts that the caller has verified a token that says this, or vouches for the subject itself.
    ///
    /// Only for implementers of a [`Verifier`](crate::auth::Verifier), and for hosts that know their own users: a grant opens
    /// what its claims say, and nothing checks them again.
    pub fn from_verified(claims: VerifiedClaims) -> Self {
        Self(Arc::new(claims))
    }

    /// Everything that the token said.
    pub fn verified(&self) -> &VerifiedClaims {
        &self.0
    }

    /// The subject of the token.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// What it opens.
    pub fn scopes(&self) -> &[String] {
        &self.0.scopes
    }

    /// When it runs out.
    pub fn expires_at(&self) -> Timestamp {
        self.0.expires_at
    }

    /// When it was issued, if it says so.
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.0.issued_at
    }

    /// The token's name (`jti`).
    pub fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// The login that it belongs to (`sid`).
    pub fn session_id(&self) -> Option<&str> {
        self.0.session_id.as_deref()
    }

    /// The subject's organisation.
    pub fn organisation(&self) -> Option<&str> {
        self.0.organisation.as_deref()
    }

    /// The key that it was signed with (`kid`).
    pub fn key_id(&self) -> Option<&str> {
        self.0.key_id.as_deref()
    }

    /// What a placeholder of that name in a topic pattern must be equal to: `sub`, `sid`, `org`, or one of
    /// [`VerifiedClaims::claims`], which cannot replace those three.
    pub fn claim(&self, name: &str) -> Option<&str> {
        match name {
            "org" => self.organisation(),
            "sid" => self.session_id(),
            "sub" => Some(self.subject()),
            _ => self.0.claims.get(name).map(String::as_str),
        }
    }

    /// Whether it carries `scope`.
    pub fn allows(&self, scope: &str) -> bool {
        self.0.scopes.iter().any(|held| held == scope)
    }
}
