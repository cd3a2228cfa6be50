//! `khala token`: mints a token, and finds the key that a development server left in the working directory.

use std::{path::Path, path::PathBuf, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser as NotEmpty};
use khala_auth::{ClaimNames, JwtIssuer, JwtOptions, KeyAlgorithm};
use khala_core::{
    ErrorKind, Token,
    auth::{Access, TokenClaims},
    clock::{Clock as _, SystemClock},
};

use crate::{
    duration::{Patience, duration, patience},
    exit::Failure,
    file,
    key::secret_in_set,
    notice, output, pem,
};

/// The key that `khala-server` makes for itself when it is given none: one line of text, whose bytes are the key.
pub(crate) const DEV_KEY: &str = "khala.dev.key";

/// Mint a token and print it
///
/// The key is that of --key-file or --key; without either, that of the development key file khala.dev.key in the
/// working directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala token
  khala token --key-file 2026-12.pem --kid 2026-12 --sub ada --ttl 15m
  khala token --sub worker-3 --org acme --scope publish > worker-3.token")]
pub(crate) struct Mint {
    /// The file of the key: a private key as PEM (PKCS #8, for RSA also PKCS #1), an HS256 secret as one line of
    /// text, or a JWK Set with the HS256 secret that --kid names
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The HS256 key itself; other users of this machine can see it here, and not in the environment
    #[arg(long, env = "KHALA_AUTH__HS256_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The name of the key among the keys that the server trusts
    #[arg(long, value_parser = NotEmpty::new())]
    kid: Option<String>,
    /// EdDSA, ES256, HS256 or RS256; the default is the algorithm that the key is for
    #[arg(long)]
    algorithm: Option<KeyAlgorithm>,
    /// The subject of the token
    #[arg(long, default_value = "khala-cli", value_parser = NotEmpty::new())]
    sub: String,
    /// The login that the token belongs to, by which it can be revoked
    #[arg(long, value_parser = NotEmpty::new())]
    sid: Option<String>,
    /// The subject's organisation
    #[arg(long, value_parser = NotEmpty::new())]
    org: Option<String>,
    /// A scope of the token; may be given more than once. `read` and `publish` stand for khala:read and khala:publish
    #[arg(long = "scope", value_delimiter = ',', default_values = ["read", "publish"])]
    scopes: Vec<String>,
    /// How long the token is valid: 30s, 5m, 12h; at most --max-age
    ///
    /// A server refuses tokens that are older than its jwt.max_age_seconds, which is 24 h unless it is configured otherwise.
    #[arg(long, value_parser = duration, default_value = "1h")]
    ttl: Duration,
    /// The server's jwt.max_age_seconds, where it is not 24 h: 30d, or forever where it is "none"
    #[arg(long, value_parser = patience, default_value = "24h")]
    max_age: Patience,
    /// The issuer (iss), if the server's jwt.issuer is set
    #[arg(long, env = "KHALA_JWT__ISSUER")]
    issuer: Option<String>,
    /// The audience (aud), if the server's jwt.audience is set
    #[arg(long, env = "KHALA_JWT__AUDIENCE")]
    audience: Option<String>,
    /// The server's jwt.claim_names.scopes, where it is not scope
    #[arg(long, env = "KHALA_JWT__CLAIM_NAMES__SCOPES")]
    scopes_claim: Option<String>,
    /// The server's jwt.claim_names.organisation, where it is not org_id
    #[arg(long, env = "KHALA_JWT__CLAIM_NAMES__ORGANISATION")]
    organisation_claim: Option<String>,
}

/// A scope, or the short form of one.
fn scope(text: &str) -> String {
    match text {
        "publish" => Access::Publish.scope().to_owned(),
        "read" => Access::Read.scope().to_owned(),
        _ => text.to_owned(),
    }
}

/// The names of the claims, as far as they are not the usual ones.
fn names(scopes: Option<String>, organisation: Option<String>) -> ClaimNames {
    let usual = ClaimNames::default();
    ClaimNames {
        scopes: scopes.unwrap_or(usual.scopes),
        organisation: organisation.unwrap_or(usual.organisation),
        ..usual
    }
}

