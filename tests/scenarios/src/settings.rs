//! The settings that a scenario gives its server, as the TOML file that the server reads.
//!
//! Every key is written here and nowhere else.
//!
//! # Invariants
//! Where a scenario says nothing, no limit of a topic class stands in its way; a server that does not know a key refuses to start
//! and names it.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use crate::topics::PREFIX;

/// What tokens are signed with: as good as public, on the loopback address, for as long as a scenario lasts.
pub(crate) const KEY: &str = "the key of a scenario, which is as good as public";
/// What opens the operator's routes.
pub(crate) const ADMIN_TOKEN: &str = "the-operator-of-a-scenario-as-good-as-public";

/// How many pages may be replayed, of all clients together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplayGate {
    pub(crate) pages_per_second: u32,
    pub(crate) pages_at_once: u32,
    pub(crate) replays_at_once: u32,
}

/// What differs between scenarios; the rest is as the server has it by default, or without limit.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Over how long connections are closed at a stop.
    pub(crate) drain_seconds: u32,
    /// How long a connection may take nothing.
    pub(crate) stall_seconds: u32,
    /// How many of the newest updates of a topic are kept. None: all.
    pub(crate) retain_updates: Option<u64>,
    /// None: as the server has it by default.
    pub(crate) replay_gate: Option<ReplayGate>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { drain_seconds: 10, stall_seconds: 30, retain_updates: None, replay_gate: None }
    }
}

impl Settings {
    /// The file's text.
    pub(crate) fn to_toml(&self, listen: SocketAddr, database: &Path) -> String {
        let Self { drain_seconds, stall_seconds, retain_updates, replay_gate } = self;
        let retain_updates =
            retain_updates.map_or_else(|| "\"none\"".to_owned(), |updates| updates.to_string());
        let mut text = format!(
            r#"listen = "{listen}"
database = {database:?}
readiness_grace_seconds = 0
drain_seconds = {drain_seconds}
# Sweeps are by order only.
sweep_interval_seconds = "none"

[[classes]]
name = "scenario"
pattern = "{PREFIX}{{number}}"
read = ["khala:read"]
publish = ["khala:publish"]
tier = "hot"
replay_budget = "none"
publish_rate = "none"
retain = {{age_seconds = "none", updates = {retain_updates}}}
stall_timeout_seconds = {stall_seconds}

[admission]
new_topics_per_subject = "none"

[auth]
hs256_key = "{KEY}"
admin_token = "{ADMIN_TOKEN}"

[log]
filter = "warn"
"#
        );
        if let Some(ReplayGate { pages_per_second, pages_at_once, replays_at_once }) = replay_gate {
            write!(
                text,
                "\n[replay]\nrate = {{per_second = {pages_per_second}, burst = {pages_at_once}}}\n\
                 concurrent_reads = {replays_at_once}\n"
            )
            .expect("a String takes every write");
        }
        text
    }
}
