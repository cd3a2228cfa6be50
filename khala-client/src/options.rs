//! How a client waits, retries and keeps its connections alive: data, with the defaults.

use std::time::Duration;

use khala_core::config::{seconds, seconds_or_none};
use serde::{Deserialize, Serialize};

use crate::{backoff::Backoff, error::Error};

/// How a client waits, retries and keeps its connections alive.
///
/// ```
/// use std::time::Duration;
///
/// use khala_client::{Client, ClientOptions};
///
/// let options = ClientOptions { retry_for: Some(Duration::from_secs(5)), ..ClientOptions::default() };
/// let client = Client::builder("http://127.0.0.1:4510").options(options).build()?;
/// # Ok::<_, khala_client::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct ClientOptions {
    /// The waits between attempts. Default: 200 ms, doubling up to 15 s.
    pub backoff: Backoff,
    /// How long opening a connection may take. Default: 10 s.
    #[serde(rename = "connect_timeout_seconds", with = "seconds")]
    pub connect_timeout: Duration,
    /// How long the answer to a request or a join may take. Default: 30 s.
    #[serde(rename = "answer_timeout_seconds", with = "seconds")]
    pub answer_timeout: Duration,
    /// How often a subscription sends a heartbeat. Default: 25 s.
    #[serde(rename = "heartbeat_interval_seconds", with = "seconds")]
    pub heartbeat_interval: Duration,
    /// How soon after a heartbeat anything must be heard before the connection counts as dead. Default: 10 s.
    #[serde(rename = "heartbeat_timeout_seconds", with = "seconds")]
    pub heartbeat_timeout: Duration,
    /// For how long a call is tried again while the server is away or busy. None: for as long as it takes. Default: one
    /// minute. A subscription always goes on; it tells of it by [`on_retry`](crate::ClientBuilder::on_retry).
    #[serde(rename = "retry_for_seconds", with = "seconds_or_none")]
    pub retry_for: Option<Duration>,
    /// After which share of a token's remaining time, between 0 and 1, its source is asked for the next token. Up to a tenth
    /// of the wait is cut off at random. Default: 0.8.
    pub renewal_share: f64,
    /// How long before a token's end its source is asked at the latest, where that leaves half of the time. Default: 30 s.
    #[serde(rename = "renewal_margin_seconds", with = "seconds")]
    pub renewal_margin: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(25),
            heartbeat_timeout: Duration::from_secs(10),
            retry_for: Some(Duration::from_secs(60)),
            renewal_share: 0.8,
            renewal_margin: Duration::from_secs(30),
        }
    }
}

impl ClientOptions {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.renewal_share > 0.0 && self.renewal_share < 1.0 {
            return Ok(());
        }
        Err(Error::Settings(format!(
            "a token cannot be renewed after {} of its time; say a share between 0 and 1",
            self.renewal_share
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        let of = |text: &str| serde_json::from_str::<ClientOptions>(text);
        let defaults = ClientOptions::default();
        assert_eq!(of("{}").unwrap(), defaults);
        assert_eq!(of(&serde_json::to_string(&defaults).unwrap()).unwrap(), defaults);
        let first = Duration::from_millis(50);
        let set =
            ClientOptions { backoff: Backoff { first, ..Backoff::default() }, retry_for: None, ..defaults };
        let text = r#"{"backoff": {"first_seconds": 0.05}, "retry_for_seconds": "none"}"#;
        assert_eq!(of(text).unwrap(), set);
        for unknown in [r#"{"retry": 1}"#, r#"{"backoff": {"fist_seconds": 1}}"#] {
            assert!(of(unknown).unwrap_err().to_string().contains("unknown field"));
        }
    }

    #[test]
    fn a_share_is_between_0_and_1() {
        for renewal_share in [0.0, 1.0, -0.5, f64::NAN, f64::INFINITY] {
            let options = ClientOptions { renewal_share, ..ClientOptions::default() };
            assert!(options.check().is_err(), "{renewal_share}");
        }
        assert!(ClientOptions::default().check().is_ok());
    }
}
