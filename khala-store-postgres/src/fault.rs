//! What PostgreSQL says, as the error that tells an operator what happened and what to do.
//!
//! Inside the store everything fails with a [`Fault`], so that `?` works on both sides; it becomes an [`Error`] where the
//! store answers.

use std::fmt;

use khala_core::{Error, ErrorKind, store::rows::CorruptRow, telemetry};
use sqlx::error::DatabaseError;

pub(crate) const BACKEND: &str = "postgres";

/// A failure inside the store.
#[derive(Debug)]
pub(crate) enum Fault {
    Reported(Error),
    Sqlx(sqlx::Error),
    /// Nobody knows what became of it.
    TimedOut,
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

    fn code(&self) -> Option<String> {
        match self {
            Self::Reported(_) | Self::TimedOut => None,
            Self::Sqlx(fault) => Some(fault.as_database_error()?.code()?.into_owned()),
        }
    }

    /// Whether the connection is of no more use, and another may be.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Reported(_) | Self::TimedOut => false,
            Self::Sqlx(sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_)) => true,
            // Shut down, crashed, or not up yet; a class of connections. Or to a server that can only be read: where the
            // address leads to another one since a failover, a new connection does better.
            Self::Sqlx(_) => self.code().is_some_and(|code| {
                code.starts_with("08")
                    || ["0A000", "25006", "25P03", "57P01", "57P02", "57P03"].contains(&&*code)
            }),
        }
    }

    /// Whether this is of one request's own making, so that others in its group may fare better.
    pub(crate) fn is_of_one_request(&self) -> bool {
        match self {
            Self::Reported(error) => {
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Internal | ErrorKind::Invalid)
            }
            Self::TimedOut => false,
            Self::Sqlx(
                sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. },
            ) => true,
            Self::Sqlx(_) => {
                let classes = ["21", "22", "23", "54", "XX"];
                self.code().is_some_and(|code| classes.iter().any(|class| code.starts_with(class)))
            }
        }
    }

    /// Whether somebody else has held a lock for longer than this one waits.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        self.code().is_some_and(|code| code == "55P03")
    }
}

