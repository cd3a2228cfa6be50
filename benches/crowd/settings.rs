//! The settings that a scenario gives its server, as the TOML file that the server reads.
//!
//! Every key is written here and nowhere else. Those that the server has only since its topic classes have limits are
//! written where [`CLASSES_HAVE_LIMITS`] says so; a server that does not know a key refuses to start and names it.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

/// Whether the server knows limits of topic classes, retention and the gate before replays.
pub(super) const CLASSES_HAVE_LIMITS: bool = false;

/// What tokens are signed with: as good as public, on the loopback address, for as long as a scenario lasts.
pub(super) const KEY: &str = "the key of a crowd, which is as good as public";
/// What opens the operator's routes.
pub(super) const ADMIN_TOKEN: &str = "the-operator-of-a-crowd-as-good-as-public";
/// What the topics of a crowd are called before their number.
pub(super) const PREFIX: &str = "crowd:";

/// How many pages may be replayed, of all clients together.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplayGate {
    pub(super) pages_per_second: u32,
    pub(super) pages_at_once: u32,
    pub(super) replays_at_once: u32,
}

/// What differs between scenarios; the rest is as the server has it by default, or without limit.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Over how long connections are closed at a stop.
    pub(super) drain_seconds: u32,
    /// How long a connection may take nothing.
    pub(super) stall_seconds: u32,
    /// How many of the newest updates of a topic are kept. None: all.
    pub(super) retain_updates: Option<u64>,
    /// How often a sweep is due by itself.
    pub(super) sweep_seconds: u32,
    /// None: as the server has it by default.
    pub(super) replay_gate: Option<ReplayGate>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            drain_seconds: 10,
            stall_seconds: 30,
            retain_updates: None,
            sweep_seconds: 3_600,
            replay_gate: None,
        }
    }
}

impl Settings {
    /// The file's text.
    pub(super) fn to_toml(&self, listen: SocketAddr, database: &Path) -> String {
        let Self { drain_seconds, stall_seconds, retain_updates, sweep_seconds, replay_gate } = self;
        let mut top =
            format!("listen = \"{listen}\"\ndatabase = {database:?}\ndrain_seconds = {drain_seconds}\n",);
        let mut class = format!(
            "[[classes]]\nname = \"crowd\"\npattern = \"{PREFIX}{{number}}\"\n\
             read = [\"khala:read\"]\npublish = [\"khala:publish\"]\n",
        );
        let mut sections = format!(
            "[auth]\nhs256_key = \"{KEY}\"\nadmin_token = \"{ADMIN_TOKEN}\"\n\
             [sync]\nstall_seconds = {stall_seconds}\n\
             [log]\nfilter = \"warn\"\n",
        );
        if CLASSES_HAVE_LIMITS {
            let retain_updates =
                retain_updates.map_or_else(|| "\"none\"".to_owned(), |updates| updates.to_string());
            let limits = format!(
                "tier = \"hot\"\nreplay_budget = \"none\"\npublish_per_second = \"none\"\n\
                 retain_for_seconds = \"none\"\nretain_updates = {retain_updates}\nretain_bytes = \"none\"\n\
                 stall_seconds = {stall_seconds}\n",
            );
            class.push_str(&limits);
            // It closes everybody within the drain time, and the time before that is another scenario's.
            top.push_str("unready_seconds = 0\n");
            let sweep = format!("[sweep]\nevery_seconds = {sweep_seconds}\nguard_cursors = \"none\"\n");
            sections.push_str(&sweep);
            if let Some(ReplayGate { pages_per_second, pages_at_once, replays_at_once }) = replay_gate {
                let _ = write!(
                    sections,
                    "[storm]\nreplay_pages = {{per_second = {pages_per_second}, burst = {pages_at_once}}}\n\
                     replays_at_once = {replays_at_once}\n",
                );
            }
        }
        top + &class + &sections
    }
}
