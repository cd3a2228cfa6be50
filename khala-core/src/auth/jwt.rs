//! JSON Web Tokens (RFC 7519), signed with one HS256 key.
//!
//! Time is checked here and not by the library, because time is an argument. The algorithm belongs to the key:
//! what the token's header claims is compared, never followed.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize, Serializer};

use super::{Denied, Grant, Scope, Token, Verifier};
use crate::update::Timestamp;

/// What a token must say beside its signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwtOptions {
    /// The `iss` that tokens must have, and get; unchecked and unset where there is none.
    pub issuer: Option<String>,
    /// The `aud` that tokens must name, and get; unchecked and unset where there is none.
    pub audience: Option<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
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

    /// Lets clocks be that far apart.
    #[must_use]
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }
}

/// A key that must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an HS256 key needs at least 32 bytes (RFC 7518, section 3.2), not {found}")]
pub struct KeyError {
    found: usize,
}

fn check_key(secret: &[u8]) -> Result<(), KeyError> {
    if secret.len() < 32 { Err(KeyError { found: secret.len() }) } else { Ok(()) }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    exp: NumericDate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<NumericDate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<NumericDate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aud: Option<OneOrMany>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, rename = "oa_sync_scopes")]
    scopes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn names(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}

/// Seconds since the Unix epoch. RFC 7519 lets others write fractions; we write none.
#[derive(Clone, Copy, Deserialize)]
#[serde(transparent)]
struct NumericDate(f64);

impl NumericDate {
    fn of(moment: Timestamp) -> Self {
        Self((moment.as_millis() / 1000) as f64)
    }

    /// What is before 1970 counts as 1970: a float cast saturates, which is what an absurd claim deserves.
    fn moment(self) -> Timestamp {
        Timestamp::from_millis((self.0 * 1000.0) as u64)
    }
}

impl Serialize for NumericDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0 as u64)
    }
}

/// Checks JSON Web Tokens.
pub struct JwtVerifier {
    key: DecodingKey,
    validation: Validation,
    options: JwtOptions,
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtVerifier").field("options", &self.options).finish_non_exhaustive()
    }
}

impl JwtVerifier {
    /// Checks tokens that are signed with this secret.
    ///
    /// # Errors
    /// A [`KeyError`] for a secret of less than 32 bytes.
    pub fn hs256(secret: &[u8], options: JwtOptions) -> Result<Self, KeyError> {
        check_key(secret)?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Ok(Self { key: DecodingKey::from_secret(secret), validation, options })
    }
}

#[async_trait]
impl Verifier for JwtVerifier {
    async fn verify(&self, token: &Token, now: Timestamp) -> Result<Grant, Denied> {
        let claims = decode::<Claims>(token.reveal(), &self.key, &self.validation)
            .map_err(|fault| {
                use jsonwebtoken::errors::ErrorKind;
                Denied::InvalidToken(match fault.kind() {
                    ErrorKind::InvalidSignature => "its signature does not match",
                    ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
                        "its algorithm is not that of the key"
                    }
                    ErrorKind::Json(_) | ErrorKind::MissingRequiredClaim(_) => {
                        "its claims lack `sub` or `exp`, or one is of the wrong type"
                    }
                    _ => "it is not a JSON Web Token",
                })
            })?
            .claims;
        let Claims { sub, exp, nbf, iss, aud, scopes, .. } = claims;
        let JwtOptions { issuer, audience, leeway } = &self.options;
        if issuer.as_deref().is_some_and(|wanted| iss.as_deref() != Some(wanted)) {
            return Err(Denied::ClaimMismatch { claim: "iss" });
        }
        if audience.as_deref().is_some_and(|wanted| !aud.is_some_and(|aud| aud.names(wanted))) {
            return Err(Denied::ClaimMismatch { claim: "aud" });
        }
        if nbf.is_some_and(|nbf| now.plus(*leeway) < nbf.moment()) {
            return Err(Denied::TokenNotYetValid);
        }
        let expires_at = exp.moment().plus(*leeway);
        if expires_at <= now {
            return Err(Denied::TokenExpired);
        }
        Ok(Grant::assertion(sub, scopes, expires_at))
    }
}

