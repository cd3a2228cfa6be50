//! Signs JSON Web Tokens that a [`JwtVerifier`](super::JwtVerifier) with the same options accepts.
//!
//! What such a verifier would refuse is not signed: that is found here, where somebody can act on it.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use jsonwebtoken::{EncodingKey, Header, encode};
use khala_core::{
    Error, ErrorKind, Timestamp, Token,
    auth::{IssuedToken, Issuer, RevocationId, TokenClaims},
};
use serde_json::{Map, Value};

use crate::{
    algorithm::KeyAlgorithm,
    claims::REGISTERED,
    key::Key,
    key_error::KeyError,
    options::{JwtOptions, MAX_TOKEN},
    pem,
};

const BACKEND: &str = "jwt";

/// Signs JSON Web Tokens with one key.
pub struct JwtIssuer {
    signing: EncodingKey,
    key: Key,
    options: JwtOptions,
}

impl fmt::Debug for JwtIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtIssuer")
            .field("key", &self.key)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl JwtIssuer {
    /// Signs with this secret, which has no name unless [`with_key_id`](Self::with_key_id) gives it one.
    ///
    /// # Errors
    /// A [`KeyError`] for a secret of less than 32 bytes.
    pub fn hs256(secret: &[u8], options: JwtOptions) -> Result<Self, KeyError> {
        let key = Key::hs256(None, secret)?;
        Ok(Self { signing: EncodingKey::from_secret(secret), key, options })
    }

    /// Signs with the private key in a PEM file (PKCS #8, for RSA also PKCS #1; not encrypted).
    ///
    /// # Errors
    /// A [`KeyError`] for anything else, a key that is too weak, and a name that is not 1 to 256 bytes without control
    /// characters.
    pub fn from_pem(
        kid: Option<&str>,
        algorithm: KeyAlgorithm,
        pem: &str,
        options: JwtOptions,
    ) -> Result<Self, KeyError> {
        let (signing, public) = pem::private(algorithm, pem).map_err(|fault| KeyError::new(kid, fault))?;
        Ok(Self { signing, key: Key::checked(kid, algorithm, public)?, options })
    }

    /// Names the key, for verifiers that know several.
    ///
    /// # Errors
    /// A [`KeyError`] for a name that is not 1 to 256 bytes without control characters.
    pub fn with_key_id(self, kid: &str) -> Result<Self, KeyError> {
        Ok(Self { key: self.key.named(kid)?, ..self })
    }

    /// The key that checks what this signs.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// A token with these claims, good from `now` for `ttl`; both ends count in whole seconds.
    ///
    /// # Errors
    /// An [`Error`] of kind `Invalid` for claims that make no good token: a scope that is empty or has a space, a subject or a login that cannot be
    /// revoked by its name, a further claim of a name that is taken, a `ttl` over the options' `max_age`, more text
    /// than 8 KiB hold. One of kind `Unavailable` when the operating system has no randomness to give for the `jti`.
    pub fn sign(&self, claims: &TokenClaims, now: Timestamp, ttl: Duration) -> Result<IssuedToken, Error> {
        if let Some(age) = self.options.max_age.filter(|age| ttl > *age) {
            let (ttl, age) = (ttl.as_secs_f64(), age.as_secs_f64());
            return Err(invalid(format!("a token for {ttl} s would be too old after {age} s")));
        }
        let mut jti = [0; 16];
        getrandom::fill(&mut jti).map_err(|fault| {
            Error::caused_by(ErrorKind::Unavailable, BACKEND, "no randomness for a jti", fault)
        })?;
        let jti = format!("{:032x}", u128::from_be_bytes(jti));
        let exp = seconds(now.plus(ttl));

        let payload = self.claims(claims, &jti, seconds(now), exp)?;
        let mut header = Header::new(self.key.algorithm().of_library());
        header.kid = self.key.kid().map(str::to_owned);
        let token = encode(&header, &payload, &self.signing).map_err(|fault| {
            Error::caused_by(ErrorKind::Invalid, BACKEND, "the token was not signed", fault)
        })?;
        if token.len() > MAX_TOKEN {
            return Err(invalid(format!(
                "a token of {} bytes; at most {MAX_TOKEN} are accepted",
                token.len()
            )));
        }
        Ok(IssuedToken {
            token: Token::new(token),
            token_id: jti,
            key_id: self.key.kid().map(str::to_owned),
            expires_at: Timestamp::from_millis(exp.saturating_mul(1000)),
        })
    }

    fn claims(
        &self,
        subject_claims: &TokenClaims,
        jti: &str,
        iat: u64,
        exp: u64,
    ) -> Result<Map<String, Value>, Error> {
        let JwtOptions { issuer, audience, claims_version, claim_names: names, .. } = &self.options;
        let TokenClaims { subject, scopes, session_id, organisation, claims: further } = subject_claims;
        for (name, id) in [("sub", Some(subject)), ("sid", session_id.as_ref())] {
            if let Some(fault) = id.and_then(|id| RevocationId::parse(id).err()) {
                return Err(Error::caused_by(
                    ErrorKind::Invalid,
                    BACKEND,
                    format!("{name} cannot be signed"),
                    fault,
                ));
            }
        }
        // A scope with a space in it would be read as two (RFC 8693, section 4.2).
        if let Some(scope) = scopes.iter().find(|scope| scope.is_empty() || scope.contains(' ')) {
            return Err(invalid(format!("{scope:?} is no scope: a scope is not empty and has no space")));
        }
        let mut claims = Map::new();
        let mut write = |name: &str, value: Option<Value>| match value
            .map(|value| claims.insert(name.to_owned(), value))
        {
            Some(Some(_)) => Err(invalid(format!("the claim {name:?} would be there twice"))),
            _ => Ok(()),
        };
        let text = |value: &Option<String>| value.clone().map(Value::from);
        write("sub", Some(subject.clone().into()))?;
        write("exp", Some(exp.into()))?;
        write("iat", Some(iat.into()))?;
        write("jti", Some(jti.into()))?;
        write("iss", text(issuer))?;
        write("aud", text(audience))?;
        write("sid", text(session_id))?;
        write(&names.scopes, (!scopes.is_empty()).then(|| scopes.join(" ").into()))?;
        write(&names.organisation, text(organisation))?;
        write(&names.version, text(claims_version))?;
        for (name, value) in further {
            let taken = [&names.scopes, &names.organisation, &names.version];
            if REGISTERED.contains(&name.as_str()) || taken.contains(&name) {
                return Err(invalid(format!(
                    "the claim {name:?} has a meaning of its own and cannot be set"
                )));
            }
            write(name, Some(value.clone().into()))?;
        }
        Ok(claims)
    }
}

