//! Settings: one TOML file, every key also as an environment variable, and defaults for all of it.
//!
//! `limits.frame_bytes` is `KHALA_LIMITS__FRAME_BYTES`.
//!
//! # Invariants
//! An unknown key or a value of the wrong type is refused by its name, never passed over; and a secret is never printed.

mod address;
mod auth;
mod classes;
mod limits;
mod nats;
mod postgres;
mod shape;
mod values;

use std::{ffi::OsString, num::NonZeroU64, path::Path, time::Duration};

use khala_core::{node::NodeId, session::SessionOptions, tail::TailOptions, text::without_byte_order_mark};
use khala_server::Limits;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub(crate) use self::{
    address::Database,
    auth::{AuthSettings, CompatibilitySettings, KeySettings},
    classes::ClassSettings,
    nats::NatsSettings,
    values::Secret,
};
use self::{
    auth::MintSettings,
    limits::{LimitSettings, StormSettings, SweepSettings},
    postgres::PostgresSettings,
};

/// What comes before the name of a setting in the environment.
const PREFIX: &str = "KHALA_";
/// Variables of that prefix that are not settings: where the file is, and those of the `khala` command.
const NOT_SETTINGS: [&str; 4] = ["KHALA_ADMIN_TOKEN", "KHALA_CONFIG", "KHALA_TOKEN", "KHALA_URL"];

/// Everything that can be set.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// Address and port to listen on.
    pub(crate) listen: String,
    /// Where the journal is. An SQLite file is made if it is not there.
    pub(crate) database: Database,
    /// What this node is called among those that share the database; a random name if it is not said.
    pub(crate) node: Option<String>,
    /// How long the closing of connections takes when the server stops.
    pub(crate) drain_seconds: u32,
    /// How long before that only readiness is off.
    pub(crate) unready_seconds: u32,
    pub(crate) postgres: PostgresSettings,
    pub(crate) nats: NatsSettings,
    pub(crate) auth: AuthSettings,
    pub(crate) mint: MintSettings,
    /// Topic classes in their order.
    pub(crate) classes: Vec<ClassSettings>,
    pub(crate) compatibility: CompatibilitySettings,
    pub(crate) limits: LimitSettings,
    pub(crate) storm: StormSettings,
    pub(crate) sweep: SweepSettings,
    pub(crate) sync: SyncSettings,
    /// How much of the newest history is kept in memory.
    pub(crate) tail: TailOptions,
    pub(crate) log: LogSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:4510".to_owned(),
            database: Database::Sqlite("khala.db".into()),
            node: None,
            drain_seconds: 10,
            unready_seconds: 0,
            postgres: PostgresSettings::default(),
            nats: NatsSettings::default(),
            auth: AuthSettings::default(),
            mint: MintSettings::default(),
            classes: ClassSettings::of_library(),
            compatibility: CompatibilitySettings::default(),
            limits: LimitSettings::default(),
            storm: StormSettings::default(),
            sweep: SweepSettings::default(),
            sync: SyncSettings::default(),
            tail: TailOptions::default(),
            log: LogSettings::default(),
        }
    }
}

/// What a connection may do, and how often the server looks.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct SyncSettings {
    /// Topics that one connection may join.
    pub(crate) topics: u32,
    /// Silence after which a client counts as gone.
    pub(crate) heartbeat_timeout_seconds: u32,
    /// How often the journal is asked although nothing was announced.
    pub(crate) poll_seconds: u32,
    /// Silence on a topic after which its head is told.
    pub(crate) head_seconds: u32,
    /// How long a connection may take nothing of what it is sent.
    pub(crate) stall_seconds: u32,
}

impl Default for SyncSettings {
    fn default() -> Self {
        let options = SessionOptions::default();
        Self {
            topics: u32::try_from(options.topics).unwrap_or(u32::MAX),
            heartbeat_timeout_seconds: seconds(options.heartbeat_timeout),
            poll_seconds: seconds(options.poll_interval),
            head_seconds: seconds(options.head_interval),
            stall_seconds: seconds(options.stall_timeout),
        }
    }
}

impl SyncSettings {
    fn options(&self) -> SessionOptions {
        let duration = |seconds: u32| Duration::from_secs(seconds.into());
        SessionOptions {
            topics: self.topics as usize,
            heartbeat_timeout: duration(self.heartbeat_timeout_seconds),
            poll_interval: duration(self.poll_seconds),
            head_interval: duration(self.head_seconds),
            stall_timeout: duration(self.stall_seconds),
            ..SessionOptions::default()
        }
    }
}

/// What is logged, to standard error.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct LogSettings {
    pub(crate) format: LogFormat,
    /// Which lines: a level, or `target=level` pairs as tracing-subscriber reads them.
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

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

