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
    /// The secret that signs tokens without a `kid`, at least 32 bytes. Example:
    /// `"fPnq3t0yVbXy9wC1l7Zk5r2s8u4D6e0A"`.
    pub(crate) hs256_key: Option<Secret>,
    /// A file that holds the secret, instead of `hs256_key`. Example: `"/etc/khala/key"`.
    pub(crate) hs256_key_file: Option<PathBuf>,
    /// Further keys, each a table `[[auth.keys]]`. Example:
    /// `[{kid = "2026-12", algorithm = "ES256", public_key_file = "/etc/khala/2026-12.pem"}]`.
    pub(crate) keys: Vec<KeySettings>,
    /// A file with a JWK Set. The server looks at it each second and on SIGHUP. Example:
    /// `"/etc/khala/keys.json"`.
    pub(crate) keys_file: Option<PathBuf>,
    /// The address of a JWK Set: https, or http on this machine. Example:
    /// `"https://login.example/.well-known/jwks.json"`.
    pub(crate) jwks_url: Option<String>,
    pub(crate) jwks: RemoteKeysOptions,
    /// The origins whose pages may use the server, over HTTP and over the WebSocket. Without it, pages of any
    /// origin may, because no browser sends a bearer token by itself. Example:
    /// `["https://app.example", "https://*.example.org"]`.
    pub(crate) origins: Option<Vec<String>>,
    /// The secret that opens `/internal/v1/khala/`, at least 32 characters. Without it and without
    /// `admin_token_file`, these routes are closed. Example: `"an-admin-secret-of-32-characters-or-more"`.
    pub(crate) admin_token: Option<Secret>,
    /// A file that holds the secret, instead of `admin_token`. Example: `"/etc/khala/admin"`.
    pub(crate) admin_token_file: Option<PathBuf>,
    /// The addresses and networks of proxies whose `X-Forwarded-For` is believed. Example: `["10.0.0.0/8"]`.
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
    /// The key's name, which tokens have in `kid`. Example: `"2026-12"`.
    pub(crate) kid: String,
    /// The key's algorithm: `HS256`, `RS256`, `ES256` or `EdDSA`. Example: `"ES256"`.
    pub(crate) algorithm: String,
    /// The secret of an HS256 key, at least 32 bytes. Example: `"fPnq3t0yVbXy9wC1l7Zk5r2s8u4D6e0A"`.
    pub(crate) secret: Option<Secret>,
    /// A file that holds the secret of an HS256 key, instead of `secret`. Example: `"/etc/khala/2026-12"`.
    pub(crate) secret_file: Option<PathBuf>,
    /// A file with the public key of any other algorithm, as PEM. Example: `"/etc/khala/2026-12.pem"`.
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
    /// The secret with which the application's backend asks for tokens, at least 32 characters. Without a
    /// secret and a credential, the server mints no tokens. Example:
    /// `"a-mint-secret-of-32-characters-or-more"`.
    pub(crate) secret: Option<Secret>,
    /// A file that holds the secret, instead of `secret`. Example: `"/etc/khala/mint"`.
    pub(crate) secret_file: Option<PathBuf>,
    /// The scopes that minted tokens may have.
    pub(crate) scopes: Vec<String>,
    /// Further claims that the backend may set. Example: `["team"]`.
    pub(crate) claims: Vec<String>,
    /// The private key that signs minted tokens, as PEM (PKCS #8). Without it, `auth.hs256_key` signs. The
    /// server trusts the key's public half without another setting. Example: `"/etc/khala/2026-12.pem"`.
    pub(crate) key_file: Option<PathBuf>,
    /// The algorithm of `mint.key_file`: `RS256`, `ES256` or `EdDSA`. Example: `"ES256"`.
    pub(crate) algorithm: Option<String>,
    /// The name of `mint.key_file`, which minted tokens have in `kid`. Example: `"2026-12"`.
    pub(crate) kid: Option<String>,
    /// The shortest time for which a token may be minted.
    pub(crate) min_ttl_seconds: u32,
    /// The time for which a token is minted if the request names none. Without it, 3,600, or the longest time
    /// if that is shorter. Example: `900`.
    pub(crate) default_ttl_seconds: Option<u32>,
    /// The longest time for which a token may be minted. Without it, 86,400, or `jwt.max_age_seconds` if that
    /// is shorter. Example: `3600`.
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
    /// A file with the keys of another issuer, whose tokens may be exchanged for Khala's: a JWK Set. The server
    /// looks at it each second and on SIGHUP. These tokens need no `jti` and no `iat`. Example:
    /// `"/etc/khala/login-keys.json"`.
    pub(crate) keys_file: Option<PathBuf>,
    /// The address of those keys, instead of `keys_file`: https, or http on this machine. Example:
    /// `"https://login.example/.well-known/jwks.json"`.
    pub(crate) jwks_url: Option<String>,
    /// The `iss` that the other issuer's tokens must have. Without it, `iss` is not checked. Example:
    /// `"https://login.example"`.
    pub(crate) issuer: Option<String>,
    /// The `aud` that the other issuer's tokens must name. Set it: without it, any token of the issuer is
    /// accepted. Example: `"khala"`.
    pub(crate) audience: Option<String>,
    /// The scopes that every caller with such a token may have. Example: `["khala:read"]`.
    pub(crate) scopes: Vec<String>,
    /// The scopes that a caller may have only if its own token carries them. Example: `["khala:publish"]`.
    pub(crate) carried_scopes: Vec<String>,
    /// The name of the claim with the scopes in these tokens. Without it, `jwt.claim_names.scopes`. Example:
    /// `"scp"`.
    pub(crate) scopes_claim: Option<String>,
    /// The name of the claim with the organisation in these tokens. Without it, `jwt.claim_names.organisation`.
    /// Example: `"tenant"`.
    pub(crate) organisation_claim: Option<String>,
    /// The claims that are copied from these tokens. Their values are text. Example: `["team"]`.
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
