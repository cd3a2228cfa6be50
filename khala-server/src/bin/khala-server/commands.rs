//! The commands that prepare a database, look at it, or set it right after a restore, and end.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use khala_core::Error;
use khala_store_sqlite::SqliteOptions;

use crate::settings::{Database, Settings};

/// Brings the tables up to date.
///
/// # Errors
/// One line that says what is wrong, without a secret.
pub(crate) async fn migrate(settings: &Settings) -> Result<ExitCode, String> {
    let database = &settings.database;
    let migrated = match database {
        Database::Postgres(address) => {
            khala_store_postgres::migrate(address.reveal(), settings.postgres.options()?).await
        }
        Database::Sqlite(path) => blocking(path, khala_store_sqlite::migrate).await,
    };
    migrated.map_err(|fault| format!("the database {database} was not migrated: {fault}"))?;
    say(&format!("The database {database} is up to date.\n"));
    Ok(ExitCode::SUCCESS)
}

/// Says what of the tables differs from what this version works with, a line each: 0 if nothing does, else 1.
///
/// # Errors
/// One line that says why that cannot be found out, without a secret.
pub(crate) async fn check(settings: &Settings) -> Result<ExitCode, String> {
    let database = &settings.database;
    let found = match database {
        Database::Postgres(address) => {
            khala_store_postgres::check(address.reveal(), settings.postgres.options()?).await
        }
        Database::Sqlite(path) => blocking(path, khala_store_sqlite::check).await,
    };
    let differences = found.map_err(|fault| format!("the database {database} was not checked: {fault}"))?;
    say(&differences.iter().map(|line| format!("{line}\n")).collect::<String>());
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Draws new epochs.
///
/// # Errors
/// One line that says what is wrong, or that asks for the assent.
pub(crate) async fn new_epochs(settings: &Settings, assent: bool) -> Result<ExitCode, String> {
    let database = &settings.database;
    if !assent {
        return Err(format!(
            "new epochs are for a database that was restored from a backup, with every server on it stopped: each \
             subscriber of {database} starts again from the beginning. If that is so, say --yes"
        ));
    }
    let drawn = match database {
        Database::Postgres(address) => {
            khala_store_postgres::new_epochs(address.reveal(), settings.postgres.options()?).await
        }
        Database::Sqlite(path) => blocking(path, khala_store_sqlite::new_epochs).await,
    };
    let topics = drawn.map_err(|fault| format!("the database {database} has no new epochs: {fault}"))?;
    say(&format!("The database {database} has new epochs: {topics} topics.\n"));
    Ok(ExitCode::SUCCESS)
}

/// Does what blocks on a file.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: fn(&Path, &SqliteOptions) -> Result<T, Error>,
) -> Result<T, Error> {
    let path = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&path, &SqliteOptions::new())).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn say(text: &str) {
    // Whoever reads it may have read enough.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
