//! What SQLite says, as the error that tells an operator what happened and what to do.
//!
//! Inside the store everything fails with a [`Fault`], so that `?` works on both sides; it becomes an
//! [`Error`] where the store answers.

use khala_core::{Error, ErrorKind, store::rows::CorruptRow, telemetry};
use rusqlite::{ErrorCode, ffi};

pub(crate) const BACKEND: &str = "sqlite";

/// A failure inside the store.
#[derive(Debug)]
pub(crate) enum Fault {
    Reported(Error),
    Sqlite(rusqlite::Error),
    /// What was asked for is committed, and it is not known whether it will be found again.
    Unsure(Error),
}

impl Fault {
    /// The store holds what the store never writes.
    pub(crate) fn corrupt(what: impl AsRef<str>) -> Self {
        let what = what.as_ref();
        Self::Reported(error(
            ErrorKind::Corrupt,
            format!("the database contradicts itself: {what}. {RESTORE}"),
        ))
    }

    /// The same of a transaction that is committed.
    pub(crate) fn unsure(self) -> Self {
        let error = Error::from(self);
        let message = format!("stored, and perhaps not for good: {error}");
        Self::Unsure(Error::caused_by(ErrorKind::Unavailable, BACKEND, message, error))
    }

    /// Whether this is of one request's own making, so that others in its group may fare better.
    pub(crate) fn is_of_one_request(&self) -> bool {
        match self {
            Self::Reported(_) => true,
            Self::Unsure(_) => false,
            Self::Sqlite(fault) => matches!(
                fault.sqlite_error_code(),
                None | Some(ErrorCode::ConstraintViolation | ErrorCode::DatabaseCorrupt | ErrorCode::TooBig)
            ),
        }
    }

    /// Whether a row says what it cannot say, so that the other rows may be good.
    ///
    /// Only of what was made of a row that was read: reading one is a fault of the database.
    pub(crate) fn is_of_the_row(&self) -> bool {
        match self {
            Self::Reported(error) | Self::Unsure(error) => error.kind() == ErrorKind::Corrupt,
            Self::Sqlite(fault) => fault.sqlite_error_code().is_none(),
        }
    }

    /// Whether there is no space left.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Sqlite(fault) if fault.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }

    /// Whether somebody else holds a lock on the file.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Sqlite(fault) if matches!(
            fault.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        ))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(fault: rusqlite::Error) -> Self {
        Self::Sqlite(fault)
    }
}

impl From<CorruptRow> for Fault {
    fn from(row: CorruptRow) -> Self {
        Self::corrupt(row.to_string())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Reported(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let error = match fault {
            Fault::Reported(error) | Fault::Unsure(error) => error,
            Fault::Sqlite(fault) => {
                let (kind, message) = explain(&fault);
                Self::caused_by(kind, BACKEND, message, fault)
            }
        };
        telemetry::store_failed(error.kind());
        error
    }
}

/// An error of this backend without a cause of its own.
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, BACKEND, message)
}

/// The store is going away, or gone.
pub(crate) fn shutting_down() -> Error {
    error(ErrorKind::Unavailable, "the store is shutting down; nothing is known of this request")
}

const RESTORE: &str = "Restore it from a backup; `PRAGMA integrity_check` tells more";

fn explain(fault: &rusqlite::Error) -> (ErrorKind, String) {
    use rusqlite::Error as E;
    match fault {
        E::SqliteFailure(code, text) => explain_code(*code, text.as_deref().unwrap_or_default()),
        E::SqlInputError { error, msg, sql, .. }
            if sql.contains("khala_") && error.code == ErrorCode::Unknown =>
        {
            (ErrorKind::Schema, unprepared(msg))
        }
        E::SqlInputError { error, msg, .. } => explain_code(*error, msg),
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::QueryReturnedNoRows
        | E::Utf8Error(..) => {
            (ErrorKind::Corrupt, format!("a row holds what the store never writes. {RESTORE}"))
        }
        E::InvalidPath(_) | E::NulError(_) => {
            (ErrorKind::Invalid, "the path has no form that SQLite can use".to_owned())
        }
        _ => (ErrorKind::Invalid, "SQLite was asked for something that it cannot do".to_owned()),
    }
}

/// A statement of ours does not fit the tables that are there.
fn unprepared(text: &str) -> String {
    format!(
        "Khala's tables are missing or are not what this version works with ({text}); open the file with \
         `SqliteStore::open`, or call `prepare` on its connection, before it is used"
    )
}

fn explain_code(code: ffi::Error, text: &str) -> (ErrorKind, String) {
    if code.code == ErrorCode::Unknown && text.contains("khala_") {
        return (ErrorKind::Schema, unprepared(text));
    }
    let (kind, message) = match (code.code, code.extended_code) {
        (_, ffi::SQLITE_BUSY_SNAPSHOT) => (
            ErrorKind::Unavailable,
            "somebody else wrote after this transaction had begun to read; roll it back and run it again, best \
             begun with BEGIN IMMEDIATE",
        ),
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed, _) => (
            ErrorKind::Unavailable,
            "the file is locked by another connection, for longer than the busy timeout; find who holds a long \
             transaction on it, or try again",
        ),
        (ErrorCode::DiskFull, _) => (
            ErrorKind::Full,
            "there is no space left for the database; nothing was written. Free disk space or raise the file's \
             page limit",
        ),
        (ErrorCode::ReadOnly, _) => (
            ErrorKind::ReadOnly,
            "the database cannot be written; check the permissions of the file and its folder, and how the file \
             system is mounted",
        ),
        (ErrorCode::NotADatabase, _) => (
            ErrorKind::Corrupt,
            "the file is not a SQLite database, or it is encrypted; name another file, or restore it from a backup",
        ),
        (ErrorCode::DatabaseCorrupt, _) => {
            (ErrorKind::Corrupt, "the database file is damaged. Restore it from a backup")
        }
        (ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch, _) => {
            (ErrorKind::Corrupt, "the database contradicts itself. Restore it from a backup")
        }
        (ErrorCode::CannotOpen, _) => (
            ErrorKind::Unavailable,
            "the file, or the -wal and -shm files beside it, cannot be opened; check that the folder exists and \
             that this process may read and write in it",
        ),
        (ErrorCode::SystemIoFailure, _) => (
            ErrorKind::Unavailable,
            "the disk failed while the database was in use; look into the system's log before you try again",
        ),
        (ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied, _) => {
            (ErrorKind::ReadOnly, "access to the database is not permitted")
        }
        (ErrorCode::OutOfMemory, _) => (ErrorKind::Unavailable, "there is no memory left"),
        (ErrorCode::OperationInterrupted | ErrorCode::OperationAborted, _) => {
            (ErrorKind::Unavailable, "the operation was interrupted; try again")
        }
        (ErrorCode::TooBig, _) => (ErrorKind::Invalid, "the update is larger than SQLite can store"),
        (ErrorCode::SchemaChanged, _) => (ErrorKind::Unavailable, "the schema changed meanwhile; try again"),
        _ => (ErrorKind::Invalid, "SQLite refused the operation"),
    };
    (kind, if text.is_empty() { message.to_owned() } else { format!("{message} (SQLite: {text})") })
}
