//! Where the keys come from that tokens are checked with: a file, an address, or several sources at once.
//!
//! A source keeps the last set that was good. What must stay true: a file or an address that is gone or wrong takes no
//! key away, and is seen in the log and in the metrics; and whatever tokens ask for, an address is asked at most as
//! often as its options say.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use khala_core::{JwtOptions, JwtVerifier, KeySet, Khala, MemoryJournal};
//! use khala_server::keys::{FileKeys, KeyChange, KeyRing};
//!
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let file = FileKeys::open("keys.json", Duration::from_secs(1))?;
//! let ring = KeyRing::builder(KeySet::new()).with_file(file).build();
//! let verifier = JwtVerifier::new(Arc::new(ring.clone()), JwtOptions::default());
//! let khala = Khala::builder(Arc::new(MemoryJournal::new())).with_verifier(Arc::new(verifier)).build();
//!
//! // Connections end when the key of their token is taken away.
//! let handle = khala.clone();
//! let listening = ring.listen(move |change| match change {
//!     KeyChange::Trusted(kid) => handle.restore_key(kid),
//!     KeyChange::Withdrawn(kid) => handle.withdraw_key(kid),
//!     _ => {}
//! });
//! # drop(listening);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "jwks")]
mod fetch;
mod file;
mod held;
#[cfg(feature = "jwks")]
mod jwks;
mod ring;

#[cfg(feature = "jwks")]
pub use self::jwks::{JwksKeys, JwksOptions};
pub use self::{
    file::FileKeys,
    ring::{KeyChange, KeyRing, KeyRingBuilder, Listening},
};

/// Bytes of a key set: more than a hundred RSA keys have.
const MAX_BYTES: usize = 256 << 10;

/// Why a source of keys cannot be used at all. Its `Display` is one line that names the source, and shows no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeysError(String);
