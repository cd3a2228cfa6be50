//! Several sources of keys as one, and word of what comes and goes.
//!
//! What must stay true: a key is told to be trusted before a token of it is accepted, and one is told to be withdrawn
//! after no token of it is accepted any more. So nobody is closed who should stay, and nobody stays who should not.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use khala_core::{Error, ErrorKind, KeySet, KeySource, Timestamp, health::Health, telemetry};
use tokio::time::{Instant, sleep_until};

#[cfg(feature = "jwks")]
use super::JwksKeys;
use super::{FileKeys, held::Held};

/// How long a name rests that lost its key, before another key has it. What a connection knows of its key is the name,
/// so one that stands on the first key has to be ended before the name is good again. Whoever is let in just when the
/// key goes is in by then: checking the token takes at most five seconds, reading the revocations as long, and what is
/// left of the handshake waits for nobody. A machine that stands still for longer is not covered.
const REST: Duration = Duration::from_secs(30);

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyChange<'a> {
    /// Tokens of the key of this name are accepted from now on.
    Trusted(&'a str),
    /// They no longer are.
    Withdrawn(&'a str),
}

type Listener = Arc<dyn Fn(KeyChange<'_>) + Send + Sync>;

/// The keys of configuration, a file and an address together. Cloning it gives another handle to the same.
///
/// Where two have a key of one name, configuration wins over the file, and the file over the address. A key without a
/// name comes from configuration only. A name that lost its key, or was given to another, rests for thirty
/// seconds before it is trusted again, if anybody listens; tokens that name it are neither accepted nor refused meanwhile.
#[derive(Clone, Debug)]
pub struct KeyRing(Arc<Ring>);

/// Makes a [`KeyRing`].
#[derive(Debug)]
pub struct KeyRingBuilder {
    configured: KeySet,
    file: Option<FileKeys>,
    #[cfg(feature = "jwks")]
    jwks: Option<JwksKeys>,
}

struct Ring {
    sources: KeyRingBuilder,
    merged: Mutex<Merged>,
}

#[derive(Default)]
struct Merged {
    set: Arc<KeySet>,
    /// Names that lost their keys, and until when they rest.
    resting: HashMap<String, Instant>,
    /// What was warned of already.
    conflicts: BTreeSet<String>,
    listener: Option<Listener>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("set", &self.merged().set).finish_non_exhaustive()
    }
}

impl KeyRingBuilder {
    /// Takes the keys of a file too.
    #[must_use]
    pub fn with_file(mut self, file: FileKeys) -> Self {
        self.file = Some(file);
        self
    }

    /// Takes the keys of an address too.
    #[cfg(feature = "jwks")]
    #[must_use]
    pub fn with_jwks(mut self, jwks: JwksKeys) -> Self {
        self.jwks = Some(jwks);
        self
    }

    /// The ring.
    pub fn build(self) -> KeyRing {
        if !self.configured.is_empty() {
            telemetry::keys_held("configuration", self.configured.len());
            telemetry::keys_read("configuration", "loaded");
        }
        let ring = Arc::new(Ring { sources: self, merged: Mutex::default() });
        for (_, held) in ring.sources.held() {
            let ring = Arc::downgrade(&ring);
            held.on_change(move || {
                if let Some(ring) = ring.upgrade() {
                    ring.merge();
                }
            });
        }
        ring.merge();
        KeyRing(ring)
    }

    fn held(&self) -> Vec<(&'static str, &Held)> {
        #[cfg(feature = "jwks")]
        let jwks = self.jwks.as_ref().map(|jwks| ("the address", jwks.held()));
        #[cfg(not(feature = "jwks"))]
        let jwks = None;
        self.file.iter().map(|file| ("the file", file.held())).chain(jwks).collect()
    }

    /// All keys, and what is wrong with having them together.
    fn all(&self) -> (KeySet, BTreeSet<String>) {
        let mut all = self.configured.clone();
        let mut conflicts = BTreeSet::new();
        for (name, held) in self.held() {
            let Some(set) = held.set() else { continue };
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
    /// Starts to make a ring of these keys and what else is said.
    pub fn builder(configured: KeySet) -> KeyRingBuilder {
        KeyRingBuilder {
            configured,
            file: None,
            #[cfg(feature = "jwks")]
            jwks: None,
        }
    }

    /// Tells `listener` what comes and goes from now on, in the place of an earlier one, until what this gives is
    /// dropped.
    ///
    /// It is called with the ring's lock held: it has to be quick, and must not ask the ring.
    pub fn listen(&self, listener: impl Fn(KeyChange<'_>) + Send + Sync + 'static) -> Listening {
        let listener: Listener = Arc::new(listener);
        self.0.merged().listener = Some(Arc::clone(&listener));
        Listening { ring: Arc::downgrade(&self.0), listener }
    }

    /// Tells `health` how the sources are: failed where no key was ever loaded, degraded where one cannot be read.
    pub fn report_to(&self, health: &Health) {
        let sources = &self.0.sources;
        let held = sources.held();
        let needed = sources.configured.is_empty() && held.len() == 1;
        for (_, held) in held {
            held.report_to(health, needed);
        }
    }

    /// Reads the file and asks the address now. Ready when both are done.
    pub async fn reload(&self) {
        if let Some(file) = &self.0.sources.file {
            file.reload().await;
        }
        #[cfg(feature = "jwks")]
        if let Some(jwks) = &self.0.sources.jwks {
            jwks.reload().await;
        }
    }
}

/// Somebody listens for as long as this is there.
pub struct Listening {
    ring: Weak<Ring>,
    listener: Listener,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").finish_non_exhaustive()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Some(ring) = self.ring.upgrade() else { return };
        let mut merged = ring.merged();
        if merged.listener.as_ref().is_some_and(|listener| Arc::ptr_eq(listener, &self.listener)) {
            let listener = merged.listener.take();
            // It may hold the last handle of whatever holds this ring.
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
        let withdrawn: Vec<&str> = old.withdrawn_by(&wanted).collect();
        merged.resting.retain(|_, until| *until > now);
        let listener = merged.listener.clone();
        if listener.is_some() {
            merged.resting.extend(withdrawn.iter().map(|kid| ((*kid).to_owned(), now + REST)));
        }
        let set = Arc::new(merged.awake(&wanted));
        let tell = |change| {
            if let Some(listener) = &listener {
                listener(change);
            }
        };
        for kid in set.kids().filter(|kid| old.key(Some(kid)).is_none()) {
            tell(KeyChange::Trusted(kid));
        }
        merged.set = Arc::clone(&set);
        for kid in withdrawn {
            tracing::info!(kid, "a key is no longer trusted");
            tell(KeyChange::Withdrawn(kid));
        }
        if let Some(next) = merged.resting.values().min().copied() {
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
    /// `all` without those whose names rest.
    fn awake(&self, all: &KeySet) -> KeySet {
        let awake = all.kids().filter(|kid| !self.resting.contains_key(*kid)).map(Some);
        let keys = awake.chain([None]).filter_map(|kid| all.key(kid).cloned());
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
            if merged.resting.contains_key(kid) && ring.sources.all().0.key(wanted).is_some() {
                let message = "the key of this name was just replaced";
                return Err(Error::new(ErrorKind::Unavailable, "keys", message));
            }
        }
        #[cfg(feature = "jwks")]
        if let Some(jwks) = &ring.sources.jwks {
            jwks.keys(wanted, now).await?;
        }
        #[cfg(not(feature = "jwks"))]
        let _ = now;
        Ok(Arc::clone(&ring.merged().set))
    }
}
