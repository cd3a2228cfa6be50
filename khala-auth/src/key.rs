//! One key that tokens are checked with.
//!
//! A key is checked when it is made, so a weak or a broken key cannot be in a set.
//!
//! # Invariants
//! - Each key has one algorithm.
//! - No output shows more of a key than its name and its algorithm, except [`Key::to_jwk`].

use std::{fmt, sync::Arc};

use jsonwebtoken::{
    DecodingKey, DecodingKeyKind, Validation,
    crypto::rust_crypto,
    decode,
    errors::ErrorKind,
    jwk::{Jwk, PublicKeyUse},
};
use khala_core::auth::Denied;

use crate::{
    algorithm::{KeyAlgorithm, name_provider},
    claims::Claims,
    key_error::KeyError,
    pem,
};

/// The rule of key names: 1 to 256 bytes without control characters.
pub(crate) fn check_kid(kid: &str) -> Result<(), KeyError> {
    let fault = match kid.len() {
        0 => "is empty".to_owned(),
        1..=256 if kid.chars().any(char::is_control) => "holds a control character".to_owned(),
        1..=256 => return Ok(()),
        bytes => format!("is {bytes} bytes long; at most 256 are allowed"),
    };
    Err(KeyError::new(None, format!("its kid {fault}")))
}

/// One key that tokens are checked with: a public key, or an HS256 secret. Prints its name and its algorithm.
#[derive(Clone)]
pub struct Key {
    pub(crate) kid: Option<Arc<str>>,
    algorithm: KeyAlgorithm,
    key: DecodingKey,
}

impl Key {
    /// An HS256 secret, of at least 32 bytes (RFC 7518, section 3.2).
    ///
    /// # Errors
    /// A [`KeyError`] for a shorter one, and for a name that is not 1 to 256 bytes without control characters.
    pub fn hs256(kid: Option<&str>, secret: &[u8]) -> Result<Self, KeyError> {
        Self::checked(kid, KeyAlgorithm::Hs256, DecodingKey::from_secret(secret))
    }

    /// The public key in a PEM file: of P-256 for ES256, Ed25519 for EdDSA, RSA of 2048 to 4096 bits for RS256.
    ///
    /// # Errors
    /// A [`KeyError`] for anything else, a private key and a certificate among it, and for a bad name.
    pub fn from_pem(kid: Option<&str>, algorithm: KeyAlgorithm, pem: &str) -> Result<Self, KeyError> {
        let key = pem::public(algorithm, pem).map_err(|fault| KeyError::new(kid, fault))?;
        Self::checked(kid, algorithm, key)
    }

    /// The public half of the private key in a PEM file (PKCS #8, for RSA also PKCS #1; not encrypted).
    ///
    /// # Errors
    /// A [`KeyError`] for anything else, and for a bad name.
    pub fn from_private_pem(kid: Option<&str>, algorithm: KeyAlgorithm, pem: &str) -> Result<Self, KeyError> {
        let (_, key) = pem::private(algorithm, pem).map_err(|fault| KeyError::new(kid, fault))?;
        Self::checked(kid, algorithm, key)
    }

    /// A key that passes every rule. Nothing is left for later: the library would fail, or panic, at each token.
    pub(crate) fn checked(
        kid: Option<&str>,
        algorithm: KeyAlgorithm,
        key: DecodingKey,
    ) -> Result<Self, KeyError> {
        if let Some(kid) = kid {
            check_kid(kid)?;
        }
        name_provider();
        let key = check_strength(algorithm, key).map_err(|fault| KeyError::new(kid, fault))?;
        Ok(Self { kid: kid.map(Into::into), algorithm, key })
    }

    pub(crate) fn named(self, kid: &str) -> Result<Self, KeyError> {
        check_kid(kid)?;
        Ok(Self { kid: Some(kid.into()), ..self })
    }

    /// Its name, which tokens carry as `kid`.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// How it signs.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The key as a JWK (RFC 7517), with `use`, `alg` and `kid`. Of an HS256 key this holds the secret.
    pub fn to_jwk(&self) -> String {
        let algorithm = Some(self.algorithm.of_library());
        let mut jwk = Jwk::from_decoding_key(&self.key, algorithm).expect("the key was checked");
        jwk.common.key_id = self.kid().map(str::to_owned);
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        serde_json::to_string(&jwk).expect("a JWK is JSON")
    }

