//! The algorithms that keys sign with, and the provider of cryptography behind them.

use std::{fmt, str::FromStr};

use jsonwebtoken::Algorithm;

use crate::key_error::KeyError;

/// How a key signs (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// EdDSA with Ed25519.
    EdDsa,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// HMAC with SHA-256: a party that can verify can sign.
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

    pub(crate) fn of_library(self) -> Algorithm {
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

/// Names the library's provider of cryptography before it is first used.
///
/// The library finds a provider by itself as long as only one is compiled in. If another dependency of the host turns
/// on the second one, the first token would end in a panic. A provider that the host has installed before stays.
pub(crate) fn name_provider() {
    let _ = jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER.install_default();
}
