//! What each connection, subject and address is allowed, and the defaults.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::rate::Rate;
use crate::config::or_none;

/// What is allowed. None: no limit.
///
/// A subject is a token's subject. An address is one of IPv4, or a /64 of IPv6, which is what one host is given.
/// Nothing that many share is limited by default: a fleet behind one address, and everybody coming back after a
/// deploy, are ordinary. New topics are the exception: a topic costs the store something for as long as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct AdmissionOptions {
    /// The most WebSockets and sessions of long polling that are open at once, of all clients. Example: `20_000`.
    #[serde(with = "or_none")]
    pub connections: Option<NonZeroU32>,
    /// The most WebSockets and sessions of long polling of one token's `sub` that are open at once. Example: `50`.
    #[serde(with = "or_none")]
    pub connections_per_subject: Option<NonZeroU32>,
    /// The most WebSockets and sessions of long polling of one address (IPv6: one /64) that are open at once.
    /// Example: `1000`.
    #[serde(with = "or_none")]
    pub connections_per_address: Option<NonZeroU32>,
    /// The rate at which one `sub` may open WebSockets and sessions of long polling. Example: `{per_second = 5, burst = 50}`.
    #[serde(with = "or_none")]
    pub connects_per_subject: Option<Rate>,
    /// The rate at which one address may open WebSockets and sessions of long polling.
    /// Example: `{per_second = 50, burst = 500}`.
    #[serde(with = "or_none")]
    pub connects_per_address: Option<Rate>,
    /// The rate of joins on one connection.
    #[serde(with = "or_none")]
    pub joins_per_connection: Option<Rate>,
    /// The rate of joins on all connections of one `sub` together. Example: `{per_second = 200, burst = 4000}`.
    #[serde(with = "or_none")]
    pub joins_per_subject: Option<Rate>,
    /// The rate of joins on all connections of one address together. Example:
    /// `{per_second = 2000, burst = 40_000}`.
    #[serde(with = "or_none")]
    pub joins_per_address: Option<Rate>,
    /// The rate of frames from a client on one connection: text, pings, pongs, and each fragment of a message.
    #[serde(with = "or_none")]
    pub frames_per_connection: Option<Rate>,
    /// The rate of frames on all connections of one `sub` together. Example:
    /// `{per_second = 1000, burst = 20_000}`.
    #[serde(with = "or_none")]
    pub frames_per_subject: Option<Rate>,
    /// The rate of frames on all connections of one address together. Example:
    /// `{per_second = 10_000, burst = 200_000}`.
    #[serde(with = "or_none")]
    pub frames_per_address: Option<Rate>,
    /// The rate at which one `sub` may publish updates over HTTP (by [`publish_as`](crate::Khala::publish_as)),
    /// to all topics together, on each node. Example: `{per_second = 500, burst = 5000}`.
    #[serde(with = "or_none")]
    pub publishes_per_subject: Option<Rate>,
    /// The rate at which one `sub` may create topics over HTTP (by [`publish_as`](crate::Khala::publish_as)),
    /// by publishing the first update to each of them, on each node.
    #[serde(with = "or_none")]
    pub new_topics_per_subject: Option<Rate>,
}

impl Default for AdmissionOptions {
    fn default() -> Self {
        const fn rate(per_second: u32, burst: u32) -> Rate {
            let per_second = NonZeroU32::new(per_second).expect("the rates below are not zero");
            Rate::new(per_second, NonZeroU32::new(burst).expect("the bursts below are not zero"))
        }
        Self {
            joins_per_connection: Some(const { rate(200, 2_048) }),
            frames_per_connection: Some(const { rate(500, 8_192) }),
            new_topics_per_subject: Some(const { rate(50, 2_000) }),
            ..Self::unlimited()
        }
    }
}

impl AdmissionOptions {
    /// No limit at all.
    pub const fn unlimited() -> Self {
        Self {
            connections: None,
            connections_per_subject: None,
            connections_per_address: None,
            connects_per_subject: None,
            connects_per_address: None,
            joins_per_connection: None,
            joins_per_subject: None,
            joins_per_address: None,
            frames_per_connection: None,
            frames_per_subject: None,
            frames_per_address: None,
            publishes_per_subject: None,
            new_topics_per_subject: None,
        }
    }

    pub(super) fn of_subjects(self) -> Limits {
        Limits {
            connections: self.connections_per_subject,
            connects: self.connects_per_subject,
            joins: self.joins_per_subject,
            frames: self.frames_per_subject,
        }
    }

    pub(super) fn of_addresses(self) -> Limits {
        Limits {
            connections: self.connections_per_address,
            connects: self.connects_per_address,
            joins: self.joins_per_address,
            frames: self.frames_per_address,
        }
    }
}

/// What connections share: the limits of each subject, or of each address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) connections: Option<NonZeroU32>,
    pub(super) connects: Option<Rate>,
    pub(super) joins: Option<Rate>,
    pub(super) frames: Option<Rate>,
}

impl Limits {
    pub(super) fn any(self) -> bool {
        let Self { connections, connects, joins, frames } = self;
        connections.is_some() || connects.is_some() || joins.is_some() || frames.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::assert_options;

    #[test]
    fn they_can_stand_in_a_settings_file() {
        assert_options::<AdmissionOptions>();
    }
}
