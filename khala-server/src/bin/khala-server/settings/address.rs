//! Addresses of servers, which may hold a password, and where the journal is.
//!
//! # Invariants
//! An address prints without what may be a secret in it, and only who connects to it sees the rest.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Parameters of an address that hold no secret.
const PLAIN: [&str; 9] =
    ["application_name", "dbname", "host", "hostaddr", "port", "sslcert", "sslmode", "sslrootcert", "user"];

/// An address that prints as `postgres://khala:***@db.example/khala`.
#[derive(Clone)]
pub(crate) struct Address(String);

impl Address {
    /// Takes a text for an address.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// All of it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it is one of PostgreSQL.
    pub(crate) fn is_postgres(&self) -> bool {
        self.0.starts_with("postgres://") || self.0.starts_with("postgresql://")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = match self.0.split_once("://") {
            Some((scheme, rest)) => {
                write!(f, "{scheme}://")?;
                rest
            }
            None => &self.0,
        };
        // In an address whose password has an @, the last @ is meant.
        let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
        let plain = |name: &str| !name.contains(['/', '?', '#']);
        match user.map(|user| user.split_once(':').ok_or(user)) {
            Some(Ok((name, _))) if plain(name) => write!(f, "{name}:***@")?,
            // For NATS that may be a token.
            Some(Err(name)) if plain(name) && self.is_postgres() => write!(f, "{name}@")?,
            Some(_) => f.write_str("***@")?,
            None => {}
        }
        let (rest, fragment) = rest.split_once('#').map_or((rest, false), |(rest, _)| (rest, true));
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        f.write_str(place)?;
        for (at, parameter) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            f.write_str(if at == 0 { "?" } else { "&" })?;
            match parameter.split_once('=') {
                Some((name, _)) if PLAIN.contains(&name) => f.write_str(parameter)?,
                Some((name, _)) => write!(f, "{name}=***")?,
                None => f.write_str("***")?,
            }
        }
        if fragment { f.write_str("#***") } else { Ok(()) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the journal is.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    /// In a database of PostgreSQL.
    Postgres(Address),
    /// In a file of SQLite.
    Sqlite(PathBuf),
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(address) => address.fmt(f),
            Self::Sqlite(path) => path.display().fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Database {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let address = Address(text(deserializer)?);
        if address.is_postgres() {
            return Ok(Self::Postgres(address));
        }
        let Address(path) = address;
        // It may be an address with a password in it, and is not repeated.
        no_file(&path).map_or_else(|| Ok(Self::Sqlite(path.into())), |fault| Err(de::Error::custom(fault)))
    }
}

/// The words with which a connection string of libpq's other form begins.
const CONNINFO: [&str; 14] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "passfile",
    "password",
    "port",
    "service",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// Why a text is not taken for the path of a file. Whatever is meant by it, an SQLite file of that name is not: each
/// node would have a history of its own, without a word.
fn no_file(text: &str) -> Option<&'static str> {
    let first_word = |text: &str| text.split('=').next().map(|word| word.trim().to_ascii_lowercase());
    if text.contains('=') && first_word(text).is_some_and(|word| CONNINFO.contains(&&*word)) {
        return Some(
            "it looks like libpq's key=value form, which is not taken: write it as \
             postgres://user:password@host:port/database",
        );
    }
    // A scheme has at least two letters, because one alone is a drive of Windows.
    let scheme = text.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| {
        scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    match scheme.map(str::to_ascii_lowercase).as_deref() {
        Some("file" | "sqlite" | "sqlite3") => {
            return Some(
                "an SQLite file is named without a scheme: write the path of the file alone, as khala.db",
            );
        }
        Some(_) => {
            return Some(
                "it is the path of a file, or an address that begins with postgres:// (a file whose name has a colon \
                 is written as ./name)",
            );
        }
        None => {}
    }
    if text.is_empty() || text.contains("://") {
        return Some("it is the path of a file, or an address that begins with postgres://");
    }
    if text == ":memory:" {
        return Some("SQLite's :memory: keeps nothing; name a file");
    }
    if text.split_once('?').is_some_and(|(_, parameters)| parameters.contains('=')) {
        return Some("the path of a file takes no parameters after a question mark");
    }
    None
}

impl Serialize for Database {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text; the fault does not repeat what is there instead.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map_err(|_| de::Error::custom("it is a text: put it in quotes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_masked() {
        for (address, shown) in [
            ("postgres://khala@db/khala", "postgres://khala@db/khala"),
            ("postgres://khala:s3cret@db:5432/khala", "postgres://khala:***@db:5432/khala"),
            (
                "postgresql://k:s3cret@db/k?sslmode=require&password=s3cret",
                "postgresql://k:***@db/k?sslmode=require&password=***",
            ),
            ("postgres://db/k?user=k&p%61ssword=s3cret", "postgres://db/k?user=k&p%61ssword=***"),
            ("postgres://k:s3/cret@db/k", "postgres://k:***@db/k"),
            ("postgres://k:s3@cret@db/k", "postgres://k:***@db/k"),
            ("postgres://k:s3?c#ret@db/k", "postgres://k:***@db/k"),
            ("postgres://db/k?password=s3@cret", "postgres://***@cret"),
            ("postgres://db/k#s3cret", "postgres://db/k#***"),
            ("postgres://db/k?s3cret", "postgres://db/k?***"),
            ("nats://s3cret@nats:4222", "nats://***@nats:4222"),
            ("nats://k:s3cret@nats", "nats://k:***@nats"),
            ("nats:4222", "nats:4222"),
            ("s3cret@nats", "***@nats"),
        ] {
            let address = Address(address.to_owned());
            assert_eq!((address.to_string(), format!("{address:?}")), (shown.to_owned(), shown.to_owned()));
            assert_eq!(Address(shown.to_owned()).to_string(), shown, "it is the same when it is read again");
        }
    }
}
