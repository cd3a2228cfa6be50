//! Settings of who may read what: tokens and their keys, minting, the compatibility gate.

use std::{path::PathBuf, time::Duration};

use khala_auth::{ClaimNames, JwtOptions};
use serde::{Deserialize, Serialize};

use super::values::{Limit, Secret, exclude};

/// Whose tokens are good.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct AuthSettings {
    /// The secret itself, at least 32 bytes.
    pub(crate) hs256_key: Option<Secret>,
    /// A file that holds it; a line end after it does not count.
    pub(crate) hs256_key_file: Option<PathBuf>,
    /// A JWK Set.
    pub(crate) keys_file: Option<PathBuf>,
    /// Where a JWK Set is.
    pub(crate) jwks_url: Option<String>,
    pub(crate) jwks_refresh_seconds: u32,
    pub(crate) jwks_min_refresh_seconds: u32,
    /// The `iss` that tokens must have.
    pub(crate) issuer: Option<String>,
    /// The `aud` that tokens must name.
    pub(crate) audience: Option<String>,
    /// How far clocks may be apart.
    pub(crate) leeway_seconds: u32,
    pub(crate) max_age_seconds: Limit<u32>,
    pub(crate) require_jti: bool,
    pub(crate) scopes_claim: String,
    pub(crate) organisation_claim: String,
    pub(crate) claims_version_claim: String,
    pub(crate) claims_version: Option<String>,
    pub(crate) bind_claims: Vec<String>,
    /// The pages that may talk to the server. None: all.
    pub(crate) origins: Option<Vec<String>>,
    pub(crate) admin_token: Option<Secret>,
    pub(crate) admin_token_file: Option<PathBuf>,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) keys: Vec<KeySettings>,
}

impl Default for AuthSettings {
    fn default() -> Self {
        let JwtOptions { max_age, require_jti, claim_names: names, .. } = JwtOptions::default();
        Self {
            hs256_key: None,
            hs256_key_file: None,
            keys_file: None,
            jwks_url: None,
            jwks_refresh_seconds: 300,
            jwks_min_refresh_seconds: 10,
            issuer: None,
            audience: None,
            leeway_seconds: 5,
            max_age_seconds: Limit(max_age.map(super::seconds)),
            require_jti,
            scopes_claim: names.scopes,
            organisation_claim: names.organisation,
            claims_version_claim: names.version,
            claims_version: None,
            bind_claims: Vec::new(),
            origins: None,
            admin_token: None,
            admin_token_file: None,
            trusted_proxies: Vec::new(),
            keys: Vec::new(),
        }
    }
}

impl AuthSettings {
    pub(crate) fn leeway(&self) -> Duration {
        Duration::from_secs(self.leeway_seconds.into())
    }

    pub(crate) fn max_age(&self) -> Option<Duration> {
        self.max_age_seconds.0.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Whether tokens can be checked without a development key.
    pub(crate) fn has_keys(&self) -> bool {
        self.hs256_key.is_some()
            || self.hs256_key_file.is_some()
            || !self.keys.is_empty()
            || self.keys_file.is_some()
            || self.jwks_url.is_some()
    }

    /// What tokens must say.
    pub(crate) fn options(&self) -> JwtOptions {
        JwtOptions {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            claims_version: self.claims_version.clone(),
            leeway: self.leeway(),
            max_age: self.max_age(),
            require_jti: self.require_jti,
            claim_names: ClaimNames {
                scopes: self.scopes_claim.clone(),
                organisation: self.organisation_claim.clone(),
                version: self.claims_version_claim.clone(),
            },
            bind_claims: self.bind_claims.clone(),
            ..JwtOptions::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        exclude(
            "auth.hs256_key",
            self.hs256_key.is_some(),
            "auth.hs256_key_file",
            self.hs256_key_file.is_some(),
        )?;
        exclude(
            "auth.admin_token",
            self.admin_token.is_some(),
            "auth.admin_token_file",
            self.admin_token_file.is_some(),
        )?;
        let names = [
            ("auth.scopes_claim", &self.scopes_claim),
            ("auth.organisation_claim", &self.organisation_claim),
            ("auth.claims_version_claim", &self.claims_version_claim),
        ];
        for (at, (key, name)) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(format!("the setting {key} is empty"));
            }
            if let Some((other, _)) = names[..at].iter().find(|(_, earlier)| earlier == name) {
                return Err(format!("{other} and {key} name the same claim {name:?}"));
            }
        }
        self.keys.iter().enumerate().try_for_each(|(at, key)| key.check(&format!("auth.keys[{at}]")))
    }
}

/// One key that tokens are checked with.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct KeySettings {
    pub(crate) kid: String,
    pub(crate) algorithm: String,
    pub(crate) secret: Option<Secret>,
    pub(crate) secret_file: Option<PathBuf>,
    pub(crate) public_key_file: Option<PathBuf>,
}

impl KeySettings {
    fn check(&self, path: &str) -> Result<(), String> {
        let set = [self.secret.is_some(), self.secret_file.is_some(), self.public_key_file.is_some()];
        match (self.algorithm.as_str(), set) {
            ("HS256", [true, false, false] | [false, true, false]) => Ok(()),
            ("HS256", _) => {
                Err(format!("{path} needs one of secret and secret_file, as its algorithm is HS256"))
            }
            (_, [false, false, true]) => Ok(()),
            (other, _) => Err(format!("{path} needs public_key_file alone, as its algorithm is {other}")),
        }
    }
}

