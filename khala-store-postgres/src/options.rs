//! How a store is opened.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use khala_core::{Error, ErrorKind, health::Health};
use sqlx::postgres::PgConnectOptions;

use crate::{
    fanout::ListenOptions,
    fault::{BACKEND, error},
};

/// The schema that holds Khala's tables: 1 to 40 of `a-z 0-9 _`, not beginning with a digit or `pg_`.
///
/// It is also the channel of NOTIFY.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostgresOptions {
    /// Where the tables are. Default: `khala`.
    pub schema: Schema,
    /// How many connections read, and how many write, at most. Default: 8 of each.
    pub connections: NonZeroU32,
    /// How many groups of appends are under way at once; a topic always belongs to the same one. Default: 4.
    pub writers: NonZeroU32,
    /// Whether the address is that of a pooler in transaction mode, as pgbouncer is run: then every statement stands in
    /// a transaction, and none is prepared for longer. Default: no.
    pub pooler: bool,
    /// Whether opening makes and updates the tables; if not, they must be there. Default: yes.
    pub migrate: bool,
    /// How long to wait for a connection. Default: 2 s.
    pub connect_timeout: Duration,
    /// How long a topic may be locked by another transaction before an append to it is given up. Default: 5 s.
    pub lock_timeout: Duration,
    /// How long a statement, or a group of appends, may take before its connection is given up. Default: 15 s.
    pub statement_timeout: Duration,
    /// How the store's own fanout listens.
    pub listen: ListenOptions,
    /// What the store's tasks report to. Default: a health of its own.
    pub health: Health,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
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
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has the store's tasks report to `health`, which readiness is made from.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Says how the store's own fanout listens.
    #[must_use]
    pub fn with_listen(mut self, listen: ListenOptions) -> Self {
        self.listen = listen;
        self
    }

    /// Says where the tables are.
    #[must_use]
    pub fn with_schema(mut self, schema: Schema) -> Self {
        self.schema = schema;
        self
    }

    /// Says how many connections read, and how many write, at most.
    #[must_use]
    pub fn with_connections(mut self, connections: NonZeroU32) -> Self {
        self.connections = connections;
        self
    }

    /// Says how many groups of appends are under way at once.
    #[must_use]
    pub fn with_writers(mut self, writers: NonZeroU32) -> Self {
        self.writers = writers;
        self
    }

    /// Says whether the address is that of a pooler in transaction mode.
    #[must_use]
    pub fn with_pooler(mut self, pooler: bool) -> Self {
        self.pooler = pooler;
        self
    }

    /// Says whether opening makes and updates the tables.
    #[must_use]
    pub fn with_migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Says how long to wait for a connection.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Says how long a topic may be locked by another transaction before an append to it is given up.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Says how long a statement, or a group of appends, may take before its connection is given up.
    #[must_use]
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }
}

impl PostgresOptions {
    /// How long to wait for a lock: less than for a statement, so that the database gives up before the store does.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.lock_timeout.min(self.statement_timeout * 4 / 5)
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
