//! What a token must say beside its signature, and what the claims are called that no standard names.

use std::time::Duration;

/// The longest token that is looked at, and so the longest that is signed, in bytes.
pub(crate) const MAX_TOKEN: usize = 8 * 1024;

/// What a token must say beside its signature. The same options serve the verifier and the issuer: what one signs
/// with them, the other accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwtOptions {
    /// The `iss` that tokens must have, and get; unchecked and unset where there is none.
    pub issuer: Option<String>,
    /// The `aud` that tokens must name, and get; unchecked and unset where there is none.
    pub audience: Option<String>,
    /// The claims version that tokens must have, and get; unchecked and unset where there is none. A number in a
    /// token compares by its text.
    pub claims_version: Option<String>,
    /// How far clocks may be apart; five seconds if not said otherwise.
    pub leeway: Duration,
    /// How long after its `iat` a token is good at most, whenever it says that it ends; 24 hours if not said
    /// otherwise. None: as long as it says.
    pub max_age: Option<Duration>,
    /// Whether a token must say when it was issued although no `max_age` asks for it.
    pub require_iat: bool,
    /// Whether a token must have a `jti`, by which it can be revoked; yes if not said otherwise.
    pub require_jti: bool,
    /// What the claims are called that no standard names.
    pub names: ClaimNames,
    /// Other claims of text that topic patterns bind, by their names in the token.
    pub bind: Vec<String>,
}

impl Default for JwtOptions {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            claims_version: None,
            leeway: Duration::from_secs(5),
            max_age: Some(Duration::from_secs(24 * 60 * 60)),
            require_iat: false,
            require_jti: true,
            names: ClaimNames::default(),
            bind: Vec::new(),
        }
    }
}

impl JwtOptions {
    /// Demands and sets an issuer.
    #[must_use]
    pub fn with_issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Demands and sets an audience.
    #[must_use]
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Demands and sets a claims version.
    #[must_use]
    pub fn with_claims_version(mut self, version: impl Into<String>) -> Self {
        self.claims_version = Some(version.into());
        self
    }

    /// Lets clocks be that far apart.
    #[must_use]
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Limits how old a token may be; with None, its age is not looked at.
    #[must_use]
    pub fn with_max_age(mut self, age: Option<Duration>) -> Self {
        self.max_age = age;
        self
    }

    /// Says whether a token must have an `iat` where no age limit asks for it.
    #[must_use]
    pub fn with_require_iat(mut self, required: bool) -> Self {
        self.require_iat = required;
        self
    }

    /// Says whether a token must have a `jti`.
    #[must_use]
    pub fn with_require_jti(mut self, required: bool) -> Self {
        self.require_jti = required;
        self
    }

    /// Gives the claims other names.
    #[must_use]
    pub fn with_names(mut self, names: ClaimNames) -> Self {
        self.names = names;
        self
    }

    /// Takes one more claim of text into the grant, for topic patterns to bind.
    #[must_use]
    pub fn with_bind(mut self, name: impl Into<String>) -> Self {
        self.bind.push(name.into());
        self
    }
}

/// What the claims are called that no standard names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimNames {
    /// The scopes: an array of strings, or one string with spaces between them. `oa_sync_scopes`.
    pub scopes: String,
    /// The holder's organisation. `oa_org_id`.
    pub organisation: String,
    /// The claims version. `oa_claims_version`.
    pub version: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            scopes: "oa_sync_scopes".to_owned(),
            organisation: "oa_org_id".to_owned(),
            version: "oa_claims_version".to_owned(),
        }
    }
}

impl ClaimNames {
    /// Names the claim of the scopes.
    #[must_use]
    pub fn with_scopes(mut self, name: impl Into<String>) -> Self {
        self.scopes = name.into();
        self
    }

    /// Names the claim of the organisation.
    #[must_use]
    pub fn with_organisation(mut self, name: impl Into<String>) -> Self {
        self.organisation = name.into();
        self
    }

    /// Names the claim of the claims version.
    #[must_use]
    pub fn with_version(mut self, name: impl Into<String>) -> Self {
        self.version = name.into();
        self
    }
}
