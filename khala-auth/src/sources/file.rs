//! Keys from a JWK Set in a file that is read again at an interval.
//!
//! Only the content is compared, so a replaced symbolic link (as Kubernetes makes) or a file time that was set back is
//! noticed too. A file that is being written is wrong for a moment; the next read repairs that.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use khala_core::{Error, Timestamp, health::Health, text::without_byte_order_mark};
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::state::{AbortOnDrop, MAX_BYTES, SourceState, run_reader};
use crate::{key_error::KeyError, key_set::KeySet, key_source::KeySource};

/// The keys of a JWK Set in a file. Cloning it gives another handle to the same.
///
/// The file is read again each `check_every` and on [`reload`](Self::reload). While it is missing, unreadable, larger
/// than 256 KiB, without a key or wrong in any key, the earlier keys stay. Dropping the last handle ends the reading.
#[derive(Clone, Debug)]
pub struct FileKeys {
    shared: Arc<Shared>,
    _reader: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: SourceState,
    /// The last good content. Locked while the file is read, so that an older content never follows a newer one.
    content: Mutex<Vec<u8>>,
}

impl FileKeys {
    /// Reads the file now, and again each `check_every`.
    ///
    /// # Errors
    /// A [`KeyError`] when it cannot be read or is wrong.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and for a `check_every` of zero.
    pub fn open(path: impl Into<PathBuf>, check_every: Duration) -> Result<Self, KeyError> {
        Self::open_as("file", path.into(), check_every)
    }

    /// The same for keys that check the credentials of a mint: the metrics call this source `credential`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Panics
    /// As [`open`](Self::open).
    pub fn open_for_credentials(path: impl Into<PathBuf>, check_every: Duration) -> Result<Self, KeyError> {
        Self::open_as("credential", path.into(), check_every)
    }

    fn open_as(label: &'static str, path: PathBuf, check_every: Duration) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let fault = |fault| KeyError::new(None, format!("{name}: {fault}"));
        let content = read(&path).map_err(fault)?;
        let set = parse(&content).map_err(fault)?;
        let state = SourceState::new(label, name);
        state.loaded(set);
        let shared = Arc::new(Shared { path, state, content: Mutex::new(content) });
        let checked = Arc::clone(&shared);
        let reader = tokio::spawn(run_reader(move || {
            let checked = Arc::clone(&checked);
            async move {
                let mut ticks = interval(check_every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                // The first is at once.
                ticks.tick().await;
                loop {
                    ticks.tick().await;
                    checked.check().await;
                }
            }
        }));
        Ok(Self { shared, _reader: Arc::new(AbortOnDrop(reader)) })
    }

    /// Reads the file now. Dropping the future leaves the earlier or the new keys.
    pub async fn reload(&self) {
        self.shared.check().await;
    }

    /// Reports to `health` while the file cannot be read. The earlier keys stay meanwhile.
    pub fn report_to(&self, health: &Health) {
        self.state().report_to(health, false);
    }

    pub(super) fn state(&self) -> &SourceState {
        &self.shared.state
    }
}

#[async_trait]
impl KeySource for FileKeys {
    async fn keys(&self, _: Option<&str>, _: Timestamp) -> Result<Arc<KeySet>, Error> {
        Ok(self.state().set().expect("the first read was good, or there would be no source"))
    }
}

impl Shared {
    async fn check(&self) {
        let mut good = self.content.lock().await;
        let path = self.path.clone();
        let content = match spawn_blocking(move || read(&path)).await {
            Ok(Ok(content)) => content,
            Ok(Err(fault)) => return self.state.failed(fault),
            Err(fault) => return self.state.failed(fault.to_string()),
        };
        if *good == content {
            return self.state.unchanged();
        }
        match parse(&content) {
            Ok(set) => {
                self.state.loaded(set);
                *good = content;
            }
            Err(fault) => self.state.failed(fault),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let fault = |fault: std::io::Error| fault.to_string();
    // Opening a pipe would block.
    if !path.metadata().map_err(fault)?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut content = Vec::new();
    let most = MAX_BYTES as u64 + 1;
    File::open(path).map_err(fault)?.take(most).read_to_end(&mut content).map_err(fault)?;
    if content.len() > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    Ok(content)
}

fn parse(content: &[u8]) -> Result<KeySet, String> {
    let text = str::from_utf8(without_byte_order_mark(content)).map_err(|_| "it is not UTF-8".to_owned())?;
    let set = KeySet::from_jwks(text).map_err(|fault| fault.to_string())?;
    if set.is_empty() { Err("it holds no key".to_owned()) } else { Ok(set) }
}
