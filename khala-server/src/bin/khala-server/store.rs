//! From the settings to the store: SQLite, or PostgreSQL with what carries announcements between its nodes.

use std::sync::Arc;

use khala_core::{
    Khala, KhalaBuilder,
    fanout::{Fanout, LocalFanout},
    health::Health,
    telemetry,
};
use khala_fanout_nats::{NatsFanout, NatsOptions};
use khala_store_postgres::{PostgresFanout, PostgresOptions, PostgresStore};
use khala_store_sqlite::{SqliteOptions, SqliteStore};

use crate::settings::{Database, Settings};

/// The store and what carries announcements, open.
pub(crate) struct Opened {
    pub(crate) khala: KhalaBuilder,
    pub(crate) watched: Watched,
}

/// What operators are told of it.
#[derive(Clone, Default)]
pub(crate) struct Watched {
    store: Option<Arc<PostgresStore>>,
    nats: Option<NatsFanout>,
    /// With NATS too it may be there: what it hears is told by the levels of that.
    listening: Option<Arc<PostgresFanout>>,
}

impl Watched {
    /// What the server does without now.
    pub(crate) fn notes(&self) -> Vec<&'static str> {
        let nats = self.nats.as_ref().map(NatsFanout::state).filter(|state| !state.listens());
        let deaf = self.listening.as_ref().is_some_and(|fanout| !fanout.listens());
        let silent = nats.map(|state| match (state.connected, state.deaf.is_some()) {
            (true, true) => {
                "NATS is connected, and not everything is heard: what is new on other nodes is found by polling; the log says why"
            }
            (true, false) => "NATS is connected, and this node has not heard its own beat yet: it polls until then",
            (false, _) => "NATS is not connected: what is new on other nodes is found by polling",
        });
        let deaf = deaf.then_some("PostgreSQL is not listened to: what is new there is found by polling");
        silent.into_iter().chain(deaf).collect()
    }

    /// Tells the metrics what is counted nowhere else.
    pub(crate) fn report(&self) {
        if let Some(store) = &self.store {
            let stats = store.stats();
            telemetry::store_connections(stats.connections_busy, stats.connections_idle);
        }
    }
}

/// Opens what the settings name.
///
/// # Errors
/// One line that says what is wrong, without a secret.
pub(crate) async fn open(settings: &Settings, health: &Health) -> Result<Opened, String> {
    match &settings.database {
        Database::Postgres(address) => {
            let options = PostgresOptions { health: health.clone(), ..settings.postgres.clone() };
            let opened = PostgresStore::open_with(address.reveal(), options).await;
            let store = Arc::new(
                opened.map_err(|fault| format!("the database {address} cannot be opened: {fault}"))?,
            );
            let nats = if settings.uses_nats() { Some(connect(settings, health).await?) } else { None };
            let listening =
                if settings.listens() { Some(listen(settings, &store, nats.as_ref())?) } else { None };
            let fanout: Arc<dyn Fanout> = match (&nats, &listening) {
                (Some(nats), _) => Arc::new(nats.clone()),
                (None, Some(listening)) => Arc::<PostgresFanout>::clone(listening),
                (None, None) => Arc::new(LocalFanout::new()),
            };
            let khala = Khala::builder(Arc::clone(&store)).with_fanout(fanout);
            Ok(Opened { khala, watched: Watched { store: Some(store), nats, listening } })
        }
        Database::Sqlite(path) => {
            let store = SqliteStore::open_with(
                path,
                SqliteOptions { health: health.clone(), ..settings.sqlite.clone() },
            )
            .map_err(|fault| {
                let cause = std::error::Error::source(&fault).map(|cause| format!(": {cause}"));
                format!(
                    "the database {} cannot be opened: {fault}{}",
                    path.display(),
                    cause.unwrap_or_default()
                )
            })?;
            Ok(Opened { khala: Khala::builder(store), watched: Watched::default() })
        }
    }
}

/// Listens on PostgreSQL; with NATS on behalf of that, which announces.
fn listen(
    settings: &Settings,
    store: &PostgresStore,
    nats: Option<&NatsFanout>,
) -> Result<Arc<PostgresFanout>, String> {
    let Some(nats) = nats else { return Ok(Arc::clone(store.postgres_fanout())) };
    let listening = PostgresFanout::listen_for(store, settings.postgres.listen.clone(), nats.levels());
    listening.map(Arc::new).map_err(|fault| format!("the setting postgres.listen.url is wrong: {fault}"))
}

async fn connect(settings: &Settings, health: &Health) -> Result<NatsFanout, String> {
    let mut options = NatsOptions { health: health.clone(), ..settings.nats.clone() };
    if let Some(node) = &settings.node {
        options.name = format!("{} {node}", options.name);
    }
    NatsFanout::connect(options).await.map_err(|fault| format!("the settings of nats are wrong: {fault}"))
}
