//! Settings: the options of the libraries, read from one TOML file and from environment variables.
//!
//! `limits.frame_bytes` is `KHALA_LIMITS__FRAME_BYTES`. A variable's value is the text itself where the setting takes a
//! text, and else what TOML reads in it.
//!
//! # Invariants
//! An unknown key or a value of the wrong type is refused by its name; and a secret is never printed.

mod address;
mod auth;
mod checks;
#[cfg(test)]
mod docs_table;
mod options;
mod parse;
mod paths;
mod setting_names;
#[cfg(test)]
mod tests;
mod variables;

use std::path::Path;

use khala_core::{budget::MemoryBudget, tail::TailOptions};
use khala_fanout_nats::NatsOptions;
use khala_server::Limits;
use khala_store_postgres::PostgresOptions;
use toml::{Table, Value};

use self::{
    address::Address,
    checks::{exclude, first_set, is_zero},
    parse::{parse, read},
    paths::values,
};
pub(crate) use self::{
    address::Database,
    auth::KeySettings,
    options::{LogFormat, LogSettings, Settings},
};

/// Settings of which 0 would mean that nothing works, and not that there is no limit.
const POSITIVE: [&str; 34] = [
    "auth.jwks.min_refresh_interval_seconds",
    "auth.jwks.refresh_interval_seconds",
    "classes[].payload_bytes",
    "classes[].retain.age_seconds",
    "classes[].retain.bytes",
    "classes[].retain.updates",
    "classes[].stall_timeout_seconds",
    "limits.body_bytes",
    "limits.body_timeout_seconds",
    "limits.frame_bytes",
    "limits.header_timeout_seconds",
    "limits.keep_alive_timeout_seconds",
    "limits.long_poll_session_timeout_seconds",
    "limits.long_poll_wait_seconds",
    "limits.send_buffer_bytes",
    "limits.stall_timeout_seconds",
    "memory_bytes",
    "nats.connect_timeout_seconds",
    "nats.ping_interval_seconds",
    "postgres.connect_timeout_seconds",
    "postgres.listen.heartbeat_seconds",
    "postgres.listen.poll_interval_seconds",
    "postgres.lock_timeout_seconds",
    "postgres.statement_timeout_seconds",
    "replay.max_retry_after_seconds",
    "session.head_interval_seconds",
    "session.heartbeat_timeout_seconds",
    "session.outbox_bytes",
    "session.poll_interval_seconds",
    "session.retry_after_seconds",
    "session.stall_timeout_seconds",
    "session.topics",
    "sweep.lease_duration_seconds",
    "sweep_interval_seconds",
];

