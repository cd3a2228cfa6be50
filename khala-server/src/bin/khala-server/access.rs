//! From the settings to who may read what: keys, classes, minting, and the gates before them.
//!
//! Whatever is wrong is one line that names the setting.

use std::{fmt::Display, path::Path, sync::Arc, time::Duration};

use ipnet::IpNet;
use khala_auth::{
    ClaimNames, JwtIssuer, JwtOptions, JwtVerifier, Key as TrustedKey, KeyAlgorithm, KeySet, SharedSecret,
    mint::{
        ClaimName, ClaimRule, Credential, Mint, MintPolicy, SecretCredential, TokenCredential, TokenLifetime,
    },
    sources::{FileKeys, JwksAddress, KeyRing, KeySource, KeySources, RemoteKeys, RemoteKeysOptions},
};
use khala_core::{class::Classes, config::Secret, health::Health};
use khala_server::{Compatibility, Origins, RevocationTerms, ServerBuilder};

use crate::{
    key::{self, Key},
    settings::{KeySettings, Settings},
};

/// How often files of keys are read.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What is known from the settings alone.
pub(crate) struct Gates {
    pub(crate) classes: Classes,
    origins: Option<Origins>,
    compatibility: Compatibility,
    trusted_proxies: Vec<IpNet>,
    admin: Option<SharedSecret>,
    revocation_terms: RevocationTerms,
}

impl Gates {
    pub(crate) fn new(settings: &Settings) -> Result<Self, String> {
        let auth = &settings.auth;
        let origins = match &auth.origins {
            Some(origins) => Some(Origins::parse(origins).map_err(wrong("auth.origins"))?),
            None => None,
        };
        let proxies = auth.trusted_proxies.iter().map(|text| network(text));
        let admin = match secret("auth.admin_token", &auth.admin_token, auth.admin_token_file.as_deref())? {
            Some((key, text)) => Some(SharedSecret::new(&text).map_err(wrong(key))?),
            None => None,
        };
        Ok(Self {
            classes: classes(settings)?,
            origins,
            compatibility: settings.compatibility,
            trusted_proxies: proxies.collect::<Result<_, _>>()?,
            admin,
            revocation_terms: RevocationTerms { max_age: settings.jwt.max_age, leeway: settings.jwt.leeway },
        })
    }

    /// Puts them before a server.
    pub(crate) fn guard(self, mut server: ServerBuilder) -> ServerBuilder {
        server = server
            .with_compatibility(self.compatibility)
            .with_trusted_proxies(self.trusted_proxies)
            .with_revocation_terms(self.revocation_terms);
        if let Some(origins) = self.origins {
            server = server.with_origins(origins);
        }
        match self.admin {
            Some(token) => server.with_admin_token(token),
            None => server,
        }
    }
}

/// Says which setting is wrong.
fn wrong<E: Display>(key: &str) -> impl FnOnce(E) -> String {
    move |fault| format!("the setting {key} is wrong: {fault}")
}

/// A secret that is given, or in a file, and the setting that it is from.
pub(crate) fn secret(
    key: &'static str,
    given: &Option<Secret>,
    file: Option<&Path>,
) -> Result<Option<(&'static str, String)>, String> {
    match (given, file) {
        (Some(secret), _) => Ok(Some((key, secret.reveal().to_owned()))),
        (None, Some(file)) => {
            let text = String::from_utf8(key::read(&format!("{key}_file"), file)?);
            let text = text.map_err(|_| format!("{key}_file {} is not UTF-8", file.display()))?;
            Ok(Some((key, text)))
        }
        (None, None) => Ok(None),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let network =
        text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| address.to_canonical().into()));
    network.map_err(|_| {
        format!(
            "the setting auth.trusted_proxies is wrong: {text:?} is no address and no network, as 10.0.0.0/8"
        )
    })
}

fn classes(settings: &Settings) -> Result<Classes, String> {
    let classes = Classes::new(settings.classes.clone()).map_err(wrong("classes"))?;
    classes.with_bound_claims(&settings.jwt.bind_claims).map_err(wrong("jwt.bind_claims"))
}

/// The keys that are trusted, and those that sign.
pub(crate) struct Keys {
    pub(crate) ring: KeyRing,
    pub(crate) options: JwtOptions,
    pub(crate) mint: Option<Mint>,
    credentials: Option<Credentials>,
}

/// The keys of those who exchange their own tokens.
#[derive(Clone)]
enum Credentials {
    File(FileKeys),
    Remote(RemoteKeys),
}

