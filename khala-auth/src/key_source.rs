//! Where a verifier gets its keys from.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use khala_core::{Error, Timestamp};

use crate::key_set::KeySet;

/// Where a verifier gets its keys from.
///
/// ```
/// # use std::sync::{Arc, RwLock};
/// # use async_trait::async_trait;
/// # use khala_auth::{KeySet, sources::KeySource};
/// # use khala_core::{Error, Timestamp};
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
#[derive(Debug)]
pub(crate) struct StaticKeys(pub(crate) Arc<KeySet>);

#[async_trait]
impl KeySource for StaticKeys {
    async fn keys(&self, _: Option<&str>, _: Timestamp) -> Result<Arc<KeySet>, Error> {
        Ok(Arc::clone(&self.0))
    }
}
