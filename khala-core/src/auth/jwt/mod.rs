//! JSON Web Tokens (RFC 7519) on the `jsonwebtoken` crate: the keys that are trusted, checking, and signing.
//!
//! Time is checked here and not by the library, because time is an argument. What must stay true: the algorithm
//! belongs to the key. What the token's header says is compared with it and never followed, and neither is an
//! address or a key that the header brings along.

#[cfg(test)]
mod attacks;
mod claims;
mod issuer;
mod jwk;
mod keys;
mod options;
mod pem;
#[cfg(test)]
mod testing;
mod verified;
mod verifier;

pub use self::{
    issuer::JwtIssuer,
    keys::{Key, KeyAlgorithm, KeyError, KeySet, KeySource, StaticKeys},
    options::{ClaimNames, JwtOptions},
    verifier::JwtVerifier,
};

/// The longest token that is looked at, and so the longest that is signed.
const MAX_TOKEN: usize = 8 * 1024;

/// Names the library's provider of cryptography before it is first used.
///
/// It finds one by itself as long as one is compiled in. A host whose other dependencies turn on the second one
/// would otherwise see a panic at the first token. A provider that the host has installed before stays.
fn name_provider() {
    let _ = jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER.install_default();
}
