//! The JWK Set file (RFC 7517) that a server reads as `auth.keys_file`: read, and replaced as a whole or not at all.
//!
//! # Invariants
//! Keys and members that a command does not change stay as they are, byte for byte. A process that reads the file meanwhile
//! finds the old set or the new set, where the file can be replaced. No user can read the file who could not read it before.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use khala_auth::{KeyError, KeySet};
use serde_json::{Value, value::RawValue};

use crate::{
    exit::Failure,
    file::{self, Replaced},
};

/// A JWK Set, of which nothing but the names of its keys is understood.
#[derive(Debug, Default)]
pub(crate) struct Set {
    pub(crate) keys: Vec<Box<RawValue>>,
    /// The set's other members.
    others: BTreeMap<String, Box<RawValue>>,
}

impl Set {
    /// None if it is no such set.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut others: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
        let keys = serde_json::from_str(others.remove("keys")?.get()).ok()?;
        Some(Self { keys, others })
    }
}

/// A key set file, held so that no other `khala key` changes it meanwhile.
#[derive(Debug)]
pub(crate) struct KeyFile {
    /// As it was given, to be shown.
    path: PathBuf,
    file: Replaced,
    exists: bool,
    set: Set,
    _held: Option<File>,
}

impl KeyFile {
    /// Opens the file to change it. One that is not there is an empty set.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let file = Replaced::at(path).map_err(|cause| unreadable(path, &cause))?.private();
        let held = hold(file.folder()).map_err(|cause| {
            Failure::io(format!("the folder of {} cannot be held: {cause}", path.display()))
        })?;
        // Only now: the process that held the lock may have made it.
        let exists = file.path().try_exists().map_err(|cause| unreadable(path, &cause))?;
        let set = if exists {
            let set = Set::parse(&read(path)?);
            set.ok_or_else(|| Failure::usage(format!("{} is not a JWK Set", path.display())))?
        } else {
            Set::default()
        };
        Ok(Self { path: path.to_owned(), file, exists, set, _held: held })
    }

    /// Whether there is such a file.
    pub(crate) fn exists(&self) -> bool {
        self.exists
    }

    /// How many keys it holds, usable or not.
    pub(crate) fn len(&self) -> usize {
        self.set.keys.len()
    }

    /// The names of its keys, as they stand there.
    pub(crate) fn kids(&self) -> impl Iterator<Item = String> {
        self.set.keys.iter().filter_map(|key| kid(key))
    }

    /// Adds a key, given as a JWK.
    pub(crate) fn push(&mut self, jwk: String) {
        self.set.keys.push(RawValue::from_string(jwk).expect("the core writes JSON"));
    }

    /// Takes every key of that name out.
    pub(crate) fn remove(&mut self, name: &str) {
        self.set.keys.retain(|key| kid(key).as_deref() != Some(name));
    }

    /// Whether a server takes it as it stands here now.
    pub(crate) fn check(&self) -> Result<KeySet, KeyError> {
        KeySet::from_jwks(&self.text())
    }

    fn text(&self) -> String {
        let keys: Vec<_> = self.set.keys.iter().map(|key| format!("\n    {}", key.get())).collect();
        let end = if keys.is_empty() { "" } else { "\n  " };
        let others: String = self
            .set
            .others
            .iter()
            .map(|(name, value)| format!(",\n  {}: {}", Value::from(name.as_str()), value.get()))
            .collect();
        format!("{{\n  \"keys\": [{}{end}]{others}\n}}\n", keys.join(","))
    }

    /// Replaces the file. A new one can be read by its owner alone; an old one keeps its mode and its owner.
    pub(crate) fn store(&self) -> Result<(), Failure> {
        let replaced = self.file.write(self.text().as_bytes());
        replaced.and_then(|()| sync_folder(self.file.folder())).map_err(|cause| {
            Failure::io(format!("the key file {} cannot be written: {cause}", self.path.display()))
        })
    }
}

/// The file's text.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    file::read_text(path).map_err(|cause| unreadable(path, &cause))
}

fn unreadable(path: &Path, cause: &io::Error) -> Failure {
    Failure::unreadable(format_args!("the key file {}", path.display()), cause)
}

/// The name of a key.
pub(crate) fn kid(key: &RawValue) -> Option<String> {
    let key: Value = serde_json::from_str(key.get()).ok()?;
    Some(key.get("kid")?.as_str()?.to_owned())
}

/// Keeps others who do the same waiting: two that read before either has written would lose one's change.
#[cfg(unix)]
fn hold(folder: &Path) -> io::Result<Option<File>> {
    // The folder, because the file is another one after each change.
    let folder = File::open(folder)?;
    folder.lock()?;
    Ok(Some(folder))
}

#[cfg(not(unix))]
fn hold(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Else a power failure could undo the rename.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
