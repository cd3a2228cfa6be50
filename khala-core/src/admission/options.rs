//! What each connection, principal and address is allowed, and the defaults.

use std::num::NonZeroU32;

use super::rate::Rate;

/// What is allowed. None: no limit.
///
/// A principal is a token's subject. An address is one of IPv4, or a /64 of IPv6, which is what one host is given.
/// Nothing that many share is limited by default: a fleet behind one address, and everybody coming back after a
/// deploy, are ordinary. New topics are the exception: a topic costs the store something for as long as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionOptions {
    /// Connections that may be open at once, of all together.
    pub connections: Option<NonZeroU32>,
    /// Connections that one principal may have open at once.
    pub connections_per_principal: Option<NonZeroU32>,
    /// Connections that one address may have open at once.
    pub connections_per_address: Option<NonZeroU32>,
    /// Connections that one principal may open.
    pub connects_per_principal: Option<Rate>,
    /// Connections that one address may open.
    pub connects_per_address: Option<Rate>,
    /// Joins on one connection.
    pub joins_per_connection: Option<Rate>,
    /// Joins on all connections of one principal.
    pub joins_per_principal: Option<Rate>,
    /// Joins on all connections of one address.
    pub joins_per_address: Option<Rate>,
    /// Frames on one connection.
    pub frames_per_connection: Option<Rate>,
    /// Frames on all connections of one principal.
    pub frames_per_principal: Option<Rate>,
    /// Frames on all connections of one address.
    pub frames_per_address: Option<Rate>,
    /// Updates that one principal publishes to all topics together, by [`publish_as`](crate::Khala::publish_as).
    pub publishes_per_principal: Option<Rate>,
    /// Topics that one principal makes by publishing to them first, by [`publish_as`](crate::Khala::publish_as).
    pub new_topics_per_principal: Option<Rate>,
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
            new_topics_per_principal: Some(const { rate(50, 2_000) }),
            ..Self::unlimited()
        }
    }
}

impl AdmissionOptions {
    /// No limit at all.
    pub const fn unlimited() -> Self {
        Self {
            connections: None,
            connections_per_principal: None,
            connections_per_address: None,
            connects_per_principal: None,
            connects_per_address: None,
            joins_per_connection: None,
            joins_per_principal: None,
            joins_per_address: None,
            frames_per_connection: None,
            frames_per_principal: None,
            frames_per_address: None,
            publishes_per_principal: None,
            new_topics_per_principal: None,
        }
    }

    /// Lets that many connections be open at once, of all together.
    #[must_use]
    pub const fn with_connections(mut self, most: Option<NonZeroU32>) -> Self {
        self.connections = most;
        self
    }

    /// Lets one principal have that many connections open at once.
    #[must_use]
    pub const fn with_connections_per_principal(mut self, most: Option<NonZeroU32>) -> Self {
        self.connections_per_principal = most;
        self
    }

    /// Lets one address have that many connections open at once.
    #[must_use]
    pub const fn with_connections_per_address(mut self, most: Option<NonZeroU32>) -> Self {
        self.connections_per_address = most;
        self
    }

    /// Lets one principal open connections that often.
    #[must_use]
    pub const fn with_connects_per_principal(mut self, rate: Option<Rate>) -> Self {
        self.connects_per_principal = rate;
        self
    }

    /// Lets one address open connections that often.
    #[must_use]
    pub const fn with_connects_per_address(mut self, rate: Option<Rate>) -> Self {
        self.connects_per_address = rate;
        self
    }

    /// Lets one connection join that often.
    #[must_use]
    pub const fn with_joins_per_connection(mut self, rate: Option<Rate>) -> Self {
        self.joins_per_connection = rate;
        self
    }

    /// Lets all connections of one principal together join that often.
    #[must_use]
    pub const fn with_joins_per_principal(mut self, rate: Option<Rate>) -> Self {
        self.joins_per_principal = rate;
        self
    }

    /// Lets all connections of one address together join that often.
    #[must_use]
    pub const fn with_joins_per_address(mut self, rate: Option<Rate>) -> Self {
        self.joins_per_address = rate;
        self
    }

    /// Lets one connection send frames that often.
    #[must_use]
    pub const fn with_frames_per_connection(mut self, rate: Option<Rate>) -> Self {
        self.frames_per_connection = rate;
        self
    }

    /// Lets all connections of one principal together send frames that often.
    #[must_use]
    pub const fn with_frames_per_principal(mut self, rate: Option<Rate>) -> Self {
        self.frames_per_principal = rate;
        self
    }

    /// Lets all connections of one address together send frames that often.
    #[must_use]
    pub const fn with_frames_per_address(mut self, rate: Option<Rate>) -> Self {
        self.frames_per_address = rate;
        self
    }

    /// Lets one principal publish updates that often.
    #[must_use]
    pub const fn with_publishes_per_principal(mut self, rate: Option<Rate>) -> Self {
        self.publishes_per_principal = rate;
        self
    }

    /// Lets one principal make topics that often.
    #[must_use]
    pub const fn with_new_topics_per_principal(mut self, rate: Option<Rate>) -> Self {
        self.new_topics_per_principal = rate;
        self
    }

    pub(super) fn of_principals(self) -> Limits {
        Limits {
            connections: self.connections_per_principal,
            connects: self.connects_per_principal,
            joins: self.joins_per_principal,
            frames: self.frames_per_principal,
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

/// What connections share: the limits of each principal, or of each address.
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