impl Mint {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let Self { ttl, max_age: Patience(max_age), .. } = self;
        if let Some(age) = max_age.filter(|age| ttl > *age) {
            let (ttl, age) = (ttl.as_secs(), age.as_secs());
            return Err(Failure::usage(format!(
                "a token for {ttl} s would be refused after {age} s, as token_too_old; ask for less, or say with \
                 --max-age what the server's jwt.max_age_seconds is"
            )));
        }
        if ttl < Duration::from_secs(1) {
            return Err(Failure::usage("--ttl is too short: a token is valid for 1s or longer"));
        }
        let scopes: Vec<_> = self.scopes.iter().flat_map(|text| text.split_whitespace()).map(scope).collect();
        if scopes.is_empty() {
            return Err(Failure::usage("--scope is empty: a token without a scope opens no topic"));
        }
        let options = JwtOptions {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            max_age,
            claim_names: names(self.scopes_claim.clone(), self.organisation_claim.clone()),
            ..JwtOptions::default()
        };
        let issuer = self.signer(options)?;
        let mut claims = TokenClaims::new(self.sub, scopes);
        claims.session_id = self.sid;
        claims.organisation = self.org;
        output::print(&format!("{}\n", sign(&issuer, &claims, ttl)?.reveal()))
    }

    fn signer(&self, options: JwtOptions) -> Result<JwtIssuer, Failure> {
        let (key, from) = match (&self.key_file, &self.key) {
            (Some(file), _) => (read_key(file)?, file.display().to_string()),
            (None, Some(key)) => (key.clone().into_bytes(), "--key (KHALA_AUTH__HS256_KEY)".to_owned()),
            (None, None) if Path::new(DEV_KEY).exists() => {
                (read_key(Path::new(DEV_KEY))?, DEV_KEY.to_owned())
            }
            (None, None) => {
                return Err(Failure::usage(format!(
                    "there is no key: give --key-file or KHALA_AUTH__HS256_KEY, or run this where a development \
                     server keeps its {DEV_KEY}"
                )));
            }
        };
        let kid = self.kid.as_deref();
        let unusable = |fault: String| Failure::usage(format!("the key of {from} cannot be used: {fault}"));
        let text = std::str::from_utf8(&key).unwrap_or_default();
        // What is not HS256 takes a PEM file, and says so where it is given another.
        if pem::is_pem(text) || self.algorithm.is_some_and(|algorithm| algorithm != KeyAlgorithm::Hs256) {
            let issuer = pem::made(self.algorithm, |algorithm| {
                JwtIssuer::from_pem(kid, algorithm, text, options.clone())
            });
            if issuer.is_ok() && kid.is_none() {
                notice::tell(
                    "the token names no key, and a server that has this key under a name refuses it: give --kid",
                );
            }
            return issuer.map_err(unusable);
        }
        let secret = secret_in_set(text, kid).map_err(unusable)?.unwrap_or(key);
        let issuer = JwtIssuer::hs256(&secret, options).and_then(|issuer| match kid {
            Some(kid) => issuer.with_key_id(kid),
            None => Ok(issuer),
        });
        issuer.map_err(|fault| unusable(fault.to_string()))
    }
}

/// A short-lived token from the development key; none where there is no such file.
pub(crate) fn of_dev_key(ttl: Duration) -> Result<Option<Token>, Failure> {
    let path = Path::new(DEV_KEY);
    if !path.exists() {
        return Ok(None);
    }
    let set = |name| std::env::var(name).ok();
    let options = JwtOptions {
        issuer: set("KHALA_JWT__ISSUER"),
        audience: set("KHALA_JWT__AUDIENCE"),
        claim_names: names(
            set("KHALA_JWT__CLAIM_NAMES__SCOPES"),
            set("KHALA_JWT__CLAIM_NAMES__ORGANISATION"),
        ),
        ..JwtOptions::default()
    };
    let issuer = JwtIssuer::hs256(&read_key(path)?, options)
        .map_err(|fault| Failure::usage(format!("the key of {DEV_KEY} cannot be used: {fault}")))?;
    let claims = TokenClaims::new("khala-cli", [Access::Read.scope(), Access::Publish.scope()]);
    sign(&issuer, &claims, ttl).map(Some)
}

fn sign(issuer: &JwtIssuer, claims: &TokenClaims, ttl: Duration) -> Result<Token, Failure> {
    let issued = issuer.sign(claims, SystemClock::new().now(), ttl);
    issued.map(|issued| issued.token).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let message = format!("no token can be minted: {error}{cause}");
        if error.kind() == ErrorKind::Invalid { Failure::usage(message) } else { Failure::io(message) }
    })
}

/// Takes the file as the server does: its bytes, without a byte order mark before and a line end after them.
fn read_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = file::read(path)
        .map_err(|cause| Failure::unreadable(format_args!("the key file {}", path.display()), &cause))?;
    Ok(bytes.trim_ascii_end().to_vec())
}
