//! What takes part in a run beside the clients: the database, what stands in front of it, the fanout, the nodes.

use std::{net::SocketAddr, sync::Arc};

use khala_testing::{Cluster, Nats, Pgbouncer, Proxy};
use main_job::{
    failure::{During as _, Failure},
    place::{Place, free_addresses},
    server::Server,
};
use sqlx::postgres::PgConnectOptions;
use tokio::process::Command;

use crate::{Fanout, Options, Store};

/// How many nodes there are.
pub(crate) const NODES: usize = 3;
/// Connections of a pooler to the database: fewer than its clients have to it.
const POOLED: u16 = 20;
/// Longer than any run.
const TOKEN_ENDS_AFTER: &str = "1h";

/// Everything is kept, and nobody is held to a rate: what is lost here is lost by a fault.
const CLASSES: &str = r#"[{ name = "several", pattern = "several:**", read = ["khala:read"],
    publish = ["khala:publish"], tier = "warm", publish_per_second = "none", replay_budget = "none",
    retain_for_seconds = "none", retain_updates = "none", retain_bytes = "none" }]"#;
/// Limits that stand against one user with hundreds of connections, which is what the crowd looks like.
const UNLIMITED: [&str; 8] = [
    "CONNECTIONS_PER_PRINCIPAL",
    "CONNECTIONS_PER_ADDRESS",
    "CONNECTS_PER_PRINCIPAL",
    "CONNECTS_PER_ADDRESS",
    "JOINS_PER_PRINCIPAL",
    "JOINS_PER_ADDRESS",
    "FRAMES_PER_PRINCIPAL",
    "FRAMES_PER_ADDRESS",
];

/// The setting of a run.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) place: Arc<Place>,
    pub(crate) servers: Vec<Server>,
    pub(crate) postgres: Option<Postgres>,
    pub(crate) nats: Option<Middle>,
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
        let place = Arc::new(Place::prepare("several-nodes")?);
        place.mint(TOKEN_ENDS_AFTER).await?;
        let postgres = (options.store == Store::Postgres).then(|| Postgres::start(options));
        let nats = (options.fanout == Fanout::Nats).then(|| {
            let nats = Arc::new(Nats::start());
            let way = Proxy::before(nats.port());
            Middle { nats, way }
        });
        let addresses = free_addresses::<NODES>()?;
        let mut settings = vec![("KHALA_CLASSES".to_owned(), CLASSES.to_owned())];
        settings.extend(UNLIMITED.iter().map(|limit| (format!("KHALA_LIMITS__{limit}"), "none".to_owned())));
        match &postgres {
            Some(postgres) => settings.extend(postgres.settings()),
            None => {
                let file = place.path("khala.db").display().to_string();
                settings.push(("KHALA_DATABASE".to_owned(), file));
            }
        }
        if let Some(middle) = &nats {
            let servers = format!(r#"["nats://127.0.0.1:{}"]"#, middle.way.port());
            settings.push(("KHALA_NATS__SERVERS".to_owned(), servers));
            // What is appended by SQL is announced by PostgreSQL alone.
            settings.push(("KHALA_NATS__LISTEN".to_owned(), "true".to_owned()));
        }
        let mut servers = Vec::new();
        for (number, address) in addresses.into_iter().enumerate() {
            let mut settings = settings.clone();
            if postgres.is_some() {
                settings.push(("KHALA_NODE".to_owned(), format!("node-{number}")));
            }
            let set = move |server: &mut Command| {
                server.envs(settings.iter().cloned());
            };
            servers.push(Server::start(&place, &format!("node-{number}"), address, set)?);
        }
        for server in &mut servers {
            server.ready().await?;
        }
        Ok(Self { place, servers, postgres, nats })
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
            ("KHALA_POSTGRES__LISTEN", url(self.listen.port(), &self.database)),
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
