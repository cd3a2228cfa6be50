//! From the settings to the store: SQLite, or PostgreSQL with what carries announcements between its nodes.

use std::sync::Arc;

use khala_core::{Khala, KhalaBuilder};
use khala_store_postgres::{PostgresFanout, PostgresStore};
use khala_store_sqlite::{SqliteOptions, SqliteStore};

use crate::settings::{Database, Settings};

/// Opens what the settings name.
///
/// # Errors
/// One line that says what is wrong, without a secret.
pub(crate) async fn open(settings: &Settings) -> Result<KhalaBuilder, String> {
    match &settings.database {
        Database::Postgres(address) => {
            let opened = PostgresStore::open(address.reveal(), settings.postgres.options()?).await;
            let store = Arc::new(
                opened.map_err(|fault| format!("the database {address} cannot be opened: {fault}"))?,
            );
            let fanout = PostgresFanout::listen(&store, settings.postgres.listen())
                .map_err(|fault| format!("the setting postgres.listen is wrong: {fault}"))?;
            Ok(Khala::builder(Arc::clone(&store))
                .with_fanout(Arc::new(fanout))
                .with_revocations(Arc::<PostgresStore>::clone(&store))
                .with_sweeps(store))
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
            Ok(Khala::builder(Arc::clone(&store))
                .with_fanout(Arc::<SqliteStore>::clone(&store))
                .with_revocations(Arc::<SqliteStore>::clone(&store))
                .with_sweeps(store))
        }
    }
}