/// Seconds since the Unix epoch, as RFC 7519 writes moments.
fn seconds(moment: Timestamp) -> u64 {
    moment.as_millis() / 1000
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, BACKEND, message)
}

#[async_trait]
impl Issuer for JwtIssuer {
    async fn issue(&self, claims: &TokenClaims, now: Timestamp, ttl: Duration) -> Result<IssuedToken, Error> {
        self.sign(claims, now, ttl)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use khala_core::auth::{Access, Verifier as _};

    use super::*;
    use crate::{
        ClaimNames, JwtVerifier, KeySet,
        testing::{EC_PRIVATE, ED_PRIVATE, RSA_1024_PRIVATE, RSA_PRIVATE, RSA_PUBLIC, SECRET},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_400);
    const HOUR: Duration = Duration::from_secs(3600);

    fn issuers(options: &JwtOptions) -> [JwtIssuer; 5] {
        let of_pem =
            |kid, algorithm, pem| JwtIssuer::from_pem(Some(kid), algorithm, pem, options.clone()).unwrap();
        let of_secret = || JwtIssuer::hs256(SECRET, options.clone()).unwrap();
        [
            of_secret(),
            of_secret().with_key_id("hs").unwrap(),
            of_pem("ed", KeyAlgorithm::EdDsa, ED_PRIVATE),
            of_pem("es", KeyAlgorithm::Es256, EC_PRIVATE),
            of_pem("rs", KeyAlgorithm::Rs256, RSA_PRIVATE),
        ]
    }

    #[tokio::test]
    async fn what_is_signed_is_accepted_under_the_same_options() {
        let names =
            ClaimNames { scopes: "scp".to_owned(), organisation: "org".to_owned(), version: "v".to_owned() };
        let options = JwtOptions {
            issuer: Some("here".to_owned()),
            audience: Some("sync".to_owned()),
            claims_version: Some("3".to_owned()),
            leeway: Duration::from_secs(5),
            claim_names: names,
            bind_claims: vec!["team".to_owned()],
            ..JwtOptions::default()
        };
        let issuers = issuers(&options);
        let keys = issuers.iter().try_fold(KeySet::new(), |keys, issuer| keys.with_key(issuer.key().clone()));
        let verifier = JwtVerifier::with_keys(keys.unwrap(), options);
        let text = |text: &str| text.to_owned();
        let claims = TokenClaims {
            session_id: Some(text("login")),
            organisation: Some(text("acme")),
            claims: BTreeMap::from([(text("team"), text("blue")), (text("more"), text("text"))]),
            ..TokenClaims::new("ada", [Access::Read.scope(), "other"])
        };
        for issuer in issuers {
            let issued = Issuer::issue(&issuer, &claims, NOW, HOUR).await.unwrap();
            let grant = verifier.verify(&issued.token, NOW).await.unwrap();
            assert_eq!(grant.subject(), "ada");
            assert_eq!(grant.scopes(), claims.scopes);
            assert_eq!((grant.session_id(), grant.organisation()), (Some("login"), Some("acme")));
            assert_eq!((grant.claim("team"), grant.claim("more")), (Some("blue"), None));
            assert_eq!(grant.issued_at(), Some(Timestamp::from_millis(1_700_000_000_000)));
            assert_eq!(issued.expires_at, Timestamp::from_millis(1_700_003_600_000));
            assert_eq!(grant.expires_at(), issued.expires_at.plus(Duration::from_secs(5)));
            assert_eq!(grant.token_id(), Some(&*issued.token_id));
            assert!(
                issued.token_id.len() == 32 && issued.token_id.bytes().all(|byte| byte.is_ascii_hexdigit())
            );
            assert_eq!((grant.key_id(), issued.key_id.as_deref()), (issuer.key().kid(), issuer.key().kid()));
            let again = issuer.sign(&claims, NOW, HOUR).unwrap();
            assert_ne!(again.token_id, issued.token_id);
        }
    }

    #[test]
    fn what_would_be_refused_is_not_signed() {
        let good = TokenClaims::new("ada", ["a"]);
        let with_claim = |name: &str, value: String| TokenClaims {
            claims: BTreeMap::from([(name.to_owned(), value)]),
            ..good.clone()
        };
        let strange = ClaimNames { organisation: "sub".to_owned(), ..ClaimNames::default() };
        let strange = JwtOptions { claim_names: strange, ..JwtOptions::default() };
        let default = JwtOptions::default;
        let mut table = vec![
            (default(), TokenClaims::new("", ["a"]), HOUR),
            (default(), TokenClaims::new("a".repeat(513), ["a"]), HOUR),
            (default(), TokenClaims::new("a\n", ["a"]), HOUR),
            (default(), TokenClaims { session_id: Some(String::new()), ..good.clone() }, HOUR),
            (default(), with_claim("more", "a".repeat(8192)), HOUR),
            (default(), TokenClaims::new("ada", [""]), HOUR),
            (default(), TokenClaims::new("ada", ["a b"]), HOUR),
            (default(), good.clone(), HOUR * 25),
            (strange, TokenClaims { organisation: Some("acme".to_owned()), ..good.clone() }, HOUR),
        ];
        for name in REGISTERED.iter().chain(&["scope", "org_id", "claims_version"]) {
            table.push((default(), with_claim(name, "text".to_owned()), HOUR));
        }
        for (options, claims, ttl) in table {
            let refused = JwtIssuer::hs256(SECRET, options).unwrap().sign(&claims, NOW, ttl);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid, "{claims:?}");
        }
        let ageless = JwtIssuer::hs256(SECRET, JwtOptions { max_age: None, ..default() }).unwrap();
        let issued = ageless.sign(&good, NOW, Duration::MAX).unwrap();
        assert_eq!(issued.expires_at.as_millis() / 1000, u64::MAX / 1000);
    }

    #[test]
    fn a_bad_key_is_refused_and_a_good_one_not_shown() {
        let options = JwtOptions::default;
        assert!(JwtIssuer::hs256(b"too short", options()).is_err());
        assert!(JwtIssuer::hs256(SECRET, options()).unwrap().with_key_id("").is_err());
        for pem in [RSA_PUBLIC, RSA_1024_PRIVATE, EC_PRIVATE, ""] {
            assert!(JwtIssuer::from_pem(Some("a"), KeyAlgorithm::Rs256, pem, options()).is_err());
        }
        for issuer in issuers(&options()) {
            let shown = format!("{issuer:?}");
            assert!(
                shown.contains("kid") && !shown.contains("01234567") && !shown.contains("48, 49"),
                "{shown}"
            );
        }
    }
}
