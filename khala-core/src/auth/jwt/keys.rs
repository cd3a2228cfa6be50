//! The keys that tokens are checked with, by their names, and where they come from.
//!
//! A key is checked when it is made: a weak or a broken one cannot be in a set. What must stay true: each key has one
//! algorithm, and no output shows more of a key than its name and its algorithm, but for [`Key::to_jwk`].

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use async_trait::async_trait;
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Validation, crypto::rust_crypto, decode, errors::ErrorKind,
};

use super::{claims::Claims, jwk, name_provider, pem};
use crate::{auth::Denied, error::Error, text::plain, update::Timestamp};

/// The most keys in a set: searching one is bounded, and a set that is fetched cannot fill the memory.
pub(super) const MAX_KEYS: usize = 100;

/// How a key signs (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// EdDSA with Ed25519.
    EdDsa,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// HMAC with SHA-256: whoever can check can sign.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl KeyAlgorithm {
    /// Every algorithm.
    pub const ALL: &[Self] = &[Self::EdDsa, Self::Es256, Self::Hs256, Self::Rs256];

    /// The algorithm as it is in `alg`: `EdDSA`, `ES256`, `HS256`, `RS256`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
        }
    }

    pub(super) fn of_library(self) -> Algorithm {
        match self {
            Self::EdDsa => Algorithm::EdDSA,
            Self::Es256 => Algorithm::ES256,
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyAlgorithm {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let known = Self::ALL.iter().copied().find(|algorithm| algorithm.as_str() == text);
        known.ok_or_else(|| KeyError::new(None, format!("{text:?} is none of EdDSA, ES256, HS256 and RS256")))
    }
}

/// Why a key, or a set of them, cannot be used. Its `Display` names the key and the fault, and shows no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{fault}")]
pub struct KeyError {
    kid: Option<String>,
    place: String,
    fault: String,
}

impl KeyError {
    pub(super) fn new(kid: Option<&str>, fault: impl Into<String>) -> Self {
        let place = kid.map(|kid| format!("key {kid:?}: ")).unwrap_or_default();
        Self { kid: kid.map(str::to_owned), place, fault: fault.into() }
    }

    /// Says which key of a set it is, if it has no name.
    pub(super) fn at(mut self, number: usize) -> Self {
        if self.kid.is_none() {
            self.place = format!("key number {number} of the set: ");
        }
        self
    }

    /// The name of the key that is at fault, if it is one key and has a name.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }
}

/// The rule of key names: 1 to 256 bytes without control characters.
pub(super) fn check_kid(kid: &str) -> Result<(), KeyError> {
    plain("kid", kid, 256).map_err(|fault| KeyError::new(None, format!("its {fault}")))
}

/// One key that tokens are checked with: a public key, or an HS256 secret. Prints its name and its algorithm.
#[derive(Clone)]
pub struct Key {
    kid: Option<Arc<str>>,
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
    pub(super) fn checked(
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

    pub(super) fn named(self, kid: &str) -> Result<Self, KeyError> {
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
        jwk::write(self.kid(), self.algorithm, &self.key)
    }

    /// What `token` claims, if this key signed it with this key's algorithm.
    pub(super) fn open(&self, token: &str) -> Result<Claims, Denied> {
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

/// The keys that are trusted at one time: at most 100, each with its own name, at most one without. Two sets are equal
/// when they trust the same keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    named: BTreeMap<Arc<str>, Key>,
    unnamed: Option<Key>,
}

impl KeySet {
    /// None: every token is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// The set with one more key.
    ///
    /// # Errors
    /// A [`KeyError`] for a second key of one name, a second one without, and one over 100.
    pub fn with_key(mut self, key: Key) -> Result<Self, KeyError> {
        let kid = key.kid.clone();
        if self.len() == MAX_KEYS {
            return Err(KeyError::new(
                kid.as_deref(),
                format!("it is one over the {MAX_KEYS} that a set takes"),
            ));
        }
        match kid {
            Some(kid) if self.named.contains_key(&kid) => {
                return Err(KeyError::new(Some(&kid), "there is another key of this name in the set"));
            }
            Some(kid) => {
                self.named.insert(kid, key);
            }
            None if self.unnamed.is_some() => {
                return Err(KeyError::new(None, "there is another key without a kid in the set"));
            }
            None => self.unnamed = Some(key),
        }
        Ok(self)
    }

    /// The keys of a JWK Set (RFC 7517): `oct` for HS256, `RSA` for RS256, `EC` on P-256 for ES256, `OKP` on Ed25519
    /// for EdDSA.
    ///
    /// Members that are not known are ignored. Keys for encryption (`use` is `enc`, or `key_ops` without `verify`) are
    /// left out.
    ///
    /// # Errors
    /// A [`KeyError`] for the first key that cannot be used: of another `kty`, `crv` or `alg`, too weak, broken, or of
    /// a name that there was before; and when it is no JWK Set, or one of more than 100 keys.
    pub fn from_jwks(json: &str) -> Result<Self, KeyError> {
        jwk::read(json)?
            .into_iter()
            .enumerate()
            .try_fold(Self::new(), |set, (at, key)| set.with_key(key?).map_err(|fault| fault.at(at + 1)))
    }

    /// The public keys of a JWK Set that can be used, and a [`KeyError`] for each key that cannot.
    ///
    /// For the sets of others, who may add a key of a kind that is not supported here any day: RFC 7517, section 5, asks
    /// to leave such a key out, and [`from_jwks`](Self::from_jwks) would lose the whole set. Secrets (`oct`) are left
    /// out too: whoever can read the set could sign with them.
    ///
    /// # Errors
    /// A [`KeyError`] when it is no JWK Set, when two keys have one name, and for more than 100 keys.
    pub fn from_foreign_jwks(json: &str) -> Result<(Self, Vec<KeyError>), KeyError> {
        Self::in_part(jwk::read_foreign(json)?)
    }

    /// The keys of a JWK Set that can be used, secrets too, and a [`KeyError`] for each that cannot: to say what is in
    /// a set of one's own.
    ///
    /// # Errors
    /// As [`from_foreign_jwks`](Self::from_foreign_jwks).
    pub fn from_jwks_in_part(json: &str) -> Result<(Self, Vec<KeyError>), KeyError> {
        Self::in_part(jwk::read(json)?)
    }

    fn in_part(keys: Vec<Result<Key, KeyError>>) -> Result<(Self, Vec<KeyError>), KeyError> {
        let (mut set, mut left_out) = (Self::new(), Vec::new());
        for (at, key) in keys.into_iter().enumerate() {
            match key {
                Ok(key) => set = set.with_key(key).map_err(|fault| fault.at(at + 1))?,
                Err(fault) => left_out.push(fault),
            }
        }
        Ok((set, left_out))
    }

    /// The key of that name; without one, the key without a name.
    pub fn key(&self, kid: Option<&str>) -> Option<&Key> {
        kid.map_or(self.unnamed.as_ref(), |kid| self.named.get(kid))
    }

    /// The names of those that have one, in order.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(|kid| &**kid)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.named.len() + usize::from(self.unnamed.is_some())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names that `newer` no longer trusts, or gives to another key: what a host withdraws when it takes `newer` in
    /// place of this.
    pub fn withdrawn_by<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = &'a str> {
        self.named.iter().filter(|(kid, key)| newer.named.get(*kid) != Some(key)).map(|(kid, _)| &**kid)
    }
}

/// Where a verifier gets its keys from.
///
/// ```
/// # use std::sync::{Arc, RwLock};
/// # use async_trait::async_trait;
/// # use khala_core::{Error, KeySet, KeySource, Timestamp};
/// /// Keys that the host replaces at will.
/// #[derive(Debug)]
/// struct Replaced(RwLock<Arc<KeySet>>);
///
/// #[async_trait]
/// impl KeySource for Replaced {
///     async fn keys(&self, _: Option<&str>, _: Timestamp) -> Result<Arc<KeySet>, Error> {
///         Ok(self.0.read().expect("nobody panics with the lock held").clone())
///     }
/// }
/// ```
#[async_trait]
pub trait KeySource: fmt::Debug + Send + Sync + 'static {
    /// The keys that are trusted at `now`.
    ///
    /// `wanted` is the name that a token gives its key, before anything about the token was proved. A source that can
    /// ask somewhere asks again when it has no key of that name, at most as often as it states: anybody can make names
    /// up. It is asked at each token, so what it has it gives at once. Dropping the future leaves nothing behind that
    /// keeps the next one from being answered.
    ///
    /// # Errors
    /// An [`Error`] when it is not known now which keys are trusted; the token is then neither accepted nor refused.
    async fn keys(&self, wanted: Option<&str>, now: Timestamp) -> Result<Arc<KeySet>, Error>;
}

/// The same keys for ever.
#[derive(Clone, Debug, Default)]
pub struct StaticKeys(Arc<KeySet>);

impl StaticKeys {
    /// These keys.
    pub fn new(keys: KeySet) -> Self {
        Self(Arc::new(keys))
    }
}

#[async_trait]
impl KeySource for StaticKeys {
    async fn keys(&self, _: Option<&str>, _: Timestamp) -> Result<Arc<KeySet>, Error> {
        Ok(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::jwt::testing::{
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
    fn a_set_takes_each_name_once() {
        let key = |kid: Option<&str>, byte| Key::hs256(kid, &[byte; 32]).unwrap();
        let set = KeySet::new().with_key(key(None, 1)).unwrap().with_key(key(Some("a"), 2)).unwrap();
        assert!(set.clone().with_key(key(Some("a"), 3)).unwrap_err().to_string().contains("\"a\""));
        assert!(set.clone().with_key(key(None, 1)).is_err());
        assert_eq!((set.len(), set.is_empty(), KeySet::new().is_empty()), (2, false, true));
        assert_eq!((set.key(None), set.key(Some("a"))), (Some(&key(None, 1)), Some(&key(Some("a"), 2))));
        assert_eq!((set.key(Some("b")), set.key(Some(""))), (None, None));

        let full =
            (2..MAX_KEYS).try_fold(set, |set, at| set.with_key(key(Some(&at.to_string()), 1))).unwrap();
        assert_eq!(full.len(), MAX_KEYS);
        assert!(full.with_key(key(Some("one more"), 1)).is_err());
    }

    #[test]
    fn a_name_is_withdrawn_when_it_goes_or_names_another_key() {
        let set = |keys: &[(&str, u8)]| {
            keys.iter().fold(KeySet::new(), |set, (kid, byte)| {
                set.with_key(Key::hs256(Some(kid), &[*byte; 32]).unwrap()).unwrap()
            })
        };
        let old = set(&[("a", 1), ("b", 2), ("c", 3)]);
        let new = set(&[("a", 1), ("b", 9), ("d", 4)]);
        assert_eq!(old.withdrawn_by(&new).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(old.withdrawn_by(&old.clone()).count(), 0);
    }

    #[test]
    fn no_output_shows_a_key() {
        let key = Key::hs256(Some("a"), SECRET).unwrap();
        assert_eq!(format!("{key:?}"), r#"Key { kid: Some("a"), algorithm: Hs256, .. }"#);
        let text = std::str::from_utf8(SECRET).unwrap();
        let set = KeySet::new().with_key(key.clone()).unwrap();
        let again = set.clone().with_key(key).unwrap_err();
        for output in [format!("{set:?}"), format!("{:?}", StaticKeys::new(set)), format!("{again:?}{again}")]
        {
            assert!(!output.contains(text) && !output.contains("48, 49"), "{output}");
        }
    }
}
