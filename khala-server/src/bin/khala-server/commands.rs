//! The commands that prepare a database, look at it, or set it right after a restore, and end.

use std::{
    io::{self, ErrorKind, Write as _},
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
            khala_store_postgres::migrate(address.reveal(), settings.postgres.clone()).await
        }
        Database::Sqlite(path) => blocking(settings, path, khala_store_sqlite::migrate).await,
    };
    migrated.map_err(|fault| format!("the database {database} was not migrated: {fault}"))?;
    Ok(say(&format!("The database {database} is up to date.\n"), ExitCode::SUCCESS))
}

/// Says what of the tables differs from what this version works with, a line each: 0 if nothing does, else 1.
///
/// # Errors
/// One line that says why that cannot be found out, without a secret.
pub(crate) async fn check(settings: &Settings) -> Result<ExitCode, String> {
    let database = &settings.database;
    let found = match database {
        Database::Postgres(address) => {
            khala_store_postgres::check(address.reveal(), settings.postgres.clone()).await
        }
        Database::Sqlite(path) => blocking(settings, path, khala_store_sqlite::check).await,
    };
    let differences = found.map_err(|fault| format!("the database {database} was not checked: {fault}"))?;
    let code = if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) };
    Ok(say(&differences.iter().map(|line| format!("{line}\n")).collect::<String>(), code))
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
            khala_store_postgres::new_epochs(address.reveal(), settings.postgres.clone()).await
        }
        Database::Sqlite(path) => blocking(settings, path, khala_store_sqlite::new_epochs).await,
    };
    let topics = drawn.map_err(|fault| format!("the database {database} has no new epochs: {fault}"))?;
    Ok(say(&format!("The database {database} has new epochs: {topics} topics.\n"), ExitCode::SUCCESS))
}

/// Does what blocks on a file.
async fn blocking<T: Send + 'static>(
    settings: &Settings,
    path: &Path,
    work: fn(&Path, &SqliteOptions) -> Result<T, Error>,
) -> Result<T, Error> {
    let (path, options) = (path.to_owned(), settings.sqlite.clone());
    let done = tokio::task::spawn_blocking(move || work(&path, &options)).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Prints what a command is for, and gives the exit code that it ends with: `code`, or 74 where that cannot be written.
pub(crate) fn say(text: &str, code: ExitCode) -> ExitCode {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()), code)
}

/// The exit code after something was written. Who closed the pipe has read enough.
pub(crate) fn written(written: io::Result<()>, code: ExitCode) -> ExitCode {
    match written {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "khala-server: standard output cannot be written: {cause}");
            ExitCode::from(74)
        }
        _ => code,
    }
}
