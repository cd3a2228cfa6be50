//! The set of keys that are trusted at one time.

use std::{collections::BTreeMap, sync::Arc};

use crate::{jwk, jwk::MAX_KEYS, key::Key, key_error::KeyError};

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
    /// out too: a party that can read the set could sign with them.
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

    /// The key ids that `newer` no longer trusts, or gives to another key: those that a host distrusts when `newer` takes
    /// the place of this set.
    pub fn distrusted_by<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = &'a str> {
        self.named.iter().filter(|(kid, key)| newer.named.get(*kid) != Some(key)).map(|(kid, _)| &**kid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SECRET;

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
        assert_eq!(old.distrusted_by(&new).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(old.distrusted_by(&old.clone()).count(), 0);
    }

    #[test]
    fn no_output_shows_a_key() {
        let text = std::str::from_utf8(SECRET).unwrap();
        let key = Key::hs256(Some("a"), SECRET).unwrap();
        let set = KeySet::new().with_key(key.clone()).unwrap();
        let again = set.clone().with_key(key).unwrap_err();
        for output in [format!("{set:?}"), format!("{again:?}{again}")] {
            assert!(!output.contains(text) && !output.contains("48, 49"), "{output}");
        }
    }
}
