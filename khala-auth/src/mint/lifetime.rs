//! How long minted tokens are good.

use std::time::Duration;

use khala_core::Timestamp;

use super::MintError;

/// How long minted tokens are good: bounds for what a caller asks, and the time for a caller that does not ask. Whole
/// seconds. By default a minute, an hour, and a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLifetime {
    min: Duration,
    default: Duration,
    max: Duration,
}

/// Bounds that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the shortest lifetime is at least a second and at most the default, which is at most the longest one"
)]
#[non_exhaustive]
pub struct InvalidLifetime;

impl Default for TokenLifetime {
    fn default() -> Self {
        let [min, default, max] = [60, 60 * 60, 24 * 60 * 60].map(Duration::from_secs);
        Self { min, default, max }
    }
}

impl TokenLifetime {
    /// These bounds, in whole seconds.
    ///
    /// The issuer may have a bound of its own, as that of JSON Web Tokens has with `max_age`: `max` has to be within it,
    /// or asking for more ends in an error of the issuer.
    ///
    /// # Errors
    /// [`InvalidLifetime`] unless one second <= `min` <= `default` <= `max`.
    pub fn new(min: Duration, default: Duration, max: Duration) -> Result<Self, InvalidLifetime> {
        if min < Duration::from_secs(1) || default < min || max < default {
            return Err(InvalidLifetime);
        }
        let [min, default, max] = [min, default, max].map(|time| Duration::from_secs(time.as_secs()));
        Ok(Self { min, default, max })
    }

    /// The lifetime of a token for which `requested` seconds are asked, and that ends at `expires_at` at the latest.
    pub(super) fn decide(
        &self,
        requested: Option<u64>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Duration, MintError> {
        let Self { min, default, max } = *self;
        let rest = expires_at.map_or(max, |end| Duration::from_secs(end.since(now).as_secs()));
        if rest < min {
            return Err(MintError::CredentialExpiring);
        }
        let max = max.min(rest);
        let Some(seconds) = requested else { return Ok(default.min(max)) };
        let lifetime = Duration::from_secs(seconds);
        if (min..=max).contains(&lifetime) {
            return Ok(lifetime);
        }
        Err(MintError::InvalidLifetime { seconds, min: min.as_secs(), max: max.as_secs() })
    }
}
