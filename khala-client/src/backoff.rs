//! How long to wait before trying again: exponential, bounded and jittered. Pure: the randomness is an argument.

use std::time::Duration;

use khala_core::config::seconds;
use serde::{Deserialize, Serialize};

/// The waits between attempts.
///
/// The first is up to `first`, each further one up to twice as long as the one before, none longer than `most`;
/// each is drawn between half of that and the whole, so that clients that were cut off together do not come
/// back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct Backoff {
    /// The longest that the first wait may be.
    #[serde(rename = "first_seconds", with = "seconds")]
    pub first: Duration,
    /// The longest that any wait may be, unless the server names a longer one. Where coming back soon is no use, it
    /// is the shortest.
    #[serde(rename = "most_seconds", with = "seconds")]
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(200), most: Duration::from_secs(15) }
    }
}

impl Backoff {
    /// The wait before the attempt that follows `failures` failures in a row, where the server wants `at_least`.
    ///
    /// What the server asks for is never undercut: the jitter is added to it.
    pub fn wait(&self, failures: u32, at_least: Option<Duration>, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let longest = self.first.saturating_mul(1 << doublings).min(self.most);
        let unit = unit(random);
        match at_least {
            None => longest.mul_f64(0.5 + unit / 2.0),
            Some(wait) => wait.saturating_add(longest.min(wait.max(self.first)).mul_f64(unit)),
        }
    }
}

/// Of random bits, a number from 0 up to and without 1.
pub(crate) fn unit(random: u64) -> f64 {
    // 53 bits are what a double holds exactly.
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// Random bits for jitter; none of it has to be secret.
pub(crate) fn random() -> u64 {
    // Without randomness there is no jitter, which costs time and not correctness.
    getrandom::u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_bounded_and_never_undercuts_the_server(failures in 0u32..100, asked in proptest::option::of(0u64..100_000), random: u64) {
            let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };
            let asked = asked.map(Duration::from_millis);
            let wait = backoff.wait(failures, asked, random);
            match asked {
                None => prop_assert!(wait >= Duration::from_millis(50) && wait <= backoff.most),
                Some(asked) => prop_assert!(wait >= asked && wait <= asked + backoff.most),
            }
        }
    }

    #[test]
    fn waits_double() {
        let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };
        let longest = |failures| backoff.wait(failures, None, u64::MAX).as_millis();
        assert_eq!([1, 2, 3, 4].map(longest), [100, 200, 400, 800]);
        assert_eq!(longest(60), 5000);
    }
}
