//! What a token must say besides its signature, and the names of its claims.

use std::time::Duration;

use khala_core::config::{seconds, seconds_or_none};
use serde::{Deserialize, Serialize};

/// The longest token that is looked at, and so the longest that is signed, in bytes.
pub(crate) const MAX_TOKEN: usize = 8 * 1024;

/// What a token must say besides its signature. The same options serve the verifier and the issuer: what one signs
/// with them, the other accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct JwtOptions {
    /// The `iss` that a token must have, and that minted tokens get. Without it, `iss` is neither checked nor
    /// set. Example: `"https://login.example"`.
    pub issuer: Option<String>,
    /// The `aud` that a token must name, and that minted tokens get. Without it, `aud` is neither checked nor
    /// set. Example: `"khala"`.
    pub audience: Option<String>,
    /// The claims version that a token must have, and that minted tokens get. Without it, the version is
    /// neither checked nor set. A number in a token is compared as text. Example: `"2"`.
    pub claims_version: Option<String>,
    /// How far the clocks of the token's issuer and of this server may differ. Default: 5 s.
    #[serde(rename = "leeway_seconds", with = "seconds")]
    pub leeway: Duration,
    /// How long a token is accepted after its `iat`, whatever its `exp` says. None: no limit. Default: 24 h.
    #[serde(rename = "max_age_seconds", with = "seconds_or_none")]
    pub max_age: Option<Duration>,
    /// Whether a token must have an `iat` even if there is no maximal age. Default: false.
    pub require_iat: bool,
    /// Whether a token must have a `jti`, by which it can be revoked. Default: true.
    pub require_jti: bool,
    /// The names of the claims that have no name in RFC 7519.
    pub claim_names: ClaimNames,
    /// Further claims that topic patterns bind, by their names in the token. Their values are text. Example:
    /// `["team"]`.
    pub bind_claims: Vec<String>,
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
            claim_names: ClaimNames::default(),
            bind_claims: Vec::new(),
        }
    }
}

/// The names of the claims that have no name in RFC 7519.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct ClaimNames {
    /// The name of the claim with the scopes. The claim is one text with spaces between the scopes (RFC 8693),
    /// or a list of texts. Default: `scope`.
    pub scopes: String,
    /// The name of the claim with the subject's organisation. Default: `org_id`.
    pub organisation: String,
    /// The name of the claim with the claims version. Default: `claims_version`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::RemoteKeysOptions;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        let of = |text: &str| serde_json::from_str::<JwtOptions>(text);
        let defaults = JwtOptions::default();
        assert_eq!(of("{}").unwrap(), defaults);
        assert_eq!(of(&serde_json::to_string(&defaults).unwrap()).unwrap(), defaults);
        let set = JwtOptions {
            max_age: None,
            claim_names: ClaimNames { scopes: "scopes".to_owned(), ..ClaimNames::default() },
            ..defaults
        };
        assert_eq!(of(r#"{"max_age_seconds": "none", "claim_names": {"scopes": "scopes"}}"#).unwrap(), set);
        let keys = |text: &str| serde_json::from_str::<RemoteKeysOptions>(text);
        assert_eq!(keys("{}").unwrap(), RemoteKeysOptions::default());
        assert!(keys(r#"{"refresh": 1}"#).unwrap_err().to_string().contains("unknown field"));
        for unknown in [r#"{"isuer": "a"}"#, r#"{"claim_names": {"scope": "a"}}"#] {
            assert!(of(unknown).unwrap_err().to_string().contains("unknown field"));
        }
    }
}