    /// What `token` claims, if this key signed it with this key's algorithm.
    pub(crate) fn open(&self, token: &str) -> Result<Claims, Denied> {
        let mut validation = Validation::new(self.algorithm.of_library());
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        match decode::<Claims>(token, &self.key, &validation) {
            Ok(token) => Ok(token.claims),
            Err(fault) => Err(Denied::InvalidToken(match fault.kind() {
                ErrorKind::InvalidAlgorithm => "its algorithm is not that of the key",
                ErrorKind::InvalidSignature => "its signature does not match",
                ErrorKind::Json(_) => "its claims are not a JSON object, or say one thing twice",
                _ => "it is not a JSON Web Token",
            })),
        }
    }

    fn bytes(&self) -> (&[u8], &[u8]) {
        match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => (n, e),
            DecodingKeyKind::SecretOrDer(bytes) => (bytes, &[]),
        }
    }
}

/// The key, in the one form that all keys of its kind have here, or why it must not be used.
fn check_strength(algorithm: KeyAlgorithm, key: DecodingKey) -> Result<DecodingKey, String> {
    let provider = &rust_crypto::DEFAULT_PROVIDER;
    let usable = |key: &DecodingKey| (provider.verifier_factory)(&algorithm.of_library(), key).is_ok();
    let bytes = key.try_get_as_bytes().unwrap_or_default();
    match algorithm {
        KeyAlgorithm::EdDsa if bytes.len() == 32 && usable(&key) => Ok(key),
        KeyAlgorithm::EdDsa => Err("it is not an Ed25519 key".to_owned()),
        KeyAlgorithm::Es256 if bytes.len() == 65 && usable(&key) => Ok(key),
        KeyAlgorithm::Es256 => Err("it is not an uncompressed point of P-256".to_owned()),
        KeyAlgorithm::Hs256 if bytes.len() >= 32 => Ok(key),
        KeyAlgorithm::Hs256 => {
            Err(format!("an HS256 key needs at least 32 bytes (RFC 7518, section 3.2), not {}", bytes.len()))
        }
        KeyAlgorithm::Rs256 => {
            let (n, e) = match key.kind() {
                DecodingKeyKind::RsaModulusExponent { n, e } => (n.clone(), e.clone()),
                DecodingKeyKind::SecretOrDer(der) => {
                    let parts = (provider.key_utils.rsa_pub_components_from_public_key)(der);
                    parts.map_err(|_| "it is not an RSA public key of at most 4096 bits".to_owned())?
                }
            };
            let (n, e) = (without_zeros(&n), without_zeros(&e));
            let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
            if !(2048..=4096).contains(&bits) {
                return Err(format!(
                    "an RS256 key needs at least 2048 bits (RFC 7518, section 3.3), and may have at most 4096; \
                     this one has {bits}"
                ));
            }
            // The library takes exponents below 2^33; an even one, or 1, is no RSA key.
            let exponent = e.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            if e.len() > 5 || !(3..1 << 33).contains(&exponent) || exponent % 2 == 0 {
                return Err("its public exponent is not an odd number from 3 to 2^33".to_owned());
            }
            Ok(DecodingKey::from_rsa_raw_components(n, e))
        }
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().position(|byte| *byte != 0).unwrap_or(number.len())..]
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (&self.kid, self.algorithm, self.bytes()) == (&other.kid, other.algorithm, other.bytes())
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        EC_PRIVATE, EC_PRIVATE_SEC1, EC_PUBLIC, ED_PRIVATE, ED_PUBLIC, RSA_1024_PRIVATE, RSA_1024_PUBLIC,
        RSA_PRIVATE, RSA_PRIVATE_PKCS1, RSA_PUBLIC, SECP256K1_PRIVATE, SECP256K1_PUBLIC, SECRET,
    };

    #[test]
    fn both_halves_of_a_pair_give_one_key() {
        for (algorithm, public, private) in [
            (KeyAlgorithm::EdDsa, ED_PUBLIC, ED_PRIVATE),
            (KeyAlgorithm::Es256, EC_PUBLIC, EC_PRIVATE),
            (KeyAlgorithm::Rs256, RSA_PUBLIC, RSA_PRIVATE),
            (KeyAlgorithm::Rs256, RSA_PUBLIC, RSA_PRIVATE_PKCS1),
        ] {
            let key = Key::from_pem(Some("a"), algorithm, public).unwrap();
            assert_eq!(Key::from_private_pem(Some("a"), algorithm, private).unwrap(), key);
            assert_eq!((key.kid(), key.algorithm()), (Some("a"), algorithm));
            assert_eq!(algorithm.as_str().parse::<KeyAlgorithm>().unwrap(), algorithm);
        }
    }

    #[test]
    fn a_pem_that_is_not_that_public_key_is_refused() {
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let empty = "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n";
        for (algorithm, pem, fault) in [
            (KeyAlgorithm::Rs256, RSA_1024_PUBLIC, "this one has 1024"),
            (KeyAlgorithm::Rs256, EC_PUBLIC, "not a public key for RS256"),
            (KeyAlgorithm::Rs256, RSA_PRIVATE, "a private key"),
            (KeyAlgorithm::Rs256, RSA_PRIVATE_PKCS1, "a private key"),
            (KeyAlgorithm::Es256, SECP256K1_PUBLIC, "not an uncompressed point of P-256"),
            (KeyAlgorithm::Es256, ED_PUBLIC, "not a public key for ES256"),
            (KeyAlgorithm::Es256, certificate, r#"a PEM of "CERTIFICATE""#),
            (KeyAlgorithm::EdDsa, EC_PUBLIC, "not a public key for EdDSA"),
            (KeyAlgorithm::EdDsa, empty, "not a public key for EdDSA"),
            (KeyAlgorithm::EdDsa, "", "not a PEM file"),
            (KeyAlgorithm::Hs256, RSA_PUBLIC, "HS256 takes a secret"),
        ] {
            let error = Key::from_pem(Some("a"), algorithm, pem).unwrap_err().to_string();
            assert!(error.starts_with("key \"a\": ") && error.contains(fault), "{error}");
        }
    }

    #[test]
    fn a_pem_that_is_not_that_private_key_is_refused() {
        for (algorithm, pem, fault) in [
            (KeyAlgorithm::Rs256, RSA_1024_PRIVATE, "this one has 1024"),
            (KeyAlgorithm::Rs256, RSA_PUBLIC, r#"a PEM of "PUBLIC KEY""#),
            (KeyAlgorithm::Rs256, ED_PRIVATE, "not a private key for RS256"),
            (KeyAlgorithm::Es256, EC_PRIVATE_SEC1, "openssl pkcs8"),
            (KeyAlgorithm::Es256, SECP256K1_PRIVATE, "not a private key for ES256"),
            (KeyAlgorithm::EdDsa, RSA_PRIVATE, "not a private key for EdDSA"),
            (KeyAlgorithm::Hs256, RSA_PRIVATE, "HS256 takes a secret"),
            (KeyAlgorithm::EdDsa, "no PEM", "not a PEM file"),
        ] {
            let error = Key::from_private_pem(None, algorithm, pem).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn a_weak_secret_and_a_bad_name_are_refused() {
        for (kid, secret, fault) in [
            (None, &b""[..], "an HS256 key needs at least 32 bytes (RFC 7518, section 3.2), not 0"),
            (Some("a"), &SECRET[1..], "key \"a\": an HS256 key needs at least 32 bytes"),
            (Some(""), SECRET, "its kid is empty"),
            (Some("a\0"), SECRET, "its kid holds a control character"),
        ] {
            let error = Key::hs256(kid, secret).unwrap_err().to_string();
            assert!(error.starts_with(fault), "{error}");
        }
        assert!(Key::hs256(Some(&"é".repeat(128)), SECRET).is_ok());
        assert!(Key::hs256(Some(&"é".repeat(129)), SECRET).is_err());
    }

    #[test]
    fn no_output_shows_a_key() {
        let key = Key::hs256(Some("a"), SECRET).unwrap();
        assert_eq!(format!("{key:?}"), r#"Key { kid: Some("a"), algorithm: Hs256, .. }"#);
        let text = std::str::from_utf8(SECRET).unwrap();
        let again = Key::hs256(Some("a"), &SECRET[1..]).unwrap_err();
        for output in [format!("{key:?}"), format!("{again:?}{again}")] {
            assert!(!output.contains(text) && !output.contains("48, 49"), "{output}");
        }
    }
}
