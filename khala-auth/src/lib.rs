//! Tokens for Khala: JWT keys and key sets, verifying, and issuing. No transport.
//!
//! JSON Web Tokens (RFC 7519) on the `jsonwebtoken` crate. Time is an argument, so it is checked here and not by that
//! crate.
//!
//! # Invariants
//! - The algorithm belongs to the key. What the token's header says is compared with it and never followed, and
//!   neither is an address or a key that the header brings along.
//! - No output shows a key or a token.

mod algorithm;
#[cfg(test)]
mod attacks;
mod bearer;
mod claims;
mod issuer;
mod jwk;
mod key;
mod key_error;
mod key_set;
mod key_source;
pub mod mint;
mod options;
mod pem;
mod secret;
pub mod sources;
#[cfg(test)]
mod testing;
mod verified;
mod verifier;

pub use self::{
    algorithm::KeyAlgorithm,
    bearer::bearer_token,
    issuer::JwtIssuer,
    key::Key,
    key_error::KeyError,
    key_set::KeySet,
    key_source::KeySource,
    options::{ClaimNames, JwtOptions},
    secret::{SecretError, SharedSecret},
    verifier::JwtVerifier,
};
