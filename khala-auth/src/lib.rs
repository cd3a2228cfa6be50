//! Access tokens for [Khala](khala_core): JWTs that are verified, issued and minted by policy, with keys that rotate without a restart. No
//! transport, but for keys that are fetched over HTTPS (the feature `jwks`).
//!
//! An application that embeds Khala has everything here that the server has:
//!
//! - [`JwtVerifier`] turns a token into a `Grant`, and [`JwtIssuer`] signs tokens. Both take the same [`JwtOptions`].
//! - [`sources`] has keys that change while the application runs: from a file, from an address, or from both.
//! - [`mint`] exchanges a credential that a caller already has for a token, by a policy.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use khala_auth::{
//!     JwtIssuer, JwtOptions, JwtVerifier, KeySet,
//!     mint::{Mint, MintPolicy, MintRequest},
//! };
//! use khala_core::{clock::{Clock, SystemClock}, auth::{Issuer, TokenClaims, Verifier}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A key that signs tokens, and the set of keys that check them.
//! let options = JwtOptions { audience: Some("notes".to_owned()), ..JwtOptions::default() };
//! let secret = b"thirty-two bytes that are secret";
//! let issuer = JwtIssuer::hs256(secret, options.clone())?.with_key_id("2026-11")?;
//! let keys = KeySet::new().with_key(issuer.key().clone())?;
//! let verifier = JwtVerifier::with_keys(keys, options);
//!
//! // Issue a token, and verify it.
//! let now = SystemClock::new().now();
//! let claims = TokenClaims::new("ada", ["khala:read"]);
//! let issued = issuer.issue(&claims, now, Duration::from_secs(900)).await?;
//! let grant = verifier.verify(&issued.token, now).await?;
//! assert_eq!((grant.subject(), grant.key_id()), ("ada", Some("2026-11")));
//!
//! // Mint by policy: a caller gets what its login allows, and no more.
//! let mint = Mint::new(Arc::new(issuer), []);
//! let policy = MintPolicy::for_subject("ada", ["khala:read", "khala:publish"]);
//! let request = MintRequest { scopes: Some(vec!["khala:read".to_owned()]), ..MintRequest::default() };
//! let minted = mint.mint(&policy, &request, now).await?;
//! assert_eq!(verifier.verify(&minted.issued.token, now).await?.scopes(), ["khala:read"]);
//!
//! let request = MintRequest { subject: Some("bob".to_owned()), ..MintRequest::default() };
//! assert!(mint.mint(&policy, &request, now).await.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//! - The algorithm belongs to the key. What a token's header says is compared with it and never followed, and neither is
//!   an address or a key that the header brings along.
//! - Time is an argument, so it is checked here and not by the `jsonwebtoken` crate.
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
    options::{ClaimNames, JwtOptions},
    secret::{SecretError, SharedSecret},
    verifier::JwtVerifier,
};