impl Keys {
    /// Reads and starts all sources. `key` is the secret without a name.
    pub(crate) fn new(settings: &Settings, key: &Key) -> Result<Self, String> {
        let Settings { auth, jwt: options, mint, .. } = settings;
        let mut trusted = KeySet::new();
        if let Some(secret) = key.secret() {
            trusted = trust(trusted, TrustedKey::hs256(None, secret), "auth.hs256_key")?;
        }
        for (at, key) in auth.keys.iter().enumerate() {
            let path = format!("auth.keys[{at}]");
            trusted = trust(trusted, Ok(configured(key, &path)?), &path)?;
        }
        let issuer = if mint.is_on() { Some(issuer(settings, key)?) } else { None };
        // What is minted here is accepted here, whatever the other sources say.
        if let Some(own) = issuer.as_ref().map(JwtIssuer::key) {
            match trusted.key(own.kid()) {
                Some(same) if same == own => {}
                Some(_) => {
                    return Err(format!(
                        "mint.kid {:?} is the name of another key of auth.keys",
                        own.kid().unwrap_or_default()
                    ));
                }
                None => trusted = trust(trusted, Ok(own.clone()), "mint.key_file")?,
            }
        }

        let mut sources = KeySources { configured: trusted, ..KeySources::default() };
        if let Some(file) = &auth.keys_file {
            sources.file = Some(FileKeys::open(file, CHECK_EVERY).map_err(wrong("auth.keys_file"))?);
        }
        if let Some(url) = &auth.jwks_url {
            sources.remote = Some(remote("auth.jwks_url", url, auth.jwks)?);
        }
        let credentials = match (&mint.credential.keys_file, &mint.credential.jwks_url) {
            (Some(file), _) => Some(Credentials::File(
                FileKeys::open_for_credentials(file, CHECK_EVERY)
                    .map_err(wrong("mint.credential.keys_file"))?,
            )),
            (None, Some(url)) => {
                let options = RemoteKeysOptions { for_credentials: true, ..auth.jwks };
                Some(Credentials::Remote(remote("mint.credential.jwks_url", url, options)?))
            }
            (None, None) => None,
        };
        let mint = match issuer {
            Some(issuer) => Some(minting(settings, issuer, credentials.clone())?),
            None => None,
        };
        Ok(Self { ring: KeyRing::new(sources), options: options.clone(), mint, credentials })
    }

    /// Has every source tell how it is.
    pub(crate) fn report_to(&self, health: &Health) {
        self.ring.report_to(health);
        match &self.credentials {
            Some(Credentials::File(file)) => file.report_to(health),
            Some(Credentials::Remote(remote)) => remote.report_to(health),
            None => {}
        }
    }

    /// What reads them again.
    pub(crate) fn reloads(&self) -> Reload {
        Reload(self.ring.clone(), self.credentials.clone())
    }
}

/// Files and addresses, to be read again.
pub(crate) struct Reload(KeyRing, Option<Credentials>);

impl Reload {
    pub(crate) async fn all(&self) {
        self.0.reload().await;
        match &self.1 {
            Some(Credentials::File(file)) => file.reload().await,
            Some(Credentials::Remote(remote)) => remote.reload().await,
            None => {}
        }
    }
}

fn remote(key: &str, url: &str, options: RemoteKeysOptions) -> Result<RemoteKeys, String> {
    Ok(RemoteKeys::start(JwksAddress::parse(url).map_err(wrong(key))?, options))
}

fn trust(keys: KeySet, key: Result<TrustedKey, khala_auth::KeyError>, path: &str) -> Result<KeySet, String> {
    key.and_then(|key| keys.with_key(key)).map_err(|fault| format!("{path} cannot be used: {fault}"))
}

fn algorithm(text: &str, path: &str) -> Result<KeyAlgorithm, String> {
    text.parse().map_err(wrong(&format!("{path}.algorithm")))
}

fn text(key: &str, file: &Path) -> Result<String, String> {
    String::from_utf8(key::read(key, file)?).map_err(|_| format!("{key} {} is not UTF-8", file.display()))
}