impl Settings {
    /// The defaults, overridden by the file, overridden by the environment.
    ///
    /// # Errors
    /// One line that names the file or the variable, and what is wrong.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Self, String> {
        let mut table = Table::new();
        let mut origins = Vec::new();
        if let Some(file) = file {
            let name = format!("the settings file {}", file.display());
            table = read(file, &name)?;
            parse(table.clone()).map_err(|fault| format!("{name}: {}", fault.text))?;
            origins.push(name);
        }
        for (name, value) in environment {
            if let Some((path, value)) = variables::read(&name, &value)? {
                variables::insert(&mut table, &path, value)?;
                origins.push(format!("the variable {}", name.display()));
            }
        }
        let settings = Self { origins, ..parse(table).map_err(|fault| fault.text)? };
        settings.check()?;
        Ok(settings)
    }

    /// The node's budget of memory.
    pub(crate) fn memory(&self) -> MemoryBudget {
        MemoryBudget::new(self.memory_bytes)
    }

    /// Whether NATS carries the announcements.
    pub(crate) fn uses_nats(&self) -> bool {
        !self.nats.servers.is_empty()
    }

    /// Whether the node is to LISTEN, where the database is one of PostgreSQL.
    pub(crate) fn listens(&self) -> bool {
        !self.uses_nats() || self.postgres_listen_with_nats
    }

    /// Where settings came from, if anything is set.
    pub(crate) fn origin(&self) -> Option<&str> {
        self.origins.first().map(String::as_str)
    }

    /// A setting that no server for development has: it is how others get in, or what others share.
    pub(crate) fn production_setting(&self) -> Option<&'static str> {
        let Self { auth, mint, .. } = self;
        let set = [
            ("auth.hs256_key", auth.hs256_key.is_some()),
            ("auth.hs256_key_file", auth.hs256_key_file.is_some()),
            ("auth.keys", !auth.keys.is_empty()),
            ("auth.keys_file", auth.keys_file.is_some()),
            ("auth.jwks_url", auth.jwks_url.is_some()),
            ("auth.origins", auth.origins.is_some()),
            ("auth.trusted_proxies", !auth.trusted_proxies.is_empty()),
            ("mint.secret", mint.secret.is_some()),
            ("mint.secret_file", mint.secret_file.is_some()),
            ("mint.key_file", mint.key_file.is_some()),
            ("mint.credential", mint.credential.is_set()),
            ("nats.servers", self.uses_nats()),
            ("database", matches!(self.database, Database::Postgres(_))),
        ];
        set.iter().find(|(_, set)| *set).map(|(key, _)| *key)
    }

    /// The limits that the server is given: a long poll waits for half of the time at most after which a silent session is closed.
    pub(crate) fn limits(&self) -> Limits {
        let most = self.session.heartbeat_timeout / 2;
        Limits { long_poll_wait: self.limits.long_poll_wait.min(most), ..self.limits }
    }

    /// What cannot be told from one value alone.
    fn check(&self) -> Result<(), String> {
        let table = Value::Table(self.table());
        if let Some(key) = POSITIVE.iter().find(|key| values(&table, key).into_iter().any(is_zero)) {
            return Err(format!("the setting {key} must be more than 0"));
        }
        let (batch, least, most) =
            (self.tail.batch_bytes, TailOptions::MIN_BATCH_BYTES, TailOptions::MAX_BATCH_BYTES);
        if !(least..=most).contains(&batch) {
            return Err(format!("the setting tail.batch_bytes must be {least} to {most}, and is {batch}"));
        }
        let postgres = matches!(self.database, Database::Postgres(_));
        self.check_postgres(postgres)?;
        self.check_nats(postgres)?;
        self.auth.check()?;
        auth::check_claim_names(&self.jwt.claim_names)?;
        self.mint.check(&self.auth, &self.jwt)
    }

    /// `postgres`: whether the database is one of PostgreSQL.
    fn check_postgres(&self, postgres: bool) -> Result<(), String> {
        if !postgres && let Some(key) = first_set(&self.postgres) {
            return Err(format!(
                "postgres.{key} needs a database of PostgreSQL, and database is {}",
                self.database
            ));
        }
        let listens = postgres && self.listens();
        let PostgresOptions { password, password_file, pooler, listen, .. } = &self.postgres;
        let (one, other) = ("postgres.password", "postgres.password_file");
        exclude(one, password.is_some(), other, password_file.is_some())?;
        match listen.url.as_deref().map(Address::new) {
            Some(address) if !address.is_postgres() => Err(format!(
                "the setting postgres.listen.url is wrong: it begins with postgres://, and is {address}"
            )),
            None if *pooler && listens => Err(
                "postgres.pooler needs postgres.listen.url: LISTEN takes a connection that stays, and a pooler gives \
                 none; set it to the address of PostgreSQL itself"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// `postgres`: whether the database is one of PostgreSQL.
    fn check_nats(&self, postgres: bool) -> Result<(), String> {
        let NatsOptions { tls_cert_file, tls_key_file, .. } = &self.nats;
        match (tls_cert_file, tls_key_file) {
            (Some(_), None) => return Err("nats.tls_cert_file needs nats.tls_key_file".to_owned()),
            (None, Some(_)) => return Err("nats.tls_key_file needs nats.tls_cert_file".to_owned()),
            _ => {}
        }
        if self.uses_nats() {
            return match postgres {
                true => Ok(()),
                false => Err("nats.servers needs a database of PostgreSQL: an SQLite file belongs to one machine, and \
                              servers that share it there notify each other without NATS"
                    .to_owned()),
            };
        }
        match first_set(&self.nats) {
            Some(key) => Err(format!("nats.{key} needs nats.servers, where NATS is")),
            None if self.postgres_listen_with_nats => {
                Err("postgres_listen_with_nats needs nats.servers, where NATS is".to_owned())
            }
            None => Ok(()),
        }
    }

    /// The settings as TOML, secrets masked.
    pub(crate) fn to_toml(&self) -> String {
        let mut table = self.table();
        mask_addresses(&mut table);
        if let Some(url) = &self.postgres.listen.url {
            let masked = Value::String(Address::new(url).to_string());
            variables::insert(&mut table, &["postgres", "listen", "url"], masked)
                .expect("sections are tables");
        }
        toml::to_string(&table).expect("settings are TOML")
    }

    fn table(&self) -> Table {
        Table::try_from(self).expect("settings are TOML")
    }
}

/// Masks what in an address of keys may be a secret: user and password, and the query.
fn mask_addresses(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        match value {
            Value::String(address) if key == "jwks_url" => {
                if let Some((before, _)) = address.split_once('?') {
                    *address = format!("{before}?***");
                }
                if let Some((scheme, (_, host))) =
                    address.split_once("//").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?)))
                {
                    *address = format!("{scheme}//***@{host}");
                }
            }
            Value::Table(table) => mask_addresses(table),
            _ => {}
        }
    }
}
