//! What takes part in a run beside the clients: the database, what stands in front of it, the fanout, the nodes.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use khala_scenarios::{server::Server, workspace::Workspace};
use khala_testing::{Cluster, During as _, Failure, Nats, Pgbouncer, Proxy, free_address};
use sqlx::postgres::PgConnectOptions;
use tokio::time::sleep;

use crate::{Fanout, Options, Store};

/// How many nodes there are.
pub(crate) const NODES: usize = 3;
/// Connections of a pooler to the database: fewer than its clients have to it.
const POOLED: u16 = 20;
/// The JWK Set that the nodes trust in a long run.
const KEYS: &str = "keys.json";
/// How many rotations a key stays: tokens that it signed end before.
const KEYS_KEPT: u64 = 5;
const KEY_READ_WITHIN: Duration = Duration::from_secs(3);
const TOKEN_OF_A_ROTATION: &str = "60s";
/// Longer than any run but a long one, which rotates its keys.
const TOKEN_ENDS_AFTER: &str = "1h";

/// Everything is kept, and nobody is held to a rate: what is lost here is lost by a fault.
const SEVERAL: &str = r#"{ name = "several", pattern = "several:**", read = ["khala:read"],
    publish = ["khala:publish"], tier = "warm", publish_rate = "none", replay_budget = "none",
    retain = { age_seconds = "none" } }"#;
/// What loads the nodes' memory in a long run: of this only the newest updates are kept.
const BULK: &str = r#"{ name = "bulk", pattern = "bulk:**", read = ["khala:read"], publish = ["khala:publish"], tier = "warm",
    publish_rate = "none", replay_budget = "none", retain = { age_seconds = "none", updates = 60 } }"#;
/// Limits that stand against one user with hundreds of connections, which is what the clients look like.
const UNLIMITED: [&str; 8] = [
    "CONNECTIONS_PER_SUBJECT",
    "CONNECTIONS_PER_ADDRESS",
    "CONNECTS_PER_SUBJECT",
    "CONNECTS_PER_ADDRESS",
    "JOINS_PER_SUBJECT",
    "JOINS_PER_ADDRESS",
    "FRAMES_PER_SUBJECT",
    "FRAMES_PER_ADDRESS",
];

/// The setting of a run.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) servers: Vec<Server>,
    pub(crate) postgres: Option<Postgres>,
    pub(crate) nats: Option<Middle>,
    /// The small file system that PostgreSQL's data is on, where it is to be filled up.
    pub(crate) disk: Option<PathBuf>,
}

/// PostgreSQL, and the ways to it.
#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) standby: Option<Arc<Cluster>>,
    /// What LISTEN goes through.
    pub(crate) listen: Proxy,
    /// What everything else goes through, behind the pooler where there is one.
    pub(crate) way: Proxy,
    pooler: Option<Pgbouncer>,
    database: String,
}

/// A NATS server, and the way to it.
#[derive(Debug)]
pub(crate) struct Middle {
    pub(crate) nats: Arc<Nats>,
    pub(crate) way: Proxy,
}