fn configured(settings: &KeySettings, path: &str) -> Result<TrustedKey, String> {
    let KeySettings { kid, secret, secret_file, public_key_file, .. } = settings;
    let algorithm = algorithm(&settings.algorithm, path)?;
    let kid = Some(kid.as_str());
    let key = match (secret, secret_file, public_key_file) {
        (Some(secret), _, _) => TrustedKey::hs256(kid, secret.reveal().as_bytes()),
        (_, Some(file), _) => TrustedKey::hs256(kid, &key::read(&format!("{path}.secret_file"), file)?),
        (_, _, Some(file)) => {
            TrustedKey::from_pem(kid, algorithm, &text(&format!("{path}.public_key_file"), file)?)
        }
        (None, None, None) => return Err(format!("{path} has no key")),
    };
    key.map_err(|fault| format!("{path} cannot be used: {fault}"))
}

fn issuer(settings: &Settings, key: &Key) -> Result<JwtIssuer, String> {
    let Settings { mint, jwt: options, .. } = settings;
    let issuer = match (&mint.key_file, key.secret()) {
        (Some(file), _) => {
            let algorithm = algorithm(mint.algorithm.as_deref().unwrap_or_default(), "mint")?;
            let pem = text("mint.key_file", file)?;
            JwtIssuer::from_pem(mint.kid.as_deref(), algorithm, &pem, options.clone())
        }
        (None, Some(secret)) => JwtIssuer::hs256(secret, options.clone()),
        (None, None) => {
            return Err("minting has no key to sign with: set mint.key_file, or auth.hs256_key".to_owned());
        }
    };
    issuer.map_err(|fault| format!("mint.key_file cannot be used: {fault}"))
}

fn minting(settings: &Settings, issuer: JwtIssuer, credentials: Option<Credentials>) -> Result<Mint, String> {
    let Settings { jwt, mint, .. } = settings;
    let mut callers: Vec<Arc<dyn Credential>> = Vec::new();
    if let Some((key, text)) = secret("mint.secret", &mint.secret, mint.secret_file.as_deref())? {
        let secret = SharedSecret::new(&text).map_err(wrong(key))?;
        let names = claim_names("mint.claims", &mint.claims, jwt)?;
        let claims = names.into_iter().map(|name| (name, ClaimRule::Any)).collect();
        let policy = MintPolicy { claims, ..MintPolicy::any_subject(&mint.scopes) };
        callers.push(Arc::new(SecretCredential { secret, policy }));
    }
    if let Some(credentials) = credentials {
        let keys: Arc<dyn KeySource> = match credentials {
            Credentials::File(file) => Arc::new(file),
            Credentials::Remote(remote) => Arc::new(remote),
        };
        let theirs = &mint.credential;
        let names = ClaimNames {
            scopes: theirs.scopes_claim.as_ref().unwrap_or(&jwt.claim_names.scopes).clone(),
            organisation: theirs.organisation_claim.as_ref().unwrap_or(&jwt.claim_names.organisation).clone(),
            ..ClaimNames::default()
        };
        // Others say less of their tokens than Khala asks of its own; what is minted still says all of it.
        let options = JwtOptions {
            issuer: theirs.issuer.clone(),
            audience: theirs.audience.clone(),
            leeway: jwt.leeway,
            max_age: None,
            require_jti: false,
            claim_names: names,
            bind_claims: theirs.claims.clone(),
            ..JwtOptions::default()
        };
        callers.push(Arc::new(TokenCredential {
            verifier: Arc::new(JwtVerifier::new(keys, options)),
            scopes: theirs.scopes.clone(),
            carried_scopes: theirs.carried_scopes.clone(),
            claims: claim_names("mint.credential.claims", &theirs.claims, jwt)?,
            leeway: jwt.leeway,
        }));
    }
    let [min, default, max] = mint.ttl(jwt).map(|seconds| Duration::from_secs(seconds.into()));
    let lifetime = TokenLifetime::new(min, default, max).map_err(wrong("mint.min_ttl_seconds"))?;
    Ok(Mint { issuer: Arc::new(issuer), credentials: callers, lifetime })
}

fn claim_names(key: &str, names: &[String], jwt: &JwtOptions) -> Result<Vec<ClaimName>, String> {
    let ClaimNames { scopes, organisation, version } = &jwt.claim_names;
    let taken = [scopes, organisation, version];
    if let Some(name) = names.iter().find(|name| taken.contains(name)) {
        return Err(format!("the setting {key} is wrong: the claim {name:?} has a meaning of its own"));
    }
    let parse = |name: &String| {
        ClaimName::parse(name).map_err(|fault| format!("the setting {key} is wrong: {name:?}: {fault}"))
    };
    names.iter().map(parse).collect()
}
