//! The state of a source: its last good set, and what was wrong when the source was last read. The log, the metrics and
//! the health report show it.
//!
//! # Invariants
//! - A fault never takes a set away.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use khala_core::{
    clock::SystemClock,
    health::{Condition, Health, Part, supervise},
    telemetry,
};
use tokio::{task::JoinHandle, time::Instant};

use crate::key_set::KeySet;

/// The most bytes of a key set: more than a hundred RSA keys need.
pub(super) const MAX_BYTES: usize = 256 << 10;

type Hook = Box<dyn Fn() + Send + Sync>;

/// The state of one source.
pub(super) struct SourceState {
    /// The source in the metrics.
    label: &'static str,
    /// The source in the log.
    name: String,
    last_read: Mutex<LastRead>,
    hooks: Mutex<Vec<Hook>>,
    /// The source's part of the health report, and whether every token is refused without these keys.
    health: Mutex<Option<(Part, bool)>>,
}

#[derive(Default)]
struct LastRead {
    /// The last good set.
    set: Option<Arc<KeySet>>,
    confirmed_at: Option<Instant>,
    /// What was wrong when the source was last read.
    fault: Option<String>,
}

impl fmt::Debug for SourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceState")
            .field("name", &self.name)
            .field("set", &self.set())
            .finish_non_exhaustive()
    }
}

impl SourceState {
    pub(super) fn new(label: &'static str, name: String) -> Self {
        Self { label, name, last_read: Mutex::default(), hooks: Mutex::default(), health: Mutex::default() }
    }

    fn last_read(&self) -> MutexGuard<'_, LastRead> {
        self.last_read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self) -> Option<Arc<KeySet>> {
        self.last_read().set.clone()
    }

    /// What was wrong when the source was last read.
    pub(super) fn fault(&self) -> Option<String> {
        self.last_read().fault.clone()
    }

    /// Reports to `health`, now and at each change. A source that is `needed` and never had a key has failed; any other
    /// source that cannot be read is degraded.
    pub(super) fn report_to(&self, health: &Health, needed: bool) {
        let part = health.part(match self.label {
            "credential" => "credential_keys",
            "file" => "file_keys",
            _ => "jwks_keys",
        });
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = Some((part, needed));
        self.update_health();
    }

    /// The report leaves out the address and the fault: anybody can read it, and the log has both.
    fn update_health(&self) {
        let (loaded, good) = {
            let last = self.last_read();
            (last.set.is_some(), last.fault.is_none())
        };
        if let Some((part, needed)) = &*self.health.lock().unwrap_or_else(PoisonError::into_inner) {
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

    /// Calls `hook` whenever the set has changed, before the caller that read the source goes on.
    pub(super) fn on_change(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// The source was read, and has the same set as before.
    pub(super) fn unchanged(&self) {
        telemetry::keys_read(self.label, "unchanged");
        self.confirm();
    }

    /// The source was read, and has this set.
    pub(super) fn loaded(&self, set: KeySet) {
        if self.set().as_deref() == Some(&set) {
            return self.unchanged();
        }
        telemetry::keys_read(self.label, "loaded");
        telemetry::keys_held(self.label, set.len());
        let kids: Vec<_> = set.kids().collect();
        tracing::info!(source = self.name, keys = set.len(), ?kids, "keys loaded");
        self.last_read().set = Some(Arc::new(set));
        self.confirm();
        for hook in &*self.hooks.lock().unwrap_or_else(PoisonError::into_inner) {
            hook();
        }
    }

    fn confirm(&self) {
        let mut last = self.last_read();
        last.confirmed_at = Some(Instant::now());
        if last.fault.take().is_some() {
            tracing::info!(source = self.name, "the keys can be read again");
        }
        drop(last);
        self.update_health();
        self.report_age();
    }

    /// The source could not be read, or has no usable set. The earlier set stays.
    pub(super) fn failed(&self, fault: String) {
        telemetry::keys_read(self.label, "failed");
        let mut last = self.last_read();
        if last.fault.as_ref() != Some(&fault) {
            let keys = last.set.as_ref().map_or(0, |set| set.len());
            tracing::warn!(source = self.name, fault, keys, "the keys cannot be read; those of before hold");
            last.fault = Some(fault);
        }
        drop(last);
        self.update_health();
        self.report_age();
    }

    /// Sets the metric of the set's age.
    pub(super) fn report_age(&self) {
        if let Some(confirmed_at) = self.last_read().confirmed_at {
            telemetry::keys_age(self.label, confirmed_at.elapsed().as_secs_f64());
        }
    }
}

/// Runs the task that reads a source, for ever, and restarts it after a panic. The source reports its own health; this
/// counts the restarts.
pub(super) async fn run_reader<Fut: Future<Output = ()>>(read: impl FnMut() -> Fut) {
    let part = Health::new().part("key_source");
    supervise(&part, &SystemClock::new(), Condition::Degraded, read).await;
}

/// Aborts the task when the last handle is dropped.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
