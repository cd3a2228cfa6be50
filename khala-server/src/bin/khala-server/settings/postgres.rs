//! Settings of PostgreSQL, and of what carries announcements between nodes.

use std::{num::NonZeroU32, time::Duration};

use khala_store_postgres::{ListenOptions, PostgresOptions, Schema};
use serde::{Deserialize, Serialize};

use super::{address::Address, seconds};

/// How PostgreSQL is used, where the database is one.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct PostgresSettings {
    /// The schema that holds the tables.
    schema: String,
    /// Connections that read, and that write, at most.
    connections: NonZeroU32,
    /// Groups of appends under way at once.
    writers: NonZeroU32,
    /// Whether the address is that of a pooler in transaction mode.
    pooler: bool,
    /// Whether the start makes and updates the tables.
    migrate: bool,
    /// The address for LISTEN alone.
    listen: Option<Address>,
    connect_timeout_seconds: NonZeroU32,
    lock_timeout_seconds: NonZeroU32,
    statement_timeout_seconds: NonZeroU32,
    /// How often the connection that listens must hear itself.
    beat_seconds: NonZeroU32,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        let PostgresOptions {
            schema,
            connections,
            writers,
            pooler,
            migrate,
            connect_timeout,
            lock_timeout,
            statement_timeout,
            ..
        } = PostgresOptions::default();
        let time = |duration| NonZeroU32::new(seconds(duration)).unwrap_or(NonZeroU32::MIN);
        Self {
            schema: schema.as_str().to_owned(),
            connections,
            writers,
            pooler,
            migrate,
            listen: None,
            connect_timeout_seconds: time(connect_timeout),
            lock_timeout_seconds: time(lock_timeout),
            statement_timeout_seconds: time(statement_timeout),
            beat_seconds: time(ListenOptions::default().heartbeat),
        }
    }
}

impl PostgresSettings {
    /// How the store is opened.
    pub(crate) fn options(&self) -> Result<PostgresOptions, String> {
        let schema = Schema::parse(&self.schema)
            .map_err(|fault| format!("the setting postgres.schema is wrong: {fault}"))?;
        Ok(PostgresOptions {
            schema,
            connections: self.connections,
            writers: self.writers,
            pooler: self.pooler,
            migrate: self.migrate,
            connect_timeout: time(self.connect_timeout_seconds),
            lock_timeout: time(self.lock_timeout_seconds),
            statement_timeout: time(self.statement_timeout_seconds),
            listen: self.listen(),
            ..PostgresOptions::default()
        })
    }

    /// How the node listens.
    pub(crate) fn listen(&self) -> ListenOptions {
        ListenOptions {
            url: self.listen.as_ref().map(|address| address.reveal().to_owned()),
            heartbeat: time(self.beat_seconds),
            ..ListenOptions::default()
        }
    }

    /// What cannot be told from one value alone. `listens`: whether the server is to listen there.
    pub(super) fn check(&self, listens: bool) -> Result<(), String> {
        self.options()?;
        match &self.listen {
            Some(address) if !address.is_postgres() => Err(format!(
                "the setting postgres.listen is wrong: it begins with postgres://, and is {address}"
            )),
            None if self.pooler && listens => Err(
                "postgres.pooler needs postgres.listen: LISTEN takes a connection that stays, and a pooler gives \
                 none; set it to the address of PostgreSQL itself"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

fn time(seconds: NonZeroU32) -> Duration {
    Duration::from_secs(seconds.get().into())
}
