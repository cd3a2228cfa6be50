//! Settings: the options of the libraries, read from one TOML file and from environment variables.
//!
//! `limits.frame_bytes` is `KHALA_LIMITS__FRAME_BYTES`. A variable's value is the text itself where the setting takes a
//! text, and else what TOML reads in it.
//!
//! # Invariants
//! An unknown key or a value of the wrong type is refused by its name; and a secret is never printed.

mod address;
mod auth;
#[cfg(test)]
mod docs_table;
mod setting_names;
mod variables;

use std::{path::Path, time::Duration};

use khala_auth::JwtOptions;
use khala_core::{
    admission::AdmissionOptions,
    budget::MemoryBudget,
    class::{Classes, TopicClass},
    config::{or_none, seconds, seconds_or_none},
    node::NodeId,
    replay::ReplayOptions,
    retention::SweepOptions,
    session::SessionOptions,
    tail::TailOptions,
    text::without_byte_order_mark,
    wire::PathPrefix,
};
use khala_fanout_nats::NatsOptions;
use khala_server::{Compatibility, Limits};
use khala_store_postgres::PostgresOptions;
use khala_store_sqlite::SqliteOptions;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use self::address::Address;
pub(crate) use self::{
    address::Database,
    auth::{AuthSettings, KeySettings, MintSettings},
};

/// Everything that can be set.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Address and port to listen on. With `--dev` a loopback address only.
    pub(crate) listen: String,
    /// The path of the SQLite file, which is created if it does not exist; or the address of a PostgreSQL database:
    /// `postgres://user:password@host:port/database?sslmode=…`. An IPv6 address stands in brackets:
    /// `postgres://khala@[::1]/khala`. Other forms (`host=… dbname=…`, `sqlite:…`, `file:…`, `:memory:`) are refused. A
    /// file whose name has a colon is written as `./name`.
    pub(crate) database: Database,
    /// The name of this node among those that share the database. Every node has another name; a random one if it is
    /// not set.
    pub(crate) node: Option<NodeId>,
    /// The path under which clients reach this server, where a proxy removes it: it stands before links in answers. Example:
    /// `"/realtime"`.
    pub(crate) path_prefix: Option<PathPrefix>,
    /// How long a server that was told to stop goes on with only its readiness turned off, so that load balancers
    /// notice first.
    #[serde(rename = "readiness_grace_seconds", with = "seconds")]
    pub(crate) readiness_grace: Duration,
    /// Over how long connections are closed after that, at most; at least ten a second are closed.
    #[serde(rename = "drain_seconds", with = "seconds")]
    pub(crate) drain: Duration,
    /// Memory that the newest updates, snapshots, request bodies, answers and unsent frames may take together, roughly,
    /// or `"none"`: see [Memory](#memory).
    #[serde(with = "or_none")]
    pub(crate) memory_bytes: Option<u64>,
    /// How often history that is no longer kept is deleted, or `"none"`: never by itself.
    #[serde(rename = "sweep_interval_seconds", with = "seconds_or_none")]
    pub(crate) sweep_interval: Option<Duration>,
    /// Whether to LISTEN on PostgreSQL where NATS carries the announcements too: for what applications append in their
    /// own transactions, which is found by polling otherwise.
    pub(crate) postgres_listen_with_nats: bool,
    pub(crate) auth: AuthSettings,
    pub(crate) jwt: JwtOptions,
    pub(crate) mint: MintSettings,
    /// Topic classes in their order, each a table `[[classes]]`. Without any there is one, `default`, of every topic.
    pub(crate) classes: Vec<TopicClass>,
    pub(crate) compatibility: Compatibility,
    pub(crate) limits: Limits,
    pub(crate) admission: AdmissionOptions,
    pub(crate) session: SessionOptions,
    pub(crate) replay: ReplayOptions,
    pub(crate) sweep: SweepOptions,
    pub(crate) tail: TailOptions,
    pub(crate) sqlite: SqliteOptions,
    pub(crate) postgres: PostgresOptions,
    pub(crate) nats: NatsOptions,
    pub(crate) log: LogSettings,
    /// Where settings came from: the file, and each variable.
    #[serde(skip)]
    origins: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:4510".to_owned(),
            database: Database::Sqlite("khala.db".into()),
            node: None,
            path_prefix: None,
            readiness_grace: Duration::ZERO,
            drain: Duration::from_secs(10),
            memory_bytes: Some(MemoryBudget::DEFAULT),
            sweep_interval: Some(Duration::from_secs(60)),
            postgres_listen_with_nats: false,
            auth: AuthSettings::default(),
            jwt: JwtOptions::default(),
            mint: MintSettings::default(),
            classes: Classes::default().iter().cloned().collect(),
            compatibility: Compatibility::default(),
            limits: Limits::default(),
            admission: AdmissionOptions::default(),
            session: SessionOptions::default(),
            replay: ReplayOptions::default(),
            sweep: SweepOptions::default(),
            tail: TailOptions::default(),
            sqlite: SqliteOptions::default(),
            postgres: PostgresOptions::default(),
            nats: NatsOptions::default(),
            log: LogSettings::default(),
            origins: Vec::new(),
        }
    }
}