impl Settings {
    /// The defaults, overridden by the file, overridden by the environment.
    ///
    /// # Errors
    /// One line that names the file or the variable, and what is wrong.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, String> {
        let mut table = match file {
            Some(file) => read(file)?,
            None => Table::new(),
        };
        for (name, value) in environment {
            overlay(&mut table, &name, &value)?;
        }
        let settings: Self = serde_path_to_error::deserialize(Value::Table(table)).map_err(|fault| {
            let key = fault.path().to_string();
            format!("the setting {key} is wrong: {}", one_line(fault.into_inner().message()))
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// The limits of the service.
    pub(crate) fn limits(&self) -> Limits {
        let Self { limits, sync, .. } = self;
        Limits {
            body_bytes: limits.body_bytes as usize,
            body_timeout: Duration::from_secs(limits.body_seconds.into()),
            frame_bytes: limits.frame_bytes as usize,
            header_timeout: Duration::from_secs(limits.header_seconds.into()),
            http_connections: limits.http_connections.0,
            http_connections_per_address: limits.http_connections_per_address.0,
            requests_per_subject: limits.requests_per_subject.0,
            requests_per_address: limits.requests_per_address.0,
            keep_alive_timeout: Duration::from_secs(limits.keep_alive_seconds.into()),
            send_buffer_bytes: limits.send_buffer_bytes.0.map(|bytes| bytes.get() as usize), // The same patience over HTTP as over a WebSocket.
            stall_timeout: Duration::from_secs(sync.stall_seconds.into()),
        }
    }

    /// The limits and intervals of the sessions.
    pub(crate) fn sessions(&self) -> SessionOptions {
        let outbox_bytes = self.limits.outbox_bytes.0.map(NonZeroU64::get);
        SessionOptions { outbox_bytes, ..self.sync.options() }
    }

    /// The name of this node, if it is given one.
    pub(crate) fn node(&self) -> Result<Option<NodeId>, String> {
        let node = self.node.as_deref().map(NodeId::parse).transpose();
        node.map_err(|fault| format!("the setting node is wrong: {fault}"))
    }

    /// Whether the node is to LISTEN, where the database is one of PostgreSQL.
    pub(crate) fn listens(&self) -> bool {
        !self.nats.is_on() || self.nats.listen
    }

    /// What cannot be told from one value alone.
    fn check(&self) -> Result<(), String> {
        let Self { auth, mint, limits, sync, .. } = self;
        self.node()?;
        let postgres = matches!(self.database, Database::Postgres(_));
        self.postgres.check(postgres && self.listens())?;
        self.nats.check(postgres)?;
        auth.check()?;
        mint.check(auth)?;
        let positive = [
            ("auth.jwks_refresh_seconds", auth.jwks_refresh_seconds),
            ("auth.jwks_min_refresh_seconds", auth.jwks_min_refresh_seconds),
            ("limits.body_bytes", limits.body_bytes),
            ("limits.body_seconds", limits.body_seconds),
            ("limits.frame_bytes", limits.frame_bytes),
            ("limits.header_seconds", limits.header_seconds),
            ("limits.keep_alive_seconds", limits.keep_alive_seconds),
            ("sync.topics", sync.topics),
            ("sync.heartbeat_timeout_seconds", sync.heartbeat_timeout_seconds),
            ("sync.poll_seconds", sync.poll_seconds),
            ("sync.head_seconds", sync.head_seconds),
            ("sync.stall_seconds", sync.stall_seconds),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("the setting {key} must be more than 0")),
            None => Ok(()),
        }
    }

    /// The settings as TOML, secrets masked.
    pub(crate) fn to_toml(&self) -> String {
        let mut table = Table::try_from(self).expect("settings are TOML");
        mask_addresses(&mut table);
        toml::to_string(&table).expect("settings are TOML")
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

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read(file: &Path) -> Result<Table, String> {
    let name = file.display();
    let text =
        std::fs::read(file).map_err(|fault| format!("the settings file {name} cannot be read: {fault}"))?;
    let text = str::from_utf8(without_byte_order_mark(&text))
        .map_err(|_| format!("the settings file {name} is not UTF-8"))?;
    let table: Table = text.parse().map_err(|fault: toml::de::Error| {
        let line = fault.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        format!("the settings file {name} is not TOML, line {line}: {}", one_line(fault.message()))
    })?;
    shape::check(&table, shape::ALL, "").map_err(|fault| format!("the settings file {name} has {fault}"))?;
    Ok(table)
}

/// Puts a variable of the environment into `table`, if it is a setting's.
fn overlay(table: &mut Table, name: &OsString, value: &OsString) -> Result<(), String> {
    let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { return Ok(()) };
    if NOT_SETTINGS.contains(&name) || is_service_link(name) {
        return Ok(());
    }
    let text = value.to_str().ok_or_else(|| format!("the variable {name} is not UTF-8"))?;
    let (path, shape) = shape::of_variable(&name[PREFIX.len()..].to_ascii_lowercase())
        .ok_or_else(|| format!("the variable {name} is no setting; docs/server.md lists them"))?;
    let value =
        shape::value(text, shape, &path.join(".")).map_err(|fault| format!("the variable {name} {fault}"))?;
    let (key, sections) = path.split_last().expect("a path has a key");
    let mut table = table;
    for section in sections {
        let section = table.entry(*section).or_insert_with(|| Value::Table(Table::new()));
        table = section.as_table_mut().expect("it was checked that sections are tables");
    }
    table.insert((*key).to_owned(), value);
    Ok(())
}

/// Whether an orchestrator made the variable for a service that is called khala-something, as Kubernetes does.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
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
            ("unready_seconds = -1", &[], "unready_seconds"),
            ("[[classes]]\nname = \"a\"", &[], "pattern"),
            ("[[classes]]\nname = \"a\"\npattern = \"**\"\nteer = \"hot\"", &[], "classes[0].teer"),
            ("[[classes]]\nname = \"a\"\npattern = \"**\"\ntier = \"hotter\"", &[], "classes[0].tier"),
            (
                "[[classes]]\nname = \"a\"\npattern = \"**\"\npayload_bytes = 0",
                &[],
                "classes[0].payload_bytes",
            ),
            (
                "[[classes]]\nname = \"a\"\npattern = \"**\"\nretain_for_seconds = 0",
                &[],
                "retain_for_seconds",
            ),
            ("[[classes]]\nname = \"a\"\npattern = \"**\"\nretain_updates = \"all\"", &[], "retain_updates"),
            ("[[classes]]\nname = \"a\"\npattern = \"**\"\nstall_seconds = \"none\"", &[], "stall_seconds"),
            ("[limits]\nconnections = 0", &[], "limits.connections"),
            ("[limits]\noutbox_bytes = -1", &[], "limits.outbox_bytes"),
            ("[limits]\npayload_bytes = 1", &[], "limits.payload_bytes"),
            ("[storm]\nreplays_at_once = 0", &[], "storm.replays_at_once"),
            ("[storm]\nreplay_pages = {per_second = 1}", &[], "storm.replay_pages"),
            ("[storm]\nreplay_pages = {per_second = 1, burts = 2}", &[], "storm.replay_pages.burts"),
            ("[sweep]\nevery_seconds = 0", &[], "sweep.every_seconds"),
            ("[sweep]\nguard_cursors = \"any\"", &[], "sweep.guard_cursors"),
            ("", &[("KHALA_SWEEP__EVERY_SECONDS", "never")], "KHALA_SWEEP__EVERY_SECONDS"),
        ] {
            let fault = load(file, environment).unwrap_err();
            assert!(fault.contains(named) && !fault.contains('\n'), "{file}: {fault}");
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let names = [
            "KHALA_ADMIN_TOKEN",
            "KHALA_URL",
            "KHALA_TOKEN",
            "KHALA_CONFIG",
            "KHALA_SERVICE_HOST",
            "KHALA_PORT_4510_TCP_ADDR",
        ];
        let environment: Vec<_> = names.iter().map(|name| (*name, "x")).collect();
        load("", &environment).unwrap();
        assert!(names[4..].iter().all(|name| is_service_link(name)));
        for (path, _) in shape::tests::paths() {
            let name = format!("KHALA_{}", path.replace('.', "__")).to_uppercase();
            assert!(!is_service_link(&name), "{name}");
        }
    }

    /// The settings of the first production system, in `deploy/`.
    #[test]
    fn the_settings_for_agents_are_complete() {
        let settings = load(include_str!("../../../../../deploy/agents.toml"), &[]).unwrap();
        let names = settings.auth.options().claim_names;
        assert_eq!(
            [names.scopes, names.organisation, names.version],
            ["oa_sync_scopes", "oa_org_id", "oa_claims_version"]
        );
        let classes: Vec<_> = settings.classes.iter().map(|class| class.class().unwrap()).collect();
        let classes = Classes::new(classes).unwrap();
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
            ("[[classes]]\nname = \"all\"\npattern = \"**\"\nretain_updates = 7", &["all"]),
            ("classes = []", &[]),
        ] {
            let printed = load(file, &[]).unwrap().to_toml();
            let table: Table = printed.parse().unwrap();
            let classes = table["classes"].as_array().unwrap();
            let found: Vec<_> = classes.iter().map(|class| class["name"].as_str().unwrap()).collect();
            assert_eq!(found, names);
            for class in classes {
                for key in
                    ["tier", "replay_budget", "publish_per_second", "payload_bytes", "retain_for_seconds"]
                {
                    assert!(class.get(key).is_some(), "{key}: {class}");
                }
            }
            assert_eq!(load(&printed, &[]).unwrap().to_toml(), printed);
        }
        let environment = [("KHALA_SWEEP__GUARD_CURSORS", "5"), ("KHALA_STORM__REPLAY_PAGES", "none")];
        let settings = load("[sweep]\nevery_seconds = \"none\"", &environment).unwrap();
        let SweepSettings { every_seconds, guard_cursors, seen_seconds, retire_after_seconds } =
            settings.sweep;
        assert_eq!((every_seconds.0, guard_cursors.0, seen_seconds), (None, Some(5), 3_600));
        assert_eq!(retire_after_seconds.0, Some(604_800));
        assert_eq!(settings.storm.options().rate, None);
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
