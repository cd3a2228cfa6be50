//! Sources of keys that change while the application runs: a file, an address, or several sources at once.
//!
//! # Invariants
//! - A source keeps its last good set. A file or an address that is gone or wrong takes no key away; the log, the
//!   metrics and the health report show it.
//! - Whatever tokens ask for, an address is fetched at most as often as its options say.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use khala_core::{Khala, MemoryStore};
//! use khala_auth::{JwtOptions, JwtVerifier, sources::{FileKeys, KeyChange, KeyRing, KeySources}};
//!
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let file = FileKeys::open("keys.json", Duration::from_secs(1))?;
//! let ring = KeyRing::new(KeySources { file: Some(file), ..KeySources::default() });
//! let verifier = JwtVerifier::new(Arc::new(ring.clone()), JwtOptions::default());
//! let khala = Khala::builder(MemoryStore::new()).with_verifier(Arc::new(verifier)).build();
//!
//! // Connections end when the key of their token is no longer trusted.
//! let handle = khala.clone();
//! let listener = ring.listen(move |change| match change {
//!     KeyChange::Trusted(kid) => handle.access().trust_key(kid),
//!     KeyChange::Distrusted(kid) => handle.access().distrust_key(kid),
//!     _ => {}
//! });
//! # drop(listener);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "jwks")]
mod address;
mod file;
mod remote;
mod ring;
mod state;

#[cfg(feature = "jwks")]
pub use self::address::{JwksAddress, JwksAddressError};
pub use self::{
    file::FileKeys,
    remote::{FetchKeySet, RemoteKeys, RemoteKeysOptions},
    ring::{KeyChange, KeyListener, KeyRing, KeySources},
};
pub use crate::key_source::KeySource;
