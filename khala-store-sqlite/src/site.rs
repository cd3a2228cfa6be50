//! Whether the files that are open are still the ones at their paths.
//!
//! A handle goes on to work after its file was removed or replaced: what is written to it then, nobody can ever open.
//! SQLite does not look. So the store does: in each transaction that writes, after its commit before anybody is told of it, and
//! once a second.
//!
//! # Invariants
//! - Nobody is told of a commit that is only in a file that nobody else can open.
//! - Where the write-ahead log is gone and nobody has begun another, each commit is copied into the database file before
//!   anybody is told of it. So the next process that opens the file has everything, also after `kill -9`.
//! - Where the database file is another, or somebody else has begun a log, nothing is written any more, nor copied from the log
//!   that was removed: it would go over what others have written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use khala_core::{ErrorKind, health::Part};
use rusqlite::{Connection, config::DbConfig};

use crate::{
    fault::{Fault, error},
    sql,
};

/// How often the files are looked at while nothing is written.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// A look that is not older tells enough to begin to read.
const FRESH: Duration = Duration::from_millis(50);
/// A look that is not older tells enough to write: under load it is the one after the commit before.
const JUST_NOW: Duration = Duration::from_millis(5);

/// The files that a store has open.
#[derive(Debug)]
pub(crate) struct Site {
    database: Place,
    /// The write-ahead log, and its index.
    beside: [Place; 2],
    part: Part,
    opened: Instant,
    /// When they were looked at last, in milliseconds since `opened`.
    looked_at: AtomicU64,
    /// Whether the log, or its index, is gone.
    without_log: AtomicBool,
    without_log_told: AtomicBool,
    /// Whether somebody has asked the writer to see to it.
    asked: AtomicBool,
    /// Why nothing is read or written any more.
    lost: OnceLock<Lost>,
}

/// A path, and the file that was there when it was opened.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    file: Option<File>,
}

/// What tells a file from every other: its device and its number there. A system that has no such thing lets nobody remove a
/// file that is open.
type File = (u64, u64);

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    AsItWas,
    /// There is no write-ahead log, or no index of it, and nobody has written to another.
    NoLog,
    Lost(Lost),
}

/// Why a store has stopped.
#[derive(Debug, PartialEq, Eq)]
struct Lost {
    /// For readiness, which tells everybody: without a path.
    told: &'static str,
    /// For the log, and for the host of the store.
    reason: String,
}

impl Site {
    /// The files that `conn`, which has read from it already, has open for the database at `path`.
    pub(crate) fn of(path: &Path, conn: &Connection, part: Part) -> Self {
        // The log stands beside the file that a link leads to.
        let database = conn.path().map_or_else(|| path.to_owned(), PathBuf::from);
        let beside = ["-wal", "-shm"].map(|ending| {
            let mut path = database.as_os_str().to_owned();
            path.push(ending);
            Place::now(path.into())
        });
        Self::over(Place::now(path.to_owned()), beside, part)
    }

    fn over(database: Place, beside: [Place; 2], part: Part) -> Self {
        Self {
            database,
            beside,
            part,
            opened: Instant::now(),
            looked_at: AtomicU64::new(0),
            without_log: AtomicBool::new(false),
            without_log_told: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            lost: OnceLock::new(),
        }
    }

    /// Whether the store may be read and written, as far as the last look tells.
    pub(crate) fn stands(&self) -> Result<(), Fault> {
        match self.lost.get() {
            None => Ok(()),
            Some(lost) => Err(error(ErrorKind::Unavailable, lost.reason.as_str()).into()),
        }
    }

    /// Whether the store may be read.
    pub(crate) fn admit_reader(&self) -> Result<(), Fault> {
        if self.since_look() > FRESH {
            self.check()?;
        }
        self.stands()
    }

    /// Whether the store may be written: asked under the write lock, so that nobody writes in between.
    pub(crate) fn admit_writer(&self) -> Result<(), Fault> {
        if self.since_look() > JUST_NOW || self.without_log.load(Ordering::Relaxed) {
            self.check()?;
        }
        self.stands()
    }

    fn since_look(&self) -> Duration {
        self.opened.elapsed().saturating_sub(Duration::from_millis(self.looked_at.load(Ordering::Relaxed)))
    }

    /// Before a transaction begins that writes: where there is no log, what is committed is in the database file before more is.
    pub(crate) fn prepare(&self, conn: &Connection) -> Result<(), Fault> {
        self.stands()?;
        if self.without_log.load(Ordering::Relaxed) { self.copy_log(conn) } else { Ok(()) }
    }

