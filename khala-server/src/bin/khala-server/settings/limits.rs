//! Settings of how much there may be: what clients may send and take, how much history is replayed at once, how it is
//! swept.

use std::{
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    time::Duration,
};

use khala_core::{
    admission::{AdmissionOptions, Rate},
    budget::MemoryBudget,
    replay::ReplayOptions,
    retention::SweepOptions,
    session::SessionOptions,
};
use khala_server::Limits;
use serde::{Deserialize, Serialize};

use super::{seconds, values::Limit};

/// What clients may send.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct LimitSettings {
    pub(crate) body_bytes: u32,
    pub(crate) body_seconds: u32,
    pub(crate) frame_bytes: u32,
    pub(crate) header_seconds: u32,
    pub(crate) keep_alive_seconds: u32,
    /// Bytes that the system may buffer for one client.
    pub(crate) send_buffer_bytes: Limit<NonZeroU32>,
    /// Connections open at once, of everybody.
    pub(crate) connections: Limit<NonZeroU32>,
    /// HTTP connections open at once, of everybody and of one address.
    pub(crate) http_connections: Limit<NonZeroU32>,
    pub(crate) http_connections_per_address: Limit<NonZeroU32>,
    /// Requests under way at once.
    pub(crate) requests_per_subject: Limit<NonZeroU32>,
    pub(crate) requests_per_address: Limit<NonZeroU32>,
    /// Bytes that all connections together may hold unsent.
    pub(crate) outbox_bytes: Limit<NonZeroU64>,
    /// Bytes that tail, bodies, answers and unsent frames may take together.
    pub(crate) memory_bytes: Limit<NonZeroU64>,
    pub(crate) connections_per_subject: Limit<NonZeroU32>,
    pub(crate) connections_per_address: Limit<NonZeroU32>,
    pub(crate) connects_per_subject: Limit<Rate>,
    pub(crate) connects_per_address: Limit<Rate>,
    pub(crate) joins_per_connection: Limit<Rate>,
    pub(crate) joins_per_subject: Limit<Rate>,
    pub(crate) joins_per_address: Limit<Rate>,
    pub(crate) frames_per_connection: Limit<Rate>,
    pub(crate) frames_per_subject: Limit<Rate>,
    pub(crate) frames_per_address: Limit<Rate>,
    /// Updates that one subject publishes.
    pub(crate) publishes_per_subject: Limit<Rate>,
    /// Topics that one subject makes.
    pub(crate) new_topics_per_subject: Limit<Rate>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let limits = Limits::default();
        let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let admission = AdmissionOptions::default();
        Self {
            body_bytes: bytes(limits.body_bytes),
            body_seconds: seconds(limits.body_timeout),
            frame_bytes: bytes(limits.frame_bytes),
            header_seconds: seconds(limits.header_timeout),
            keep_alive_seconds: seconds(limits.keep_alive_timeout),
            send_buffer_bytes: Limit(limits.send_buffer_bytes.map(bytes).and_then(NonZeroU32::new)),
            connections: Limit(admission.connections),
            http_connections: Limit(limits.http_connections),
            http_connections_per_address: Limit(limits.http_connections_per_address),
            requests_per_subject: Limit(limits.requests_per_subject),
            requests_per_address: Limit(limits.requests_per_address),
            outbox_bytes: Limit(SessionOptions::default().outbox_bytes.and_then(NonZeroU64::new)),
            memory_bytes: Limit(NonZeroU64::new(MemoryBudget::DEFAULT)),
            connections_per_subject: Limit(admission.connections_per_subject),
            connections_per_address: Limit(admission.connections_per_address),
            connects_per_subject: Limit(admission.connects_per_subject),
            connects_per_address: Limit(admission.connects_per_address),
            joins_per_connection: Limit(admission.joins_per_connection),
            joins_per_subject: Limit(admission.joins_per_subject),
            joins_per_address: Limit(admission.joins_per_address),
            frames_per_connection: Limit(admission.frames_per_connection),
            frames_per_subject: Limit(admission.frames_per_subject),
            frames_per_address: Limit(admission.frames_per_address),
            publishes_per_subject: Limit(admission.publishes_per_subject),
            new_topics_per_subject: Limit(admission.new_topics_per_subject),
        }
    }
}

