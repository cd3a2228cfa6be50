//! What a token must say besides its signature, and the names of its claims.

use std::time::Duration;

/// The longest token that is looked at, and so the longest that is signed, in bytes.
pub(crate) const MAX_TOKEN: usize = 8 * 1024;

/// What a token must say besides its signature. The same options serve the verifier and the issuer: what one signs
/// with them, the other accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct JwtOptions {
    /// The `iss` that tokens must have, and get. None: it is neither checked nor set.
    pub issuer: Option<String>,
    /// The `aud` that tokens must name, and get. None: it is neither checked nor set.
    pub audience: Option<String>,
    /// The claims version that tokens must have, and get. None: it is neither checked nor set. A number in a token is
    /// compared as text.
    pub claims_version: Option<String>,
    /// How far clocks may be apart. Default: 5 s.
    pub leeway: Duration,
    /// The longest time that a token is good after its `iat`, whatever its `exp` says. None: no limit. Default: 24 h.
    pub max_age: Option<Duration>,
    /// Whether a token must have an `iat` even without a `max_age`. Default: false.
    pub require_iat: bool,
    /// Whether a token must have a `jti`, by which it can be revoked. Default: true.
    pub require_jti: bool,
    /// The names of the claims that have no name in RFC 7519.
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

/// The names of the claims that have no name in RFC 7519.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct ClaimNames {
    /// The scopes: one string with spaces between them, as in RFC 8693; an array of strings is accepted too. Default:
    /// `scope`.
    pub scopes: String,
    /// The subject's organisation. Default: `org_id`.
    pub organisation: String,
    /// The claims version. Default: `claims_version`.
    pub version: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            scopes: "scope".to_owned(),
            organisation: "org_id".to_owned(),
            version: "claims_version".to_owned(),
        }
    }
}
