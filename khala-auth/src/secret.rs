//! A secret that callers present: kept as a digest, and compared in constant time.
//!
//! # Invariants
//! - Neither the secret nor a guess reaches a log.
//! - A comparison takes as long whatever the guess shares with the secret. Digests have one length, so the length of the
//!   secret does not show.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Bytes of the shortest secret that is taken: 128 random bits in hexadecimal.
const SHORTEST: usize = 32;

/// Why a text cannot be a secret. Its `Display` never holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The text cannot be sent in a header.
    #[error("a secret is of visible ASCII characters, without spaces")]
    NotVisible,
    /// The text could be guessed.
    #[error("a secret needs at least {SHORTEST} characters, not {found}")]
    TooShort {
        /// The characters of the text.
        found: usize,
    },
}

/// A secret that two parties share and that a caller presents, kept as its SHA-256 digest.
#[derive(Clone)]
pub struct SharedSecret([u8; 32]);

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(…)")
    }
}

impl SharedSecret {
    /// The secret of that text.
    ///
    /// # Errors
    /// A [`SecretError`] for a text that is shorter than 32 characters or not of visible ASCII.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::NotVisible);
        }
        if text.len() < SHORTEST {
            return Err(SecretError::TooShort { found: text.len() });
        }
        Ok(Self(digest(text)))
    }

    /// Whether `guess` is the secret, in a time that depends on the length of the guess alone.
    pub fn is(&self, guess: &str) -> bool {
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
        let secret = SharedSecret::new(SECRET).unwrap();
        assert!(secret.is(SECRET));
        for guess in ["", "0", &SECRET[1..], &SECRET[..31], &SECRET.to_uppercase(), &format!("{SECRET}0")] {
            assert!(!secret.is(guess), "{guess}");
        }
        assert!(!format!("{secret:?}").contains("0123"));
    }

    #[test]
    fn what_could_be_guessed_or_not_be_sent_is_refused() {
        assert_eq!(SharedSecret::new("").unwrap_err(), SecretError::TooShort { found: 0 });
        assert_eq!(SharedSecret::new(&SECRET[1..]).unwrap_err(), SecretError::TooShort { found: 31 });
        for bad in [" ", "é", "\n", "\u{7f}"] {
            assert_eq!(
                SharedSecret::new(&format!("{SECRET}{bad}")).unwrap_err(),
                SecretError::NotVisible,
                "{bad:?}"
            );
        }
    }
}
