//! Everything that can be set: the libraries' options, and what the program has of its own.

use std::time::Duration;

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
    wire::PathPrefix,
};
use khala_fanout_nats::NatsOptions;
use khala_server::{Compatibility, Limits};
use khala_store_postgres::PostgresOptions;
use khala_store_sqlite::SqliteOptions;
use serde::{Deserialize, Serialize};

use super::{
    address::Database,
    auth::{AuthSettings, MintSettings},
};

/// Everything that can be set.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The address and port to listen on. With `--dev`, only a loopback address.
    pub(crate) listen: String,
    /// The path of the SQLite file, which is created if it does not exist, or the address of a PostgreSQL
    /// database: `postgres://user:password@host:port/database?sslmode=…`. An IPv6 address stands in brackets:
    /// `postgres://khala@[::1]/khala`. Other forms (`host=… dbname=…`, `sqlite:…`, `file:…`, `:memory:`) are
    /// refused. A file whose name has a colon is written as `./name`.
    pub(crate) database: Database,
    /// The name of this node among the nodes that share the database. Each node has a different name. Without
    /// it, the name is random. Example: `"node-1"`.
    pub(crate) node: Option<NodeId>,
    /// The path under which clients reach this server, if a proxy removes it. It stands before links in
    /// answers. Example: `"/realtime"`.
    pub(crate) path_prefix: Option<PathPrefix>,
    /// How long a server that was told to stop continues to serve with only its readiness turned off, so that
    /// load balancers notice first.
    #[serde(rename = "readiness_grace_seconds", with = "seconds")]
    pub(crate) readiness_grace: Duration,
    /// The longest time over which connections are closed after that. At least ten a second are closed.
    #[serde(rename = "drain_seconds", with = "seconds")]
    pub(crate) drain: Duration,
    /// About how much memory the newest updates, snapshots, request bodies, answers and unsent frames together
    /// may use, or `"none"`: see [Memory](#memory).
    #[serde(with = "or_none")]
    pub(crate) memory_bytes: Option<u64>,
    /// How often history that is no longer kept is deleted, or `"none"`: never by itself.
    #[serde(rename = "sweep_interval_seconds", with = "seconds_or_none")]
    pub(crate) sweep_interval: Option<Duration>,
    /// Whether the server uses LISTEN on PostgreSQL although NATS carries the announcements. It then notices at
    /// once what applications append in their own transactions. Otherwise it finds these updates by polling.
    pub(crate) postgres_listen_with_nats: bool,
    pub(crate) auth: AuthSettings,
    pub(crate) jwt: JwtOptions,
    pub(crate) mint: MintSettings,
    /// The topic classes in their order, each a table `[[classes]]`. Without any, there is one class,
    /// `default`, for every topic. Example:
    /// `[{name = "orders", pattern = "orders:{id}", read = ["khala:read"]}]`.
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
    pub(super) origins: Vec<String>,
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
    /// `human`, or `json` for one object a line.
    pub(crate) format: LogFormat,
    /// The lines that are logged: a level, or `target=level` pairs as tracing-subscriber reads them. Example:
    /// `"info,khala_core=debug"`.
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