    /// Whether the files are still the ones that were opened.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        match self.look() {
            Found::AsItWas => {}
            Found::NoLog => self.without_log.store(true, Ordering::Relaxed),
            Found::Lost(lost) => self.lose(lost),
        }
        self.stands()
    }

    /// What `conn` has committed is where others find it: asked before anybody is told of it.
    pub(crate) fn confirm(&self, conn: &Connection) -> Result<(), Fault> {
        self.check()?;
        self.prepare(conn)
    }

    /// Whether the writer should be asked to [`confirm`](Self::confirm), although it writes nothing. Once at a time.
    pub(crate) fn wants_writer(&self) -> bool {
        let differs = self.lost.get().is_none() && self.look() != Found::AsItWas;
        differs && !self.asked.swap(true, Ordering::Relaxed)
    }

    /// The writer has seen to it.
    pub(crate) fn has_writer(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }

    /// For a database that is in no file.
    #[cfg(test)]
    pub(crate) fn of_none() -> Self {
        let place = || Place { path: PathBuf::new(), file: None };
        let part = khala_core::health::Health::new().part("store_file");
        Self::over(place(), [place(), place()], part)
    }

    fn look(&self) -> Found {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.looked_at.store(now, Ordering::Relaxed);
        if self.database.file.is_none() {
            return Found::AsItWas;
        }
        let shown = self.database.path.display();
        let lost = |told, reason| Found::Lost(Lost { told, reason });
        match there(&self.database.path) {
            Ok(Some(found)) if Some(found.file) == self.database.file => {}
            Ok(found) => {
                let (told, became) = match found {
                    Some(_) => {
                        ("the database file was replaced while it was open", "replaced by another file")
                    }
                    None => ("the database file was removed while it was open", "removed"),
                };
                let reason = format!(
                    "the database file {shown} was {became} while it was open. Nothing is read or written any more. Put the \
                     right file there and start this process again"
                );
                return lost(told, reason);
            }
            Err(fault) => {
                let reason = format!(
                    "the database file {shown} cannot be looked at any more ({fault}), so that it may be another one. Nothing is \
                     read or written any more. Mend that and start this process again"
                );
                return lost("the database file cannot be looked at any more", reason);
            }
        }
        let mut found = Found::AsItWas;
        for place in self.beside.iter().filter(|place| place.file.is_some()) {
            let path = place.path.display();
            match there(&place.path) {
                Ok(Some(there)) if Some(there.file) == place.file => {}
                // An empty one holds nothing that somebody else has written.
                Ok(None) => found = Found::NoLog,
                Ok(Some(there)) if there.is_empty => found = Found::NoLog,
                Ok(Some(_)) => {
                    let reason = format!(
                        "{path} was removed while it was open, and another process has begun a new one. Nothing is read or \
                         written any more, so that neither spoils what the other has written. Start this process again"
                    );
                    return lost(
                        "the write-ahead log was removed while it was open, and another process has begun a new one",
                        reason,
                    );
                }
                Err(fault) => {
                    let reason = format!(
                        "{path} cannot be looked at any more ({fault}). Nothing is read or written any more. Mend that and \
                         start this process again"
                    );
                    return lost("the write-ahead log cannot be looked at any more", reason);
                }
            }
        }
        found
    }

    /// Copies what is committed into the database file and syncs that.
    fn copy_log(&self, conn: &Connection) -> Result<(), Fault> {
        let [log, index] = &self.beside;
        let (log, index) = (log.path.display(), index.path.display());
        let told = "the write-ahead log, or its index, was removed while it was open. Each commit goes into the database file at \
                    once, which is slow. Start this process again, so that there is a log again";
        if !self.without_log_told.swap(true, Ordering::Relaxed) {
            tracing::error!(%log, %index, "one of these was removed while it was open: each commit is copied at once");
        }
        let copied = conn.query_row(sql::COPY_LOG, [], |row| {
            let (busy, written, copied): (bool, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(!busy && written == copied)
        });
        self.part.degraded(told);
        let copied = copied?;
        if copied {
            return Ok(());
        }
        let reason = format!(
            "{log} or {index} was removed while it was open, and somebody reads for so long that what is committed could not be \
             copied into the database file now; try again"
        );
        Err(error(ErrorKind::Unavailable, reason).into())
    }

    fn lose(&self, lost: Lost) {
        if self.lost.get().is_some() {
            return;
        }
        self.part.failed(format!("{}; the log says more", lost.told));
        tracing::error!(reason = lost.reason, "the files of the store are not the ones that it opened");
        // A second one that came meanwhile finds the reason of the first.
        let _ = self.lost.set(lost);
    }

    /// Closes a connection, without copying a log over what is no longer its file.
    pub(crate) fn close(&self, conn: Connection) {
        if self.lost.get().is_some()
            && let Err(fault) = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        {
            tracing::error!(%fault, "a connection to a file that is lost may write to it as it closes");
        }
        drop(conn);
    }
}

impl Place {
    fn now(path: PathBuf) -> Self {
        let file = there(&path).ok().flatten().map(|there| there.file);
        Self { path, file }
    }
}

/// What is at a path.
struct There {
    file: File,
    is_empty: bool,
}

#[cfg(unix)]
fn there(path: &Path) -> io::Result<Option<There>> {
    use std::os::unix::fs::MetadataExt as _;

    match fs::metadata(path) {
        Ok(found) => Ok(Some(There { file: (found.dev(), found.ino()), is_empty: found.len() == 0 })),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Here a file that is open cannot be removed.
#[cfg(not(unix))]
fn there(_: &Path) -> io::Result<Option<There>> {
    Ok(None)
}