/// What is logged, to standard error.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSettings {
    /// `human`, or `json`: one object a line.
    pub(crate) format: LogFormat,
    /// Which lines: a level, or `target=level` pairs as tracing-subscriber reads them. Example: `"info,khala_core=debug"`.
    pub(crate) filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Human, filter: "info".to_owned() }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Human,
    Json,
}

/// Settings of which 0 would mean that nothing works, and not that there is no limit.
const POSITIVE: [&str; 32] = [
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

    /// What cannot be told from one value alone.
    fn check(&self) -> Result<(), String> {
        let table = Value::Table(self.table());
        if let Some(key) = POSITIVE.iter().find(|key| values(&table, key).into_iter().any(is_zero)) {
            return Err(format!("the setting {key} must be more than 0"));
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

/// Refuses two settings that say the same thing.
fn exclude(one: &str, is_set: bool, other: &str, is_set_too: bool) -> Result<(), String> {
    if is_set && is_set_too { Err(format!("{one} and {other} exclude each other")) } else { Ok(()) }
}

/// All values of that key.
fn values<'a>(table: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut found = vec![table];
    for part in key.split('.') {
        let (name, each) = part.strip_suffix(setting_names::EACH).map_or((part, false), |name| (name, true));
        found = found.into_iter().filter_map(|value| value.get(name)).collect();
        if each {
            found = found.into_iter().filter_map(Value::as_array).flatten().collect();
        }
    }
    found
}

fn is_zero(value: &Value) -> bool {
    value.as_integer() == Some(0) || value.as_float() == Some(0.0)
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

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read(file: &Path, name: &str) -> Result<Table, String> {
    let text = std::fs::read(file).map_err(|fault| format!("{name} cannot be read: {fault}"))?;
    let text = str::from_utf8(without_byte_order_mark(&text)).map_err(|_| format!("{name} is not UTF-8"))?;
    text.parse().map_err(|fault: toml::de::Error| {
        let line = fault.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        format!("{name} is not TOML, line {line}: {}", one_line(fault.message()))
    })
}

/// The first of the options that is not the default.
fn first_set<T: Default + Serialize>(options: &T) -> Option<String> {
    let table = |options: &T| Table::try_from(options).expect("options are TOML");
    let (set, usual) = (table(options), table(&T::default()));
    set.into_iter().find(|(key, value)| usual.get(key) != Some(value)).map(|(key, _)| key)
}

/// What is wrong with settings.
struct Fault {
    /// The key, or a section whose keys do not go together.
    path: String,
    text: String,
}

/// Reads settings.
fn parse(table: Table) -> Result<Settings, Fault> {
    // serde would take a section's fields from an array, too.
    let is_section =
        |key: &str| setting_names::KEYS.iter().any(|known| known.path.starts_with(&format!("{key}.")));
    if let Some((key, _)) = table.iter().find(|(key, value)| value.is_array() && is_section(key)) {
        return Err(Fault { path: key.clone(), text: format!("the setting {key} is wrong: it is a table") });
    }
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|fault| {
        let path = fault.path().to_string();
        let message = one_line(fault.into_inner().message());
        let text = match message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
            Some(field) => unknown(&path, field),
            None => format!("the setting {path} is wrong: {}", in_toml(&message)),
        };
        Fault { path, text }
    })
}

/// Says what was meant instead of an unknown key. `path` may end with it.
fn unknown(path: &str, field: &str) -> String {
    let within = path.strip_suffix(field).unwrap_or(path).trim_end_matches('.');
    let path = if within.is_empty() { field.to_owned() } else { format!("{within}.{field}") };
    let each = |path: &str| -> String {
        path.split('[')
            .map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()))
            .collect::<Vec<_>>()
            .join("[")
    };
    match setting_names::nearest(&each(&path)) {
        Some(key) => format!("there is no key {path}; did you mean {key}?"),
        None => {
            let within = if within.is_empty() { String::new() } else { format!("{}.", each(within)) };
            let inner = setting_names::KEYS.iter().filter_map(|key| key.path.strip_prefix(&within));
            let mut known: Vec<_> = inner.filter_map(|rest| rest.split(['.', '[']).next()).collect();
            known.dedup();
            format!("there is no key {path}; known there: {}", known.join(", "))
        }
    }
}

