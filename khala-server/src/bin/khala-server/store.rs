//! From the settings to the store: SQLite, or PostgreSQL with what carries announcements between its nodes.

use std::sync::Arc;

use khala_core::{Khala, KhalaBuilder, telemetry};
use khala_store_postgres::{PostgresFanout, PostgresStore};
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
    listening: Option<Arc<PostgresFanout>>,
}

impl Watched {
    /// What the server does without now.
    pub(crate) fn notes(&self) -> Vec<&'static str> {
        let deaf = self.listening.as_ref().is_some_and(|fanout| !fanout.listens());
        deaf.then_some("nothing is heard from PostgreSQL: what is new on other nodes is found by polling")
            .into_iter()
            .collect()
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
pub(crate) async fn open(settings: &Settings) -> Result<Opened, String> {
    match &settings.database {
        Database::Postgres(address) => {
            let opened = PostgresStore::open(address.reveal(), settings.postgres.options()?).await;
            let store = Arc::new(
                opened.map_err(|fault| format!("the database {address} cannot be opened: {fault}"))?,
            );
            let fanout = PostgresFanout::listen(&store, settings.postgres.listen())
                .map_err(|fault| format!("the setting postgres.listen is wrong: {fault}"))?;
            let fanout = Arc::new(fanout);
            let khala = Khala::builder(Arc::clone(&store))
                .with_fanout(Arc::<PostgresFanout>::clone(&fanout))
                .with_revocations(Arc::<PostgresStore>::clone(&store))
                .with_sweeps(Arc::<PostgresStore>::clone(&store));
            Ok(Opened { khala, watched: Watched { store: Some(store), listening: Some(fanout) } })
        }
        Database::Sqlite(path) => {
            let store = SqliteStore::open(path, SqliteOptions::new()).map_err(|fault| {
                let cause = std::error::Error::source(&fault).map(|cause| format!(": {cause}"));
                format!(
                    "the database {} cannot be opened: {fault}{}",
                    path.display(),
                    cause.unwrap_or_default()
                )
            })?;
            let store = Arc::new(store);
            let khala = Khala::builder(Arc::clone(&store))
                .with_fanout(Arc::<SqliteStore>::clone(&store))
                .with_revocations(Arc::<SqliteStore>::clone(&store))
                .with_sweeps(store);
            Ok(Opened { khala, watched: Watched::default() })
        }
    }
}