impl Setting {
    /// Starts all of it.
    pub(crate) async fn prepare(options: &Options) -> Result<Self, Failure> {
        let workspace = Arc::new(Workspace::prepare("several-nodes")?);
        workspace.mint(TOKEN_ENDS_AFTER).await?;
        if options.soak.is_some() {
            rotate(&workspace, 0).await?;
        }
        let postgres = (options.store == Store::Postgres).then(|| Postgres::start(options));
        let nats = (options.fanout == Fanout::Nats).then(|| {
            let nats = Arc::new(Nats::start());
            let way = Proxy::before(nats.port());
            Middle { nats, way }
        });
        let classes =
            if options.soak.is_some() { format!("[{SEVERAL}, {BULK}]") } else { format!("[{SEVERAL}]") };
        let mut settings = vec![("KHALA_CLASSES".to_owned(), classes)];
        settings
            .extend(UNLIMITED.iter().map(|limit| (format!("KHALA_ADMISSION__{limit}"), "none".to_owned())));
        match &postgres {
            Some(postgres) => settings.extend(postgres.settings()),
            None => {
                let file = workspace.path("khala.db").display().to_string();
                settings.push(("KHALA_DATABASE".to_owned(), file));
            }
        }
        if let Some(middle) = &nats {
            let servers = format!(r#"["nats://127.0.0.1:{}"]"#, middle.way.port());
            settings.push(("KHALA_NATS__SERVERS".to_owned(), servers));
            // What is appended by SQL is announced by PostgreSQL alone.
            settings.push(("KHALA_POSTGRES_LISTEN_WITH_NATS".to_owned(), "true".to_owned()));
        }
        if options.soak.is_some() {
            let keys = workspace.path(KEYS).display().to_string();
            let soak = [("AUTH__KEYS_FILE", keys.as_str()), ("SWEEP_INTERVAL_SECONDS", "5")];
            settings.extend(soak.map(|(name, value)| (format!("KHALA_{name}"), value.to_owned())));
        }
        let mut servers = Vec::new();
        for number in 0..NODES {
            let address = free_address();
            let mut settings = settings.clone();
            if postgres.is_some() {
                settings.push(("KHALA_NODE".to_owned(), format!("node-{number}")));
            }
            let (name, workspace) = (format!("node-{number}"), Arc::clone(&workspace));
            let log = workspace.log_file(&name);
            servers.push(Server::start(name, address, log, move || {
                let mut server = workspace.server(address);
                server.envs(settings.iter().cloned());
                server
            })?);
        }
        for server in &mut servers {
            server.ready().await?;
        }
        Ok(Self { workspace, servers, postgres, nats, disk: options.disk.clone() })
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Server::address).collect()
    }
}

impl Postgres {
    fn start(options: &Options) -> Self {
        // As a real one is: with syncs.
        let cluster = Arc::new(Cluster::start_with(&["max_connections=200"]));
        let url = cluster.database();
        let database = url.rsplit('/').next().unwrap_or_default().to_owned();
        let standby = options.failover.then(|| Arc::new(cluster.standby()));
        let (listen, way) = (Proxy::before(cluster.port()), Proxy::before(cluster.port()));
        let pooler = options.pooler.then(|| Pgbouncer::start(way.port(), POOLED));
        Self { cluster, standby, listen, way, pooler, database }
    }

    /// The address of the database, as those have it who do not listen.
    fn url(&self) -> String {
        match &self.pooler {
            Some(pooler) => pooler.url(&self.database),
            None => url(self.way.port(), &self.database),
        }
    }

    fn settings(&self) -> Vec<(String, String)> {
        let mut settings = vec![
            ("KHALA_DATABASE", self.url()),
            ("KHALA_POSTGRES__LISTEN__URL", url(self.listen.port(), &self.database)),
        ];
        if self.pooler.is_some() {
            settings.push(("KHALA_POSTGRES__POOLER", "true".to_owned()));
        }
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// How an application connects to it.
    pub(crate) fn options(&self) -> Result<PgConnectOptions, Failure> {
        let options: PgConnectOptions = self.url().parse().during("reading the database's address")?;
        // Named statements do not outlive a transaction where there is a pooler.
        Ok(options.statement_cache_capacity(0))
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://khala@127.0.0.1:{port}/{database}")
}

/// Adds a key of that number to those that the nodes trust, takes an old one out, and mints the token of the moment with
/// the new one. A token is good for a minute, and its key for longer.
pub(crate) async fn rotate(workspace: &Workspace, number: u64) -> Result<(), Failure> {
    let keys = workspace.path(KEYS);
    let key = async |arguments: &[&str], kid: u64| {
        let mut khala = workspace.command("khala");
        khala.args(["key", arguments[0]]).arg(&keys).args(&arguments[1..]).arg(format!("k{kid}"));
        let done = khala.output().await.during("running khala key")?;
        if done.status.success() {
            Ok(())
        } else {
            Err(Failure::new(String::from_utf8_lossy(&done.stderr).trim()))
        }
    };
    key(&["add", "--kid"], number).await?;
    if let Some(old) = number.checked_sub(KEYS_KEPT) {
        key(&["remove", "--kid"], old).await?;
    }
    if number > 0 {
        // Every node reads the file each second.
        sleep(KEY_READ_WITHIN).await;
    }
    workspace.mint_with(&keys, &format!("k{number}"), TOKEN_OF_A_ROTATION).await
}
