//! The witness: what a verified token proved.

use std::{collections::BTreeMap, sync::Arc};

use crate::update::Timestamp;

/// Proof that a token was verified. Cloning it gives another handle to the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant(Arc<Proved>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Proved {
    subject: String,
    scopes: Vec<String>,
    expires_at: Timestamp,
    issued_at: Option<Timestamp>,
    token_id: Option<String>,
    session_id: Option<String>,
    organisation: Option<String>,
    key_id: Option<String>,
    claims: BTreeMap<String, String>,
}

impl Grant {
    /// Asserts that the caller has verified a token that says this, or vouches for the holder itself.
    ///
    /// For implementers of a [`Verifier`](crate::auth::Verifier), and for hosts that know their own users. Nothing happens
    /// on a connection after `expires_at`, which includes whatever leeway the verifier allows.
    pub fn assertion(
        subject: impl Into<String>,
        scopes: impl IntoIterator<Item = impl Into<String>>,
        expires_at: Timestamp,
    ) -> Self {
        Self(Arc::new(Proved {
            subject: subject.into(),
            scopes: scopes.into_iter().map(Into::into).collect(),
            expires_at,
            issued_at: None,
            token_id: None,
            session_id: None,
            organisation: None,
            key_id: None,
            claims: BTreeMap::new(),
        }))
    }

    fn proved(&mut self) -> &mut Proved {
        Arc::make_mut(&mut self.0)
    }

    /// Says when the token was issued. A revocation of its subject spares what was issued after it.
    #[must_use]
    pub fn with_issued_at(mut self, moment: Timestamp) -> Self {
        self.proved().issued_at = Some(moment);
        self
    }

    /// Names the token (`jti`), by which it can be revoked.
    #[must_use]
    pub fn with_token_id(mut self, id: impl Into<String>) -> Self {
        self.proved().token_id = Some(id.into());
        self
    }

    /// Names the login that the token belongs to (`sid`), by which it can be revoked.
    #[must_use]
    pub fn with_session_id(mut self, id: impl Into<String>) -> Self {
        self.proved().session_id = Some(id.into());
        self
    }

    /// Names the holder's organisation, which `{org}` in a topic pattern binds.
    #[must_use]
    pub fn with_organisation(mut self, organisation: impl Into<String>) -> Self {
        self.proved().organisation = Some(organisation.into());
        self
    }

    /// Names the key that the token was signed with; the grant ends when that key is withdrawn.
    #[must_use]
    pub fn with_key_id(mut self, id: impl Into<String>) -> Self {
        self.proved().key_id = Some(id.into());
        self
    }

    /// Adds a claim that a topic pattern can bind under this name.
    #[must_use]
    pub fn with_claim(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.proved().claims.insert(name.into(), value.into());
        self
    }

    /// Whose token it was.
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

    /// The holder's organisation.
    pub fn organisation(&self) -> Option<&str> {
        self.0.organisation.as_deref()
    }

    /// The key that it was signed with (`kid`).
    pub fn key_id(&self) -> Option<&str> {
        self.0.key_id.as_deref()
    }

    /// What a placeholder of that name in a topic pattern must be equal to: `sub`, `sid`, `org`, or a claim of
    /// [`with_claim`](Self::with_claim), which cannot replace those three.
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
