//! A secret that callers present: kept as a digest, and compared without telling how much of a guess was right.
//!
//! What must stay true: neither the secret nor a guess reaches a log, and a comparison takes as long whatever the
//! guess shares with the secret. Digests have one length, so that the secret's own is no part of it.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Bytes of the shortest secret that is taken: what 128 random bits are in hexadecimal.
const SHORTEST: usize = 32;

/// A secret that must not be used. Its `Display` never holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// It cannot be sent in a header.
    #[error("a secret is of visible ASCII characters, without spaces")]
    NotVisible,
    /// It could be guessed.
    #[error("a secret needs at least {SHORTEST} characters, not {found}")]
    TooShort {
        /// How many it has.
        found: usize,
    },
}

/// A secret, as its SHA-256 digest.
#[derive(Clone)]
pub(crate) struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    pub(crate) fn new(text: &str) -> Result<Self, SecretError> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::NotVisible);
        }
        if text.len() < SHORTEST {
            return Err(SecretError::TooShort { found: text.len() });
        }
        Ok(Self(digest(text)))
    }

    /// Whether `guess` is the secret, in a time that depends on the length of the guess alone.
    pub(crate) fn is(&self, guess: &str) -> bool {
        self.0.ct_eq(&digest(guess)).into()
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn only_the_secret_is_the_secret() {
        let secret = Secret::new(SECRET).unwrap();
        assert!(secret.is(SECRET));
        for guess in ["", "0", &SECRET[1..], &SECRET[..31], &SECRET.to_uppercase(), &format!("{SECRET}0")] {
            assert!(!secret.is(guess), "{guess}");
        }
        assert!(!format!("{secret:?}").contains("0123"));
    }

    #[test]
    fn what_could_be_guessed_or_not_be_sent_is_refused() {
        assert_eq!(Secret::new("").unwrap_err(), SecretError::TooShort { found: 0 });
        assert_eq!(Secret::new(&SECRET[1..]).unwrap_err(), SecretError::TooShort { found: 31 });
        for bad in [" ", "é", "\n", "\u{7f}"] {
            assert_eq!(
                Secret::new(&format!("{SECRET}{bad}")).unwrap_err(),
                SecretError::NotVisible,
                "{bad:?}"
            );
        }
    }
}
