//! What a source holds, and how it stands with it: the state that the log and the metrics show.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use khala_core::{
    KeySet, SystemClock,
    health::{Condition, Health, Part, supervise},
    telemetry,
};
use tokio::{task::JoinHandle, time::Instant};

type Hook = Box<dyn Fn() + Send + Sync>;

/// The last good set of a source.
pub(super) struct Held {
    /// The source in the metrics.
    label: &'static str,
    /// The source in the log.
    name: String,
    state: Mutex<State>,
    hooks: Mutex<Vec<Hook>>,
    /// Where it tells how it is, and whether nobody is let in without its keys.
    told: Mutex<Option<(Part, bool)>>,
}

#[derive(Default)]
struct State {
    set: Option<Arc<KeySet>>,
    confirmed_at: Option<Instant>,
    /// What was wrong when it was last looked at.
    fault: Option<String>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("name", &self.name).field("set", &self.set()).finish_non_exhaustive()
    }
}

impl Held {
    pub(super) fn new(label: &'static str, name: String) -> Self {
        Self { label, name, state: Mutex::default(), hooks: Mutex::default(), told: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self) -> Option<Arc<KeySet>> {
        self.state().set.clone()
    }

    /// What was wrong when it was last looked at.
    #[cfg(feature = "jwks")]
    pub(super) fn fault(&self) -> Option<String> {
        self.state().fault.clone()
    }

    /// Tells `health` how it is, now and at each change. While it is `needed` and never had a key, it has failed; otherwise
    /// the node does without what it cannot read.
    pub(super) fn report_to(&self, health: &Health, needed: bool) {
        let part = health.part(match self.label {
            "credential" => "credential_keys",
            "file" => "file_keys",
            _ => "jwks_keys",
        });
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some((part, needed));
        self.tell();
    }

    /// Without the address and the fault: both are in the log, and readiness is told to anybody.
    fn tell(&self) {
        let (loaded, good) = {
            let state = self.state();
            (state.set.is_some(), state.fault.is_none())
        };
        if let Some((part, needed)) = &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            let label = self.label;
            part.set(match (loaded, good) {
                (true, true) => Condition::Healthy,
                (true, false) => Condition::Degraded(format!(
                    "the keys of {label} cannot be read; those of before hold; the server's log says why"
                )),
                (false, _) => {
                    let reason = format!("no keys of {label} were ever loaded; the server's log says why");
                    if *needed { Condition::Failed(reason) } else { Condition::Degraded(reason) }
                }
            });
        }
    }

    /// Calls `hook` whenever the set has changed, before whoever looked at the source goes on.
    pub(super) fn on_change(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// The source says what it said before.
    pub(super) fn unchanged(&self) {
        telemetry::keys_read(self.label, "unchanged");
        self.confirm();
    }

    /// The source says this.
    pub(super) fn loaded(&self, set: KeySet) {
        if self.set().as_deref() == Some(&set) {
            return self.unchanged();
        }
        telemetry::keys_read(self.label, "loaded");
        telemetry::keys_held(self.label, set.len());
        let kids: Vec<_> = set.kids().collect();
        tracing::info!(source = self.name, keys = set.len(), ?kids, "keys loaded");
        self.state().set = Some(Arc::new(set));
        self.confirm();
        for hook in &*self.hooks.lock().unwrap_or_else(PoisonError::into_inner) {
            hook();
        }
    }

    fn confirm(&self) {
        let mut state = self.state();
        state.confirmed_at = Some(Instant::now());
        if state.fault.take().is_some() {
            tracing::info!(source = self.name, "the keys can be read again");
        }
        drop(state);
        self.tell();
        self.report_age();
    }

    /// The source says nothing that can be used. What it said before holds.
    pub(super) fn failed(&self, fault: String) {
        telemetry::keys_read(self.label, "failed");
        let mut state = self.state();
        if state.fault.as_ref() != Some(&fault) {
            let keys = state.set.as_ref().map_or(0, |set| set.len());
            tracing::warn!(source = self.name, fault, keys, "the keys cannot be read; those of before hold");
            state.fault = Some(fault);
        }
        drop(state);
        self.tell();
        self.report_age();
    }

    /// Tells the metrics how old the set is.
    pub(super) fn report_age(&self) {
        if let Some(confirmed_at) = self.state().confirmed_at {
            telemetry::keys_age(self.label, confirmed_at.elapsed().as_secs_f64());
        }
    }
}

/// Runs what looks at a source, for ever. How the source is, it says itself; here are counted its restarts.
pub(super) async fn keep_looking<Fut: Future<Output = ()>>(look: impl FnMut() -> Fut) {
    let part = Health::new().part("key_source");
    supervise(&part, &SystemClock::new(), Condition::Degraded, look).await;
}

/// Ends a task with the last of those who hold this.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