/// Signs JSON Web Tokens.
pub struct JwtIssuer {
    key: EncodingKey,
    options: JwtOptions,
}

impl fmt::Debug for JwtIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtIssuer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl JwtIssuer {
    /// Signs with this secret.
    ///
    /// # Errors
    /// A [`KeyError`] for a secret of less than 32 bytes.
    pub fn hs256(secret: &[u8], options: JwtOptions) -> Result<Self, KeyError> {
        check_key(secret)?;
        Ok(Self { key: EncodingKey::from_secret(secret), options })
    }

    /// A token for `subject` with these scopes, good from `now` for `ttl`.
    ///
    /// # Panics
    /// If the operating system has no randomness to give for the `jti`.
    pub fn issue(&self, subject: &str, scopes: &[Scope], now: Timestamp, ttl: Duration) -> Token {
        let mut jti = [0; 16];
        getrandom::fill(&mut jti).expect("the operating system gives randomness");
        let claims = Claims {
            sub: subject.to_owned(),
            exp: NumericDate::of(now.plus(ttl)),
            nbf: None,
            iat: Some(NumericDate::of(now)),
            iss: self.options.issuer.clone(),
            aud: self.options.audience.clone().map(OneOrMany::One),
            jti: Some(format!("{:032x}", u128::from_be_bytes(jti))),
            scopes: scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        };
        Token(encode(&Header::new(Algorithm::HS256), &claims, &self.key).expect("HS256 signs any bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    async fn verdict(options: JwtOptions, token: &Token, now: Timestamp) -> Result<Grant, &'static str> {
        let verifier = JwtVerifier::hs256(SECRET, options).unwrap();
        verifier.verify(token, now).await.map_err(|denied| denied.as_str())
    }

    #[tokio::test]
    async fn a_token_is_good_until_it_expires() {
        let token =
            JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap().issue("ada", &[Scope::Read], NOW, HOUR);
        let grant = verdict(JwtOptions::default(), &token, NOW).await.unwrap();
        assert!(grant.allows(Scope::Read) && !grant.allows(Scope::Publish));
        assert_eq!((grant.subject(), grant.expires_at()), ("ada", NOW.plus(HOUR)));
        assert_eq!(verdict(JwtOptions::default(), &token, NOW.plus(HOUR)).await, Err("token_expired"));
        let lenient = JwtOptions::default().with_leeway(Duration::from_secs(5));
        assert!(verdict(lenient, &token, NOW.plus(HOUR)).await.is_ok());
    }

    #[tokio::test]
    async fn issuer_audience_and_key_must_match() {
        let options = JwtOptions::default().with_issuer("here").with_audience("sync");
        let token = JwtIssuer::hs256(SECRET, options.clone()).unwrap().issue("ada", &[], NOW, HOUR);
        assert!(verdict(options, &token, NOW).await.is_ok());
        let elsewhere = JwtOptions::default().with_issuer("there");
        assert_eq!(verdict(elsewhere, &token, NOW).await, Err("claim_mismatch"));
        let others = JwtOptions::default().with_audience("others");
        assert_eq!(verdict(others, &token, NOW).await, Err("claim_mismatch"));
        let forged = JwtIssuer::hs256(&[7; 32], JwtOptions::default()).unwrap().issue("ada", &[], NOW, HOUR);
        assert_eq!(verdict(JwtOptions::default(), &forged, NOW).await, Err("invalid_token"));
    }

    #[tokio::test]
    async fn what_is_no_signed_token_is_refused() {
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ.";
        for bad in ["", ".", "..", "a.b.c", none, &"x".repeat(1 << 20)] {
            assert_eq!(verdict(JwtOptions::default(), &Token::new(bad), NOW).await, Err("invalid_token"));
        }
        assert!(JwtVerifier::hs256(b"", JwtOptions::default()).is_err());
        assert!(JwtIssuer::hs256(b"too short", JwtOptions::default()).is_err());
    }
}
