//! Settings of who may read what: keys, origins, and the minting of tokens.

use std::path::PathBuf;

use khala_auth::{ClaimNames, JwtOptions, sources::RemoteKeysOptions};
use khala_core::config::Secret;
use serde::{Deserialize, Serialize};

use super::checks::exclude;

/// Whose tokens are good, and who else may come.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AuthSettings {
    /// A secret that tokens without a `kid` are signed with, at least 32 bytes.
    pub(crate) hs256_key: Option<Secret>,
    /// A file that holds it, instead of `hs256_key`. Example: `"/etc/khala/key"`.
    pub(crate) hs256_key_file: Option<PathBuf>,
    /// More keys, each a table `[[auth.keys]]`.
    pub(crate) keys: Vec<KeySettings>,
    /// A JWK Set; read each second and on SIGHUP. Example: `"/etc/khala/keys.json"`.
    pub(crate) keys_file: Option<PathBuf>,
    /// Where a JWK Set is: https, or http on this machine. Example: `"https://login.example/.well-known/jwks.json"`.
    pub(crate) jwks_url: Option<String>,
    pub(crate) jwks: RemoteKeysOptions,
    /// The origins whose pages may talk to the server, over HTTP and over the WebSocket, as
    /// `["https://app.example", "https://*.example.org"]`. Where not set, pages of any origin may: no browser sends a
    /// bearer token by itself.
    pub(crate) origins: Option<Vec<String>>,
    /// What opens `/internal/v1/khala/`, at least 32 characters; closed where neither this nor the file is set.
    pub(crate) admin_token: Option<Secret>,
    /// A file that holds it, instead of `admin_token`.
    pub(crate) admin_token_file: Option<PathBuf>,
    /// Addresses and networks of proxies whose `X-Forwarded-For` is believed, as `["10.0.0.0/8"]`.
    pub(crate) trusted_proxies: Vec<String>,
}

impl AuthSettings {
    /// Whether tokens can be checked without a development key.
    pub(crate) fn has_keys(&self) -> bool {
        self.hs256_key.is_some()
            || self.hs256_key_file.is_some()
            || !self.keys.is_empty()
            || self.keys_file.is_some()
            || self.jwks_url.is_some()
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
        self.keys.iter().enumerate().try_for_each(|(at, key)| key.check(&format!("auth.keys[{at}]")))
    }
}

/// What the claims are called: each has a name, and no two the same.
pub(super) fn check_claim_names(names: &ClaimNames) -> Result<(), String> {
    let names = [
        ("jwt.claim_names.scopes", &names.scopes),
        ("jwt.claim_names.organisation", &names.organisation),
        ("jwt.claim_names.version", &names.version),
    ];
    for (at, (key, name)) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(format!("the setting {key} is empty"));
        }
        if let Some((other, _)) = names[..at].iter().find(|(_, earlier)| earlier == name) {
            return Err(format!("{other} and {key} name the same claim {name:?}"));
        }
    }
    Ok(())
}

/// One key that tokens are checked with.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeySettings {
    /// The key's name, as tokens have it in `kid`.
    pub(crate) kid: String,
    /// `HS256`, `RS256`, `ES256` or `EdDSA`.
    pub(crate) algorithm: String,
    /// For HS256: at least 32 bytes.
    pub(crate) secret: Option<Secret>,
    /// For HS256: a file that holds them, instead of `secret`.
    pub(crate) secret_file: Option<PathBuf>,
    /// For the others: the public key, PEM.
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
#[serde(default, deny_unknown_fields)]
pub(crate) struct MintSettings {
    /// What the application's backend proves itself with to have tokens made, at least 32 characters. Without a secret
    /// and a credential, no tokens are made.
    pub(crate) secret: Option<Secret>,
    /// A file that holds it, instead of `secret`.
    pub(crate) secret_file: Option<PathBuf>,
    /// The scopes that its tokens may have.
    pub(crate) scopes: Vec<String>,
    /// Further claims that it may set. Example: `["team"]`.
    pub(crate) claims: Vec<String>,
    /// The private key that signs, PEM (PKCS #8); `auth.hs256_key` where not set. Its public half is trusted here without
    /// another setting.
    pub(crate) key_file: Option<PathBuf>,
    /// The algorithm of `mint.key_file`: `RS256`, `ES256` or `EdDSA`.
    pub(crate) algorithm: Option<String>,
    /// The name of `mint.key_file`, which tokens have in `kid`.
    pub(crate) kid: Option<String>,
    /// The shortest time that a token is good.
    pub(crate) min_ttl_seconds: u32,
    /// The time of a token for which no time is asked: 3,600 where not set, and less where the longest is less.
    pub(crate) default_ttl_seconds: Option<u32>,
    /// The longest time: 86,400 where not set, and less where `jwt.max_age_seconds` is less.
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
    pub(crate) fn ttl(&self, jwt: &JwtOptions) -> [u32; 3] {
        let max_age = jwt.max_age.map_or(u32::MAX, |age| u32::try_from(age.as_secs()).unwrap_or(u32::MAX));
        let max = self.max_ttl_seconds.unwrap_or_else(|| max_age.min(24 * 60 * 60));
        [self.min_ttl_seconds, self.default_ttl_seconds.unwrap_or_else(|| max.min(60 * 60)), max]
    }

    pub(super) fn check(&self, auth: &AuthSettings, jwt: &JwtOptions) -> Result<(), String> {
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
        let [min, default, max] = self.ttl(jwt);
        if !(1 <= min && min <= default && default <= max) {
            return Err(format!(
                "mint.min_ttl_seconds ({min}) is at least 1 and not over mint.default_ttl_seconds ({default}), which is \
                 not over mint.max_ttl_seconds ({max})"
            ));
        }
        match jwt.max_age {
            Some(age) if age.as_secs() < max.into() => Err(format!(
                "mint.max_ttl_seconds ({max}) is over jwt.max_age_seconds ({}): such tokens would be refused",
                age.as_secs()
            )),
            _ => Ok(()),
        }
    }
}

/// Tokens of another issuer that may be exchanged for Khala's.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CredentialSettings {
    /// The keys of another issuer whose tokens may be exchanged for Khala's: a JWK Set, read each second and on SIGHUP.
    /// These tokens need no `jti` and no `iat`.
    pub(crate) keys_file: Option<PathBuf>,
    /// Where those keys are, instead of `keys_file`: https, or http on this machine.
    pub(crate) jwks_url: Option<String>,
    /// What those tokens must have in `iss`; unchecked where not set.
    pub(crate) issuer: Option<String>,
    /// What those tokens must have in `aud`. Set it: else any token of the issuer will do.
    pub(crate) audience: Option<String>,
    /// The scopes that every caller with such a token may have.
    pub(crate) scopes: Vec<String>,
    /// The scopes that a caller may have whose own token carries them.
    pub(crate) carried_scopes: Vec<String>,
    /// The claim of the scopes there; as `jwt.claim_names.scopes` where not set.
    pub(crate) scopes_claim: Option<String>,
    /// The claim of the organisation there; as `jwt.claim_names.organisation` where not set.
    pub(crate) organisation_claim: Option<String>,
    /// Claims of text that are taken over.
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