impl From<sqlx::Error> for Fault {
    fn from(fault: sqlx::Error) -> Self {
        Self::Sqlx(fault)
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
            Fault::Reported(error) => error,
            Fault::Sqlx(sqlx::Error::Database(said)) => {
                let (kind, message) = explain_said(&*said);
                Self::caused_by(kind, BACKEND, message, Told::of(&*said))
            }
            Fault::Sqlx(fault) => {
                let (kind, message) = explain(&fault);
                Self::caused_by(kind, BACKEND, message, fault)
            }
            Fault::TimedOut => error(
                ErrorKind::Unavailable,
                "the database did not answer in time; nothing is known of this request",
            ),
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

/// There was no turn to wait for a lock in time.
pub(crate) fn too_many_wait() -> Error {
    let message = "too much waits for topics that other transactions have locked; find who keeps them open, or try again";
    error(ErrorKind::Unavailable, message)
}

/// What PostgreSQL said, without the part that tells what is in a row: that is the publishers', and belongs in no log.
#[derive(Debug)]
struct Told {
    code: String,
    message: String,
    constraint: Option<String>,
}

impl Told {
    fn of(said: &dyn DatabaseError) -> Self {
        Self {
            code: said.code().unwrap_or_default().into_owned(),
            message: said.message().to_owned(),
            constraint: said.constraint().map(str::to_owned),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        self.constraint.iter().try_for_each(|constraint| write!(f, ", constraint {constraint}"))
    }
}

impl std::error::Error for Told {}

const RESTORE: &str = "Restore it from a backup";

fn explain(fault: &sqlx::Error) -> (ErrorKind, String) {
    use sqlx::Error as E;
    match fault {
        E::Io(_) | E::Protocol(_) => {
            (ErrorKind::Unavailable, format!("the database cannot be reached ({fault})"))
        }
        E::Tls(_) => (
            ErrorKind::Unavailable,
            format!("no TLS with the database; check sslmode and the certificates ({fault})"),
        ),
        E::PoolTimedOut => (
            ErrorKind::Unavailable,
            "no connection to the database in time: it cannot be reached, or all connections are busy"
                .to_owned(),
        ),
        E::PoolClosed | E::WorkerCrashed => (
            ErrorKind::Unavailable,
            "the store is shutting down; nothing is known of this request".to_owned(),
        ),
        E::Configuration(_) => (ErrorKind::Invalid, format!("the address cannot be used ({fault})")),
        E::ColumnDecode { .. } | E::Decode(_) | E::RowNotFound => {
            (ErrorKind::Corrupt, format!("a row holds what the store never writes ({fault}). {RESTORE}"))
        }
        _ => (ErrorKind::Invalid, format!("PostgreSQL was asked for something that it cannot do ({fault})")),
    }
}

fn explain_said(said: &dyn DatabaseError) -> (ErrorKind, String) {
    let code = said.code().unwrap_or_default();
    let (kind, message) = match &*code {
        "40001" | "40P01" => (
            ErrorKind::Unavailable,
            "another transaction was in the way; roll this one back and run it again",
        ),
        "55P03" => (
            ErrorKind::Unavailable,
            "the topic is locked by another transaction, for longer than the lock timeout; find who keeps one open, or \
             try again",
        ),
        "25P03" => (
            ErrorKind::Unavailable,
            "the transaction stood still for too long, as a process does that was stopped, and was ended",
        ),
        "57014" => {
            (ErrorKind::Unavailable, "the statement was cancelled, or took longer than the server allows")
        }
        "53100" => {
            (ErrorKind::Full, "there is no space left for the database; nothing was written. Free disk space")
        }
        // The second says that it cannot be made writable, which during recovery is so.
        "25006" | "0A000" => (
            ErrorKind::Unavailable,
            "the database can only be read: it is a standby that was not promoted, or is set so",
        ),
        "42501" => (
            ErrorKind::ReadOnly,
            "this role may not do that to Khala's tables; docs/nodes.md has the statements that grant it what it needs",
        ),
        "3F000" | "42P01" | "42703" | "42883" => (
            ErrorKind::Schema,
            "Khala's tables are missing or are not what this version works with; run `khala-server migrate`",
        ),
        "26000" | "42P05" => (
            ErrorKind::Unavailable,
            "the address is that of a pooler in transaction mode; say so (`PostgresOptions::pooler`, \
             postgres.pooler)",
        ),
        "54000" => (
            ErrorKind::Unavailable,
            "a limit of the server is reached, such as that of its queue of notifications, which one that listens and \
             reads nothing fills; find it in pg_stat_activity, or try again",
        ),
        "3D000" => (ErrorKind::Unavailable, "there is no such database"),
        code if code.starts_with("28") => {
            (ErrorKind::Unavailable, "the database refuses the user or the password")
        }
        code if code.starts_with("08") || code.starts_with("57P") => {
            (ErrorKind::Unavailable, "the database is shutting down, starting, or cannot be reached")
        }
        code if code.starts_with("53") => {
            (ErrorKind::Unavailable, "the database is out of connections or memory")
        }
        code if code.starts_with("54") || code.starts_with("22") => {
            (ErrorKind::Invalid, "the update is not one that PostgreSQL can store")
        }
        "23505" | "XX001" | "XX002" => {
            (ErrorKind::Corrupt, "the database contradicts itself. Restore it from a backup")
        }
        code if code.starts_with("23") => {
            (ErrorKind::Invalid, "a rule of the database's own refuses the update")
        }
        code if code.starts_with("XX") => (ErrorKind::Unavailable, "PostgreSQL failed within; try again"),
        // What is the publisher's own fault was told before, here or above.
        _ => (ErrorKind::Unavailable, "PostgreSQL refused the operation"),
    };
    (kind, format!("{message} (PostgreSQL {code}: {})", said.message()))
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error as StdError, fmt};

    use sqlx::error::ErrorKind as Sort;

    use super::*;

    /// What PostgreSQL says with a code.
    #[derive(Debug)]
    struct Said(&'static str);

    impl fmt::Display for Said {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Said {}

    impl DatabaseError for Said {
        fn message(&self) -> &str {
            "so it says"
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> Sort {
            Sort::Other
        }
    }

    #[test]
    fn what_a_code_means_for_the_connection_and_for_the_caller() {
        for (code, of_the_connection, kind) in [
            ("08006", true, ErrorKind::Unavailable),
            ("25006", true, ErrorKind::Unavailable),
            ("0A000", true, ErrorKind::Unavailable),
            ("57P01", true, ErrorKind::Unavailable),
            ("57P03", true, ErrorKind::Unavailable),
            ("57014", false, ErrorKind::Unavailable),
            ("53300", false, ErrorKind::Unavailable),
            ("53100", false, ErrorKind::Full),
            ("40P01", false, ErrorKind::Unavailable),
            ("25P03", true, ErrorKind::Unavailable),
            ("42P05", false, ErrorKind::Unavailable),
            ("42501", false, ErrorKind::ReadOnly),
            ("42P01", false, ErrorKind::Schema),
            ("22021", false, ErrorKind::Invalid),
            ("23505", false, ErrorKind::Corrupt),
            ("23514", false, ErrorKind::Invalid),
            ("XX000", false, ErrorKind::Unavailable),
        ] {
            let fault = Fault::Sqlx(sqlx::Error::Database(Box::new(Said(code))));
            assert_eq!(fault.is_of_the_connection(), of_the_connection, "{code}");
            assert_eq!(Error::from(fault).kind(), kind, "{code}");
        }
    }
}