/// What a value must be, in the words of TOML. A text in the place of a list or table is not repeated: it may be a secret.
fn in_toml(message: &str) -> String {
    match message.split_once(", expected ") {
        Some((_, expected)) if expected.starts_with("a sequence") => {
            "it must be a list, as [\"a\", \"b\"]".to_owned()
        }
        Some((_, expected)) if expected.starts_with("a map") || expected.starts_with("struct") => {
            "it must be a table, as {key = \"value\"}".to_owned()
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use khala_core::{
        Topic,
        class::{Classes, Tier},
    };

    use super::*;

    fn load(file: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("khala.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        Settings::load(Some(&path), environment)
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let settings = load(
            "listen = \"127.0.0.1:1\"\n[limits]\nframe_bytes = 5\nbody_bytes = 6",
            &[("KHALA_LISTEN", "127.0.0.1:2"), ("KHALA_LIMITS__FRAME_BYTES", "7"), ("HOME", "/")],
        )
        .unwrap();
        assert_eq!(settings.listen, "127.0.0.1:2");
        assert_eq!((settings.limits.frame_bytes, settings.limits.body_bytes), (7, 6));
    }

    #[test]
    fn a_fault_names_its_key() {
        for (file, environment, named) in [
            ("lisen = 1", [].as_slice(), "lisen"),
            ("[limits]\nframe_byte = 1", &[], "limits.frame_byte"),
            ("limits = 1", &[], "limits"),
            ("limits = []", &[("KHALA_LIMITS__FRAME_BYTES", "7")], "limits"),
            ("[postgres]\npassword = \"x\"", &[], "postgres.password"),
            ("drain_seconds = \"x\"", &[], "drain_seconds"),
            ("drain_seconds = -1", &[], "drain_seconds"),
            ("[limits]\nframe_bytes = 0", &[], "limits.frame_bytes"),
            ("[log]\nformat = \"loud\"", &[], "log.format"),
            ("listen = 4510", &[], "listen"),
            ("a b", &[], "line 1"),
            ("\n\nlisten = \"x", &[], "line 3"),
            ("", &[("KHALA_LISTN", "x")], "KHALA_LISTN"),
            ("", &[("KHALA_LIMITS", "x")], "KHALA_LIMITS"),
            ("", &[("KHALA_LIMITS__FRAME", "x")], "KHALA_LIMITS__FRAME"),
            ("", &[("KHALA_DRAIN_SECONDS", "ten")], "KHALA_DRAIN_SECONDS"),
            ("[auth]\nhs256_key = \"a\"\nhs256_key_file = \"b\"", &[], "auth.hs256_key_file"),
            ("readiness_grace_seconds = -1", &[], "readiness_grace_seconds"),
            ("[[classes]]\nname = \"a\"", &[], "pattern"),
            ("[[classes]]\nname = \"a\"\npattern = \"**\"\nteer = \"hot\"", &[], "classes[0].teer"),
            ("[[classes]]\nname = \"a\"\npattern = \"**\"\ntier = \"hotter\"", &[], "classes[0].tier"),
            (
                "[[classes]]\nname = \"a\"\npattern = \"**\"\npayload_bytes = 0",
                &[],
                "classes[].payload_bytes",
            ),
            (
                "[[classes]]\nname = \"a\"\npattern = \"**\"\nretain.age_seconds = 0",
                &[],
                "classes[].retain.age_seconds",
            ),
            (
                "[[classes]]\nname = \"a\"\npattern = \"**\"\nretain.updates = \"all\"",
                &[],
                "classes[0].retain.updates",
            ),
            (
                "[[classes]]\nname = \"a\"\npattern = \"**\"\nstall_timeout_seconds = \"never\"",
                &[],
                "stall_timeout_seconds",
            ),
            ("[admission]\nconnections = 0", &[], "admission.connections"),
            ("[session]\noutbox_bytes = -1", &[], "session.outbox_bytes"),
            ("[limits]\npayload_bytes = 1", &[], "limits.payload_bytes"),
            ("[replay]\nconcurrent_reads = 0", &[], "replay.concurrent_reads"),
            ("[replay]\nrate = {per_second = 1}", &[], "replay.rate"),
            ("[replay]\nrate = {per_second = 1, burts = 2}", &[], "burts"),
            ("sweep_interval_seconds = 0", &[], "sweep_interval_seconds"),
            ("[sweep]\nmax_stale_cursors = \"any\"", &[], "sweep.max_stale_cursors"),
            ("", &[("KHALA_SWEEP_INTERVAL_SECONDS", "never")], "KHALA_SWEEP_INTERVAL_SECONDS"),
        ] {
            let fault = load(file, environment).unwrap_err();
            assert!(fault.contains(named) && !fault.contains('\n'), "{file}: {fault}");
        }
    }

    /// The settings of the first production system, in `deploy/`.
    #[test]
    fn the_settings_for_agents_are_complete() {
        let settings = load(include_str!("../../../../../deploy/agents.toml"), &[]).unwrap();
        let names = settings.jwt.claim_names.clone();
        assert_eq!(
            [names.scopes, names.organisation, names.version],
            ["oa_sync_scopes", "oa_org_id", "oa_claims_version"]
        );
        let classes = Classes::new(settings.classes.clone()).unwrap();
        let (day, kib) = (Duration::from_secs(86_400), 1 << 10);
        for (topic, name, tier, budget, rate, bytes, age) in [
            ("run:7:events", "run_events", Tier::Warm, 20_000, 240, 256 * kib, 7 * day),
            ("worker:7:lifecycle", "worker_lifecycle", Tier::Warm, 10_000, 180, 64 * kib, 3 * day),
            ("runtime.codex_worker_events", "codex_worker_events", Tier::Hot, 3_000, 240, 128 * kib, day),
            ("runtime.codex_summaries", "summaries", Tier::Warm, 10_000, 240, 64 * kib, 3 * day),
            ("anything:else", "fallback", Tier::Cold, 500, 90, 64 * kib, day),
        ] {
            let class = classes.of(&Topic::parse(topic).unwrap()).unwrap();
            assert_eq!((&*class.name, class.tier), (name, tier), "{topic}");
            let rate_found = class.publish_rate.map(|rate| rate.per_second().get());
            assert_eq!((class.replay_budget, rate_found), (Some(budget), Some(rate)), "{topic}");
            assert_eq!((class.payload_bytes, class.retain.age), (Some(bytes), Some(age)), "{topic}");
            assert_eq!(
                (&*class.read, &*class.publish),
                (&["khala:read".to_owned()][..], &["khala:publish".to_owned()][..])
            );
        }
        assert_eq!(classes.iter().count(), 5);
        let printed = settings.to_toml();
        assert_eq!(load(&printed, &[]).unwrap().to_toml(), printed);
    }

    #[test]
    fn the_rules_in_force_are_printed_also_where_nothing_is_set() {
        for (file, names) in [
            ("", ["default"].as_slice()),
            ("[[classes]]\nname = \"all\"\npattern = \"**\"\nretain.updates = 7", &["all"]),
            ("classes = []", &[]),
        ] {
            let printed = load(file, &[]).unwrap().to_toml();
            let table: Table = printed.parse().unwrap();
            let classes = table["classes"].as_array().unwrap();
            let found: Vec<_> = classes.iter().map(|class| class["name"].as_str().unwrap()).collect();
            assert_eq!(found, names);
            for class in classes {
                for key in ["tier", "replay_budget", "publish_rate", "payload_bytes", "retain"] {
                    assert!(class.get(key).is_some(), "{key}: {class}");
                }
            }
            assert_eq!(load(&printed, &[]).unwrap().to_toml(), printed);
        }
        let environment = [("KHALA_SWEEP__MAX_STALE_CURSORS", "5"), ("KHALA_REPLAY__RATE", "none")];
        let settings = load("sweep_interval_seconds = \"none\"", &environment).unwrap();
        assert_eq!((settings.sweep_interval, settings.sweep.max_stale_cursors), (None, Some(5)));
        assert_eq!(settings.sweep.recent_cursor, Duration::from_secs(3_600));
        assert_eq!(settings.replay.rate, None);
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_known_one() {
        for (file, environment, says) in [
            (
                "[limits]\nframe_byte = 1",
                [].as_slice(),
                "no key limits.frame_byte; did you mean limits.frame_bytes?",
            ),
            ("[limits]\nconnections = 1", &[], "did you mean admission.connections?"),
            ("frame_bytes = 1", &[], "did you mean limits.frame_bytes?"),
            ("lisen = \"a\"", &[], "no key lisen; did you mean listen?"),
            ("[[auth.keys]]\nkdi = \"a\"", &[], "no key auth.keys[0].kdi; did you mean auth.keys[].kid?"),
            (
                "[tail]\nnothing_like_it = 1",
                &[],
                "known there: topic_bytes, history_bytes, total_bytes, idle_seconds",
            ),
            ("", &[("KHALA_LISTN", "x")], "no setting; did you mean KHALA_LISTEN?"),
            ("", &[("KHALA_LIMITS__FRAME_BYTE", "1")], "did you mean KHALA_LIMITS__FRAME_BYTES?"),
            ("", &[("KHALA_SOMETHING_ELSE", "1")], "docs/server.md lists them"),
        ] {
            let fault = load(file, environment).unwrap_err();
            assert!(fault.contains(says), "{file}: {fault}");
        }
    }

    #[test]
    fn a_variable_is_its_text_or_what_toml_reads_in_it() {
        let settings = load(
            "",
            &[
                ("KHALA_NODE", "7"),
                ("KHALA_AUTH__HS256_KEY", "01234567890123456789012345678901"),
                ("KHALA_AUTH__ORIGINS", "['https://a.example']"),
                ("KHALA_JWT__MAX_AGE_SECONDS", "none"),
                ("KHALA_JWT__REQUIRE_JTI", "false"),
                ("KHALA_JWT__LEEWAY_SECONDS", "0.5"),
                ("KHALA_ADMISSION__CONNECTS_PER_ADDRESS", "{per_second = 5, burst = 50}"),
                ("KHALA_POSTGRES__OPTIONS", "{search_path = 'app'}"),
                ("KHALA_COMPATIBILITY__CLIENT_BUILD__MIN", "1.20"),
                ("KHALA_NATS__CREDENTIALS__TOKEN_FILE", "/run/secrets/nats"),
                ("KHALA_NATS__SERVERS", "['nats:4222']"),
                ("KHALA_DATABASE", "postgres://db/khala"),
            ],
        )
        .unwrap();
        assert_eq!(settings.node.as_ref().map(NodeId::as_str), Some("7"));
        assert_eq!(settings.auth.origins.as_deref(), Some(&["https://a.example".to_owned()][..]));
        assert_eq!((settings.jwt.max_age, settings.jwt.require_jti), (None, false));
        assert_eq!(settings.jwt.leeway, Duration::from_millis(500));
        assert_eq!(settings.admission.connects_per_address.map(|rate| rate.burst().get()), Some(50));
        assert_eq!(settings.postgres.options["search_path"], "app");
        assert!(settings.compatibility.client_build.is_some() && settings.uses_nats());
        assert!(settings.to_toml().contains("token_file = \"/run/secrets/nats\""));
        for (name, value, says) in [
            ("KHALA_AUTH__ORIGINS", "https://a.example", "a list"),
            ("KHALA_JWT__REQUIRE_JTI", "perhaps", "boolean"),
            ("KHALA_AUTH__KEYS", "[{secret = 'a'}]", "auth.keys[0]"),
            ("KHALA_NATS__SERVERS", "nats://ann:s3cret@host", "a list"),
            ("KHALA_AUTH__KEYS", "s3cret", "a list"),
            ("KHALA_AUTH__KEYS", "['s3cret']", "a table"),
        ] {
            let fault = load("", &[(name, value)]).unwrap_err();
            assert!(fault.contains(name) && fault.contains(says) && !fault.contains("s3cret"), "{fault}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_and_holds_no_secret() {
        let settings = load("[auth]\nhs256_key = \"0123456789abcdef0123456789abcdef\"", &[]).unwrap();
        let printed = settings.to_toml();
        assert!(printed.contains("hs256_key = \"***\"") && !printed.contains("0123456789"), "{printed}");
        assert!(!format!("{settings:?}").contains("0123456789"));
        load(&printed, &[]).unwrap();
        let address = "[auth]\njwks_url = \"https://a.example/keys?key=0123456789\"";
        assert!(!load(address, &[]).unwrap().to_toml().contains("0123456789"));
        let fault = load("[auth]\nhs256_key = 12345678", &[]).unwrap_err();
        assert!(fault.contains("auth.hs256_key") && !fault.contains("12345678"), "{fault}");
    }
}
