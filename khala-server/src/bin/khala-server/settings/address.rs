//! Addresses of servers, which may hold a password, and where the journal is.
//!
//! What must stay true: an address prints without what may be a secret in it, and only who connects to it sees the rest.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Parameters of an address that hold no secret.
const PLAIN: [&str; 9] =
    ["application_name", "dbname", "host", "hostaddr", "port", "sslcert", "sslmode", "sslrootcert", "user"];

/// An address that prints as `postgres://khala:***@db.example/khala`.
#[derive(Clone)]
pub(crate) struct Address(String);

impl Address {
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
        // Whoever wrote a password with an @ in it meant the last one.
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

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "an address is a text: put it in quotes").map(Self)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Several of them.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Addresses(pub(crate) Vec<Address>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own words would repeat what is there instead.
        let fault = || de::Error::custom("it is a list of texts, as [\"nats://nats:4222\"]");
        let toml::Value::Array(values) = toml::Value::deserialize(deserializer)? else { return Err(fault()) };
        let addresses = values.into_iter().map(|value| match value {
            toml::Value::String(text) if !text.is_empty() => Ok(Address(text)),
            _ => Err(fault()),
        });
        addresses.collect::<Result<_, _>>().map(Self)
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
        let address = Address(text(deserializer, "it is a text: put it in quotes")?);
        if address.is_postgres() {
            return Ok(Self::Postgres(address));
        }
        let Address(path) = address;
        if path.is_empty() || path.contains("://") {
            return Err(de::Error::custom(
                "it is the path of a file, or an address that begins with postgres://",
            ));
        }
        Ok(Self::Sqlite(path.into()))
    }
}

impl Serialize for Database {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text; the fault does not repeat what is there instead.
fn text<'de, D: Deserializer<'de>>(deserializer: D, fault: &str) -> Result<String, D::Error> {
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => Ok(text),
        _ => Err(de::Error::custom(fault)),
    }
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
