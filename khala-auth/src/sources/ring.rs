//! Several sources of keys as one, and notice of keys that come and go.
//!
//! # Invariants
//! - A listener hears that a key is trusted before a token of that key is accepted, and that a key is distrusted after
//!   no token of that key is accepted any more. So no connection is closed that should stay, and none stays that should
//!   be closed.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use khala_core::{Error, ErrorKind, Timestamp, health::Health, telemetry};
use tokio::time::{Instant, sleep_until};

use super::{FileKeys, RemoteKeys, state::SourceState};
use crate::{key_set::KeySet, key_source::KeySource};

/// How long a key id that lost its key is in quarantine before another key of this id is trusted. A connection knows its
/// key by the id alone, so connections of the first key have to end before the id is good again. A client that was
/// being let in when the key went is in by then: checking its token takes at most five seconds, reading the revocations
/// as long, and the rest of the handshake waits for nobody. A machine that stands still for longer is not covered.
const QUARANTINE: Duration = Duration::from_secs(30);

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyChange<'a> {
    /// Tokens of the key of this id are accepted from now on.
    Trusted(&'a str),
    /// Tokens of the key of this id are no longer accepted.
    Distrusted(&'a str),
}

type Listener = Arc<dyn Fn(KeyChange<'_>) + Send + Sync>;

/// The sources of a [`KeyRing`]. Where two sources have a key of one id, an earlier field wins over a later one.
#[derive(Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct KeySources {
    /// Keys of the configuration. Only here may a key have no id.
    pub configured: KeySet,
    /// Keys of a file.
    pub file: Option<FileKeys>,
    /// Keys of an address.
    pub remote: Option<RemoteKeys>,
}

/// The keys of several sources together. Cloning it gives another handle to the same.
///
/// A key id that lost its key, or was given to another key, is in quarantine for thirty seconds if there is a listener:
/// tokens that name it are neither accepted nor refused meanwhile.
#[derive(Clone, Debug)]
pub struct KeyRing(Arc<Ring>);

struct Ring {
    sources: KeySources,
    merged: Mutex<Merged>,
}

#[derive(Default)]
struct Merged {
    set: Arc<KeySet>,
    /// Key ids that lost their keys, and when their quarantine ends.
    quarantined: HashMap<String, Instant>,
    /// Conflicts that were logged already.
    conflicts: BTreeSet<String>,
    listener: Option<Listener>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("set", &self.merged().set).finish_non_exhaustive()
    }
}

impl KeySources {
    fn states(&self) -> impl Iterator<Item = (&'static str, &SourceState)> {
        let file = self.file.iter().map(|file| ("the file", file.state()));
        file.chain(self.remote.iter().map(|remote| ("the address", remote.state())))
    }

    /// All keys, and what is wrong with having them together.
    fn all(&self) -> (KeySet, BTreeSet<String>) {
        let mut all = self.configured.clone();
        let mut conflicts = BTreeSet::new();
        for (name, state) in self.states() {
            let Some(set) = state.set() else { continue };
            if set.key(None).is_some() {
                conflicts.insert(format!("a key of {name} has no name and is left out"));
            }
            for kid in set.kids() {
                let Some(key) = set.key(Some(kid)) else { continue };
                match all.key(Some(kid)) {
                    Some(other) if other == key => {}
                    Some(_) => {
                        conflicts.insert(format!(
                            "the key {kid:?} of {name} is left out: another of this name comes first"
                        ));
                    }
                    None => match all.clone().with_key(key.clone()) {
                        Ok(more) => all = more,
                        Err(fault) => {
                            conflicts.insert(format!("a key of {name} is left out: {fault}"));
                        }
                    },
                }
            }
        }
        (all, conflicts)
    }
}

impl KeyRing {
    /// A ring of these sources.
    pub fn new(sources: KeySources) -> Self {
        if !sources.configured.is_empty() {
            telemetry::keys_held("configuration", sources.configured.len());
            telemetry::keys_read("configuration", "loaded");
        }
        let ring = Arc::new(Ring { sources, merged: Mutex::default() });
        for (_, state) in ring.sources.states() {
            let ring = Arc::downgrade(&ring);
            state.on_change(move || {
                if let Some(ring) = ring.upgrade() {
                    ring.merge();
                }
            });
        }
        ring.merge();
        Self(ring)
    }

