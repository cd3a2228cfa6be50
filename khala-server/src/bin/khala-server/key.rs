//! The secret that tokens are signed with: a real one from the settings, or one for development that is made once.
//!
//! # Invariants
//! Who can be reached from elsewhere has a real key; and a development key survives a restart, so that a token pasted before it
//! works after it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use khala_core::text::without_byte_order_mark;

use crate::settings::{Database, Settings};

/// The file beside the database that keeps a development key.
const FILE: &str = "khala.dev.key";

/// The secret that signs, and where it comes from.
pub(crate) enum Key {
    /// Made here, for this machine only.
    Development { secret: Vec<u8>, file: PathBuf },
    /// Tokens are checked with other keys alone.
    None,
    /// Given by the operator.
    Real { secret: Vec<u8> },
}

impl Key {
    pub(crate) fn secret(&self) -> Option<&[u8]> {
        match self {
            Self::Development { secret, .. } | Self::Real { secret } => Some(secret),
            Self::None => None,
        }
    }
}

/// The key that the settings give, or none where a server for development makes one: it was started with `--dev`, or
/// nothing at all is set.
///
/// # Errors
/// What to write where there is no key and it is no server for development, or where it is one and must not be.
pub(crate) fn given(settings: &Settings, dev: bool, addresses: &[SocketAddr]) -> Result<Option<Key>, String> {
    let auth = &settings.auth;
    if dev && let Some(key) = settings.production_setting() {
        return Err(format!(
            "--dev and {key} exclude each other: with --dev the server trusts a key that it makes itself, and serves this \
             machine only. Leave one of them out"
        ));
    }
    if let Some(secret) = &auth.hs256_key {
        return Ok(Some(Key::Real { secret: secret.reveal().as_bytes().to_vec() }));
    }
    if let Some(file) = &auth.hs256_key_file {
        return Ok(Some(Key::Real { secret: read("auth.hs256_key_file", file)? }));
    }
    if auth.has_keys() {
        return Ok(Some(Key::None));
    }
    if !dev && let Some(origin) = settings.origin() {
        return Err(format!(
            "{origin} sets something, and no key that tokens are checked with. {WITHOUT_KEY}"
        ));
    }
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        Some(address) => Err(format!(
            "with --dev it would listen on {address}, where others can reach it: listen on 127.0.0.1. {WITHOUT_KEY}"
        )),
        None => Ok(None),
    }
}

/// What to do without a key.
const WITHOUT_KEY: &str =
    "For production, make a key and name it (or set auth.keys, auth.keys_file or auth.jwks_url):

    openssl rand -base64 32 > khala.key
    export KHALA_AUTH__HS256_KEY_FILE=khala.key

which in a settings file is

    [auth]
    hs256_key_file = \"khala.key\"

To try it on this machine only (127.0.0.1), start it with --dev: it makes a key then, and prints a token.";

/// What is in the file of the setting `key`, without a byte order mark before and a line end after it.
pub(crate) fn read(key: &str, file: &Path) -> Result<Vec<u8>, String> {
    let content =
        fs::read(file).map_err(|fault| format!("{key} {} cannot be read: {fault}", file.display()))?;
    Ok(without_byte_order_mark(content.trim_ascii_end()).to_vec())
}

/// The development key beside the file of `database`, or where the server was started; made now if there is none.
pub(crate) fn development(database: &Database) -> Result<Key, String> {
    let file = match database {
        Database::Postgres(_) => PathBuf::from(FILE),
        Database::Sqlite(path) => path.with_file_name(FILE),
    };
    let fault = |what: &str, fault: io::Error| {
        format!("the development key {} cannot be {what}: {fault}", file.display())
    };
    match fs::read(&file) {
        Ok(text) if without_byte_order_mark(&text).trim_ascii_end().len() >= 64 => {
            let secret = without_byte_order_mark(&text).trim_ascii_end().to_vec();
            Ok(Key::Development { secret, file })
        }
        Ok(_) => Err(format!(
            "the development key {} is not whole: delete it, and a new one is made",
            file.display()
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut random = [0; 32];
            getrandom::fill(&mut random).map_err(|error| fault("made", error.into()))?;
            let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            let made = followed(&file).and_then(|file| create(&file, &text));
            made.map_err(|error| fault("written", error))?;
            Ok(Key::Development { secret: text.into_bytes(), file })
        }
        Err(error) => Err(fault("read", error)),
    }
}

/// Where the links at `path` lead to, which need not be there yet.
fn followed(path: &Path) -> io::Result<PathBuf> {
    /// As Linux follows.
    const MOST_LINKS: usize = 40;

    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or_else(|| Path::new("")).join(target),
            // It is no link, or nothing is there.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Writes a file that only its owner may read, and that was not there before. A file that was not written whole is not
/// left behind.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file: File = options.open(path)?;
    let written = file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}
