//! How a store is opened.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, path::PathBuf, str::FromStr, time::Duration};

use khala_core::{
    Error, ErrorKind,
    config::{Secret, seconds},
    health::Health,
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use crate::fault::{BACKEND, error};

/// How a node listens.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct ListenOptions {
    /// The address for LISTEN alone, which needs a lasting connection. It is needed if `postgres.pooler` is
    /// set. Without it, the store's own address. Example: `"postgres://khala@db.example/khala"`.
    #[serde(skip_serializing)]
    pub url: Option<String>,
    /// How often the connection that listens must hear its own heartbeat; otherwise it is opened again. At
    /// least 10 ms.
    #[serde(rename = "heartbeat_seconds", with = "seconds")]
    pub heartbeat: Duration,
    /// While nothing listens: how often listening is tried again, and the heads of watched topics are read. At
    /// least 10 ms.
    #[serde(rename = "poll_interval_seconds", with = "seconds")]
    pub poll_interval: Duration,
}

impl fmt::Debug for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        let url = self.url.as_ref().map(|_| "…");
        let Self { heartbeat, poll_interval, .. } = self;
        f.debug_struct("ListenOptions")
            .field("url", &url)
            .field("heartbeat", heartbeat)
            .field("poll_interval", poll_interval)
            .finish()
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { url: None, heartbeat: Duration::from_secs(2), poll_interval: Duration::from_millis(500) }
    }
}

/// The schema that holds Khala's tables: 1 to 40 of `a-z 0-9 _`, not beginning with a digit or `pg_`.
///
/// It is also the channel of NOTIFY.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schema(String);

impl Schema {
    /// The schema of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the name breaks the rule.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let good = (1..=40).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.starts_with("pg_");
        if good {
            return Ok(Self(name.to_owned()));
        }
        let rule = "a schema's name is 1 to 40 of a-z 0-9 _, and does not begin with a digit or pg_";
        Err(error(ErrorKind::Invalid, format!("{rule}; this one is {name:?}")))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Schema {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::parse(&name)
    }
}

impl From<Schema> for String {
    fn from(schema: Schema) -> Self {
        schema.0
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self("khala".to_owned())
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a store is opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct PostgresOptions {
    /// The user that connects, instead of the user in the address. Example: `"khala_server"`.
    pub user: Option<String>,
    /// The user's password, instead of the password in the address. Example: `"server-secret"`.
    pub password: Option<Secret>,
    /// A file that holds the password, instead of `password`. It is read at the start. Example:
    /// `"/etc/khala/postgres-password"`.
    pub password_file: Option<PathBuf>,
    /// Parameters that PostgreSQL sets for each connection at its start, as libpq's `options` does. A pooler
    /// may refuse them. `application_name` is always Khala's own. Example:
    /// `{search_path = "app", work_mem = "64MB"}`.
    pub options: BTreeMap<String, String>,
    /// The schema that holds Khala's tables.
    pub schema: Schema,
    /// How many connections read at most, and how many write. A node has at most twice as many connections, and
    /// two more.
    pub connections: NonZeroU32,
    /// How many groups of appends are written at once. A topic always belongs to the same group.
    pub writers: NonZeroU32,
    /// Whether the address is that of a pooler in transaction mode, such as pgbouncer. Then every statement
    /// runs in a transaction, and no statement stays prepared.
    pub pooler: bool,
    /// Whether the server creates and updates the tables when it starts. If not, `khala-server migrate` must
    /// have done it.
    pub migrate: bool,
    /// How long to wait for a connection.
    #[serde(rename = "connect_timeout_seconds", with = "seconds")]
    pub connect_timeout: Duration,
    /// How long an append waits for a topic that another transaction has locked before it fails.
    #[serde(rename = "lock_timeout_seconds", with = "seconds")]
    pub lock_timeout: Duration,
    /// How long a statement, or a group of appends, may take before its connection is given up.
    #[serde(rename = "statement_timeout_seconds", with = "seconds")]
    pub statement_timeout: Duration,
    /// How the store's own fanout listens.
    pub listen: ListenOptions,
    /// What the store's tasks report to. Default: a health of its own.
    #[serde(skip)]
    pub health: Health,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            password_file: None,
            options: BTreeMap::new(),
            schema: Schema::default(),
            connections: NonZeroU32::new(8).expect("8 is not zero"),
            writers: NonZeroU32::new(4).expect("4 is not zero"),
            pooler: false,
            migrate: true,
            connect_timeout: Duration::from_secs(2),
            lock_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(15),
            listen: ListenOptions::default(),
            health: Health::new(),
        }
    }
}