    /// Calls `listener` for each key that comes or goes from now on, instead of an earlier listener, until the returned
    /// guard is dropped.
    ///
    /// The ring is locked during the call: the listener has to be quick, and must not use the ring.
    pub fn listen(&self, listener: impl Fn(KeyChange<'_>) + Send + Sync + 'static) -> KeyListener {
        let listener: Listener = Arc::new(listener);
        self.0.merged().listener = Some(Arc::clone(&listener));
        KeyListener { ring: Arc::downgrade(&self.0), listener }
    }

    /// Reports the sources to `health`: failed where no key was ever loaded and no other source has keys, degraded where
    /// a source cannot be read.
    pub fn report_to(&self, health: &Health) {
        let sources = &self.0.sources;
        let needed = sources.configured.is_empty() && sources.states().count() == 1;
        for (_, state) in sources.states() {
            state.report_to(health, needed);
        }
    }

    /// Reads the file and fetches from the address now. Ready when both are done.
    pub async fn reload(&self) {
        if let Some(file) = &self.0.sources.file {
            file.reload().await;
        }
        if let Some(remote) = &self.0.sources.remote {
            remote.reload().await;
        }
    }
}

/// Keeps a listener of a [`KeyRing`] registered until it is dropped.
pub struct KeyListener {
    ring: Weak<Ring>,
    listener: Listener,
}

impl fmt::Debug for KeyListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyListener").finish_non_exhaustive()
    }
}

impl Drop for KeyListener {
    fn drop(&mut self) {
        let Some(ring) = self.ring.upgrade() else { return };
        let mut merged = ring.merged();
        if merged.listener.as_ref().is_some_and(|listener| Arc::ptr_eq(listener, &self.listener)) {
            let listener = merged.listener.take();
            // The listener may hold the last handle of the ring's owner.
            drop(merged);
            drop(listener);
        }
    }
}

impl Ring {
    fn merged(&self) -> MutexGuard<'_, Merged> {
        self.merged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn merge(self: &Arc<Self>) {
        let mut merged = self.merged();
        let now = Instant::now();
        let (wanted, conflicts) = self.sources.all();
        for conflict in conflicts.difference(&merged.conflicts) {
            tracing::warn!("{conflict}");
        }
        merged.conflicts = conflicts;

        let old = Arc::clone(&merged.set);
        let distrusted: Vec<&str> = old.distrusted_by(&wanted).collect();
        merged.quarantined.retain(|_, until| *until > now);
        let listener = merged.listener.clone();
        if listener.is_some() {
            merged.quarantined.extend(distrusted.iter().map(|kid| ((*kid).to_owned(), now + QUARANTINE)));
        }
        let set = Arc::new(merged.outside_quarantine(&wanted));
        let tell = |change| {
            if let Some(listener) = &listener {
                listener(change);
            }
        };
        for kid in set.kids().filter(|kid| old.key(Some(kid)).is_none()) {
            tell(KeyChange::Trusted(kid));
        }
        merged.set = Arc::clone(&set);
        for kid in distrusted {
            tracing::info!(kid, "a key is no longer trusted");
            tell(KeyChange::Distrusted(kid));
        }
        if let Some(next) = merged.quarantined.values().min().copied() {
            let ring = Arc::downgrade(self);
            tokio::spawn(async move {
                sleep_until(next).await;
                if let Some(ring) = ring.upgrade() {
                    ring.merge();
                }
            });
        }
    }
}

impl Merged {
    /// `all` without the keys whose ids are in quarantine.
    fn outside_quarantine(&self, all: &KeySet) -> KeySet {
        let kids = all.kids().filter(|kid| !self.quarantined.contains_key(*kid)).map(Some);
        let keys = kids.chain([None]).filter_map(|kid| all.key(kid).cloned());
        keys.fold(KeySet::new(), |set, key| set.with_key(key).expect("they were in a set together"))
    }
}

#[async_trait]
impl KeySource for KeyRing {
    async fn keys(&self, wanted: Option<&str>, now: Timestamp) -> Result<Arc<KeySet>, Error> {
        let Self(ring) = self;
        let Some(kid) = wanted else { return Ok(Arc::clone(&ring.merged().set)) };
        {
            let merged = ring.merged();
            if merged.set.key(wanted).is_some() {
                return Ok(Arc::clone(&merged.set));
            }
            if merged.quarantined.contains_key(kid) && ring.sources.all().0.key(wanted).is_some() {
                let message = "the key of this name was just replaced";
                return Err(Error::new(ErrorKind::Unavailable, "keys", message));
            }
        }
        if let Some(remote) = &ring.sources.remote {
            remote.keys(wanted, now).await?;
        }
        Ok(Arc::clone(&ring.merged().set))
    }
}