/// Making tokens.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct MintSettings {
    /// What the application's backend proves itself with.
    pub(crate) secret: Option<Secret>,
    pub(crate) secret_file: Option<PathBuf>,
    /// The most that it may have.
    pub(crate) scopes: Vec<String>,
    /// Claims that it may set.
    pub(crate) claims: Vec<String>,
    /// The private key that signs. None: `auth.hs256_key`.
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) algorithm: Option<String>,
    pub(crate) kid: Option<String>,
    pub(crate) min_ttl_seconds: u32,
    pub(crate) default_ttl_seconds: Option<u32>,
    pub(crate) max_ttl_seconds: Option<u32>,
    pub(crate) credential: CredentialSettings,
}

impl Default for MintSettings {
    fn default() -> Self {
        Self {
            secret: None,
            secret_file: None,
            scopes: [khala_core::auth::Access::Publish, khala_core::auth::Access::Read]
                .map(|access| access.scope().to_owned())
                .into(),
            claims: Vec::new(),
            key_file: None,
            algorithm: None,
            kid: None,
            min_ttl_seconds: 60,
            default_ttl_seconds: None,
            max_ttl_seconds: None,
            credential: CredentialSettings::default(),
        }
    }
}

impl MintSettings {
    /// Whether anybody may have tokens made.
    pub(crate) fn is_on(&self) -> bool {
        self.secret.is_some() || self.secret_file.is_some() || self.credential.is_set()
    }

    /// The shortest, the usual and the longest time that a token is good, in seconds.
    pub(crate) fn ttl(&self, auth: &AuthSettings) -> [u32; 3] {
        let max_age = auth.max_age_seconds.0.unwrap_or(u32::MAX);
        let max = self.max_ttl_seconds.unwrap_or_else(|| max_age.min(24 * 60 * 60));
        [self.min_ttl_seconds, self.default_ttl_seconds.unwrap_or_else(|| max.min(60 * 60)), max]
    }

    pub(super) fn check(&self, auth: &AuthSettings) -> Result<(), String> {
        exclude("mint.secret", self.secret.is_some(), "mint.secret_file", self.secret_file.is_some())?;
        if self.key_file.is_some() && !(self.kid.is_some() && self.algorithm.is_some()) {
            return Err("mint.key_file needs mint.kid and mint.algorithm".to_owned());
        }
        if self.key_file.is_none() && (self.kid.is_some() || self.algorithm.is_some()) {
            return Err("mint.kid and mint.algorithm belong to mint.key_file, which is not set".to_owned());
        }
        self.credential.check()?;
        if !self.is_on() {
            return match self.key_file {
                Some(_) => {
                    Err("mint.key_file signs nothing: nobody may have tokens made without mint.secret, \
                                mint.secret_file or mint.credential"
                        .to_owned())
                }
                None => Ok(()),
            };
        }
        let signs = self.key_file.is_some() || auth.hs256_key.is_some() || auth.hs256_key_file.is_some();
        if auth.has_keys() && !signs {
            return Err("minting has no key to sign with: set mint.key_file, or auth.hs256_key".to_owned());
        }
        let [min, default, max] = self.ttl(auth);
        if !(1 <= min && min <= default && default <= max) {
            return Err(format!(
                "mint.min_ttl_seconds ({min}) is at least 1 and not over mint.default_ttl_seconds ({default}), which is \
                 not over mint.max_ttl_seconds ({max})"
            ));
        }
        match auth.max_age_seconds.0 {
            Some(age) if age < max => Err(format!(
                "mint.max_ttl_seconds ({max}) is over auth.max_age_seconds ({age}): such tokens would be refused"
            )),
            _ => Ok(()),
        }
    }
}

/// Tokens of another issuer that may be exchanged for Khala's.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct CredentialSettings {
    pub(crate) keys_file: Option<PathBuf>,
    pub(crate) jwks_url: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    /// What every subject may have.
    pub(crate) scopes: Vec<String>,
    /// What a subject may have whose own token says so.
    pub(crate) carried_scopes: Vec<String>,
    pub(crate) scopes_claim: Option<String>,
    pub(crate) organisation_claim: Option<String>,
    /// Claims that are taken over.
    pub(crate) claims: Vec<String>,
}

impl CredentialSettings {
    pub(crate) fn is_set(&self) -> bool {
        self.keys_file.is_some() || self.jwks_url.is_some()
    }

    fn check(&self) -> Result<(), String> {
        let (file, url) = (self.keys_file.is_some(), self.jwks_url.is_some());
        exclude("mint.credential.keys_file", file, "mint.credential.jwks_url", url)?;
        let others = [
            ("issuer", self.issuer.is_some()),
            ("audience", self.audience.is_some()),
            ("scopes", !self.scopes.is_empty()),
            ("carried_scopes", !self.carried_scopes.is_empty()),
            ("scopes_claim", self.scopes_claim.is_some()),
            ("organisation_claim", self.organisation_claim.is_some()),
            ("claims", !self.claims.is_empty()),
        ];
        match others.iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) if !self.is_set() => Err(format!(
                "mint.credential.{key} needs mint.credential.jwks_url or mint.credential.keys_file"
            )),
            _ if self.is_set() && self.scopes.is_empty() && self.carried_scopes.is_empty() => Err(
                "mint.credential gives no scopes: set mint.credential.scopes or mint.credential.carried_scopes".to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

/// Which clients are let in.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct CompatibilitySettings {
    pub(crate) client_build_min: Option<String>,
    pub(crate) client_build_max: Option<String>,
    pub(crate) protocol_version_min: Option<u32>,
    pub(crate) protocol_version_max: Option<u32>,
    pub(crate) schema_version_min: Option<u32>,
    pub(crate) schema_version_max: Option<u32>,
}