impl LimitSettings {
    /// The node's budget of memory.
    pub(crate) fn memory(&self) -> MemoryBudget {
        MemoryBudget::new(self.memory_bytes.0.map(NonZeroU64::get))
    }

    /// The limits on connections, subjects and addresses.
    pub(crate) fn admission(&self) -> AdmissionOptions {
        AdmissionOptions {
            connections: self.connections.0,
            connections_per_subject: self.connections_per_subject.0,
            connections_per_address: self.connections_per_address.0,
            connects_per_subject: self.connects_per_subject.0,
            connects_per_address: self.connects_per_address.0,
            joins_per_connection: self.joins_per_connection.0,
            joins_per_subject: self.joins_per_subject.0,
            joins_per_address: self.joins_per_address.0,
            frames_per_connection: self.frames_per_connection.0,
            frames_per_subject: self.frames_per_subject.0,
            frames_per_address: self.frames_per_address.0,
            publishes_per_subject: self.publishes_per_subject.0,
            new_topics_per_subject: self.new_topics_per_subject.0,
        }
    }
}

/// How much history is read at once for those who come back.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct StormSettings {
    /// Pages of history that joins may ask for.
    pub(crate) replay_pages: Limit<Rate>,
    /// Reads for those behind the tail that are under way at once.
    pub(crate) replays_at_once: NonZeroU32,
    /// The longest that somebody who is turned away is told to wait.
    pub(crate) max_retry_after_seconds: NonZeroU32,
    /// Pages of history that are read and sent while somebody appends.
    pub(crate) replay_pages_beside_appends: Limit<Rate>,
}

impl Default for StormSettings {
    fn default() -> Self {
        let options = ReplayOptions::default();
        let at_once = u32::try_from(options.concurrent_reads.get()).unwrap_or(u32::MAX);
        Self {
            replay_pages: Limit(options.rate),
            replays_at_once: NonZeroU32::new(at_once).expect("it is not zero"),
            max_retry_after_seconds: NonZeroU32::new(seconds(options.max_retry_after))
                .expect("it is not zero"),
            replay_pages_beside_appends: Limit(options.rate_while_appending),
        }
    }
}

impl StormSettings {
    pub(crate) fn options(&self) -> ReplayOptions {
        let at_once = NonZeroUsize::try_from(self.replays_at_once).unwrap_or(NonZeroUsize::MAX);
        ReplayOptions {
            rate: self.replay_pages.0,
            concurrent_reads: at_once,
            max_retry_after: Duration::from_secs(self.max_retry_after_seconds.get().into()),
            rate_while_appending: self.replay_pages_beside_appends.0,
        }
    }
}

/// How history that is no longer kept is taken away.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct SweepSettings {
    /// How often. None: never by itself.
    pub(crate) every_seconds: Limit<NonZeroU32>,
    /// How many cursors a sweep may make stale; one that would make more so is held back.
    pub(crate) guard_cursors: Limit<u64>,
    /// How long the cursor of a follower that went counts for that.
    pub(crate) seen_seconds: u32,
    /// How long a topic must have been empty and idle to be retired. None: topics are not retired.
    pub(crate) retire_after_seconds: Limit<u32>,
}

impl Default for SweepSettings {
    fn default() -> Self {
        let SweepOptions { max_stale_cursors, recent_cursor, retire_after, .. } = SweepOptions::default();
        Self {
            every_seconds: Limit(NonZeroU32::new(60)),
            guard_cursors: Limit(max_stale_cursors),
            seen_seconds: seconds(recent_cursor),
            retire_after_seconds: Limit(retire_after.map(seconds)),
        }
    }
}

impl SweepSettings {
    pub(crate) fn every(&self) -> Option<Duration> {
        self.every_seconds.0.map(|seconds| Duration::from_secs(seconds.get().into()))
    }

    pub(crate) fn options(&self) -> SweepOptions {
        SweepOptions {
            max_stale_cursors: self.guard_cursors.0,
            recent_cursor: Duration::from_secs(self.seen_seconds.into()),
            retire_after: self.retire_after_seconds.0.map(|seconds| Duration::from_secs(seconds.into())),
            ..SweepOptions::default()
        }
    }
}