impl PostgresOptions {
    /// How long to wait for a lock: less than for a statement, so that the database gives up before the store does.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.lock_timeout.min(self.statement_timeout * 4 / 5)
    }

    /// How to connect to `url` as these options say, which have more weight than it.
    pub(crate) fn connect(&self, url: &str, purpose: &str) -> Result<PgConnectOptions, Error> {
        let invalid = |what: String| Error::new(ErrorKind::Invalid, BACKEND, what);
        let mut connect = address(url, purpose)?;
        if let Some(user) = &self.user {
            connect = connect.username(user);
        }
        match (&self.password, &self.password_file) {
            (Some(_), Some(_)) => {
                return Err(invalid("password and password_file exclude each other".to_owned()));
            }
            (Some(password), None) => connect = connect.password(password.reveal()),
            (None, Some(file)) => {
                let read = Secret::read(file);
                let fault =
                    |cause| invalid(format!("password_file {} cannot be read: {cause}", file.display()));
                connect = connect.password(read.map_err(fault)?.reveal());
            }
            (None, None) => {}
        }
        // PgBouncer refuses `options`, even where they are empty.
        Ok(if self.options.is_empty() { connect } else { connect.options(&self.options) })
    }
}

/// How to connect to `url`; no part of it, which may be a password, is in the error.
pub(crate) fn address(url: &str, purpose: &str) -> Result<PgConnectOptions, Error> {
    let known = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let options = if known { PgConnectOptions::from_str(url).ok() } else { None };
    let options = options.ok_or_else(|| {
        let form = "postgres://user:password@host:port/database";
        Error::new(ErrorKind::Invalid, BACKEND, format!("the address is not of the form {form}"))
    })?;
    // A literal of IPv6 stands in brackets in a URL, and sqlx would look it up with them.
    let host =
        options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(str::to_owned);
    let options = match host {
        Some(host) => options.host(&host),
        None => options,
    };
    // A pooler refuses what it does not know at the start of a connection.
    Ok(options.extra_float_digits(None).application_name(purpose))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_more_weight_than_the_address() {
        let url = "postgres://ann:old@db.example/app";
        let connect = |options: PostgresOptions| options.connect(url, "khala");
        let usual = connect(PostgresOptions::default()).unwrap();
        assert_eq!((usual.get_username(), usual.get_options()), ("ann", None));
        let password = Some(Secret::new("s3cret"));
        let set = PostgresOptions {
            user: Some("khala".to_owned()),
            password: password.clone(),
            options: BTreeMap::from([("search_path".to_owned(), "app".to_owned())]),
            ..PostgresOptions::default()
        };
        assert!(!format!("{set:?}").contains("s3cret"));
        let connect_set = connect(set).unwrap();
        assert_eq!(connect_set.get_username(), "khala");
        assert_eq!(connect_set.get_options(), Some("-c search_path=app"));
        let password_file = Some(PathBuf::from("no-such-file"));
        for (options, says) in [
            (
                PostgresOptions {
                    password,
                    password_file: password_file.clone(),
                    ..PostgresOptions::default()
                },
                "exclude",
            ),
            (PostgresOptions { password_file, ..PostgresOptions::default() }, "password_file no-such-file"),
        ] {
            let fault = connect(options).unwrap_err().to_string();
            assert!(fault.contains(says) && !fault.contains("s3cret"), "{fault}");
        }
    }

    #[test]
    fn they_can_stand_in_a_settings_file() {
        let of = |text: &str| {
            serde_json::from_str::<PostgresOptions>(text)
                .map(|options| serde_json::to_value(options).unwrap())
        };
        let defaults = serde_json::to_value(PostgresOptions::default()).unwrap();
        assert_eq!(of("{}").unwrap(), defaults);
        assert_eq!(of(&defaults.to_string()).unwrap(), defaults);
        assert!(of(r#"{"schema": "pg_own"}"#).is_err());
        let address = r#"{"listen": {"url": "postgres://khala:s3cret@db.example/khala"}}"#;
        assert_eq!(of(address).unwrap(), defaults, "the address, which may hold a password, is not written");
        let read: PostgresOptions = serde_json::from_str(address).unwrap();
        assert!(read.listen.url.is_some_and(|url| url.contains("s3cret")));
        for unknown in [r#"{"writer": 1}"#, r#"{"listen": {"uri": "a"}}"#, r#"{"health": {}}"#] {
            assert!(of(unknown).unwrap_err().to_string().contains("unknown field"), "{unknown}");
        }
    }
}
