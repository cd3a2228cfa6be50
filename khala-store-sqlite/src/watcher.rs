//! The change watcher: notices what other connections wrote, whichever process they are in.
//!
//! While anybody watches a topic or the revocations, a thread asks SQLite every few milliseconds whether another
//! connection has committed, which reads no table. Only if one has does it ask for the topics that moved since it
//! last looked, by an index, and for how far the revocations go. It raises levels and nothing else: like every
//! fanout it is a hint, and may be late or repeat.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use khala_core::{Cursor, Error, ErrorKind, Watermark, fanout::LocalFanout, health::Condition, store::rows};
use rusqlite::{Connection, params};

use crate::{
    connection,
    fault::{BACKEND, Fault},
    options::SqliteOptions,
    read::at_one_moment,
    row::{StoredRow, TopicRow},
    site, sql,
    writer::run_again,
};

/// After this many looks in a row that showed nothing new, the thread checks whether anybody still watches.
const QUIET_LOOKS: u32 = 64;

/// The handle of the watcher's thread.
#[derive(Debug)]
pub(crate) struct Watcher {
    signal: Arc<Signal>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Stopped,
    Watching,
}

impl Signal {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.lock() = state;
        self.changed.notify_all();
    }
}

impl Watcher {
    /// Starts the thread, which sleeps until [`wake`](Self::wake).
    pub(crate) fn start(
        path: &Path,
        options: &SqliteOptions,
        fanout: LocalFanout,
        survey: impl Fn() + Send + 'static,
    ) -> Result<Self, Error> {
        let conn = connection::reader(path, options)?;
        let signal = Arc::new(Signal::default());
        let watching = WatcherThread {
            conn,
            fanout,
            signal: Arc::clone(&signal),
            every: options.watch_interval.max(Duration::from_millis(1)),
            survey_files: Box::new(survey),
            surveyed: Instant::now(),
            version: 0,
            mark: 0,
        };
        let part = options.health.part("store_watcher");
        let mut watching = watching;
        let thread = thread::Builder::new()
            .name("khala-sqlite-watcher".into())
            .spawn(move || run_again(&part, Condition::Degraded, || watching.run()));
        let thread = thread.map_err(|fault| {
            Error::caused_by(ErrorKind::Unavailable, BACKEND, "no thread to watch on", fault)
        })?;
        Ok(Self { signal, thread: Some(thread) })
    }

    /// Says that somebody watches: after the level is there, so that the first look covers it.
    pub(crate) fn wake(&self) {
        let mut state = self.signal.lock();
        if *state == State::Idle {
            *state = State::Watching;
            self.signal.changed.notify_all();
        }
    }

    /// Stops the thread and waits for it.
    pub(crate) fn stop(&mut self) {
        self.signal.set(State::Stopped);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the change watcher's thread had panicked");
        }
    }
}

/// What the watcher's thread works on.
struct WatcherThread {
    conn: Connection,
    fanout: LocalFanout,
    signal: Arc<Signal>,
    every: Duration,
    /// Looks after the files themselves, which it did at `surveyed` last.
    survey_files: Box<dyn Fn() + Send>,
    surveyed: Instant,
    /// What `data_version` was at the last look.
    version: i64,
    /// The newest `moved` that was seen.
    mark: i64,
}

impl WatcherThread {
    fn run(&mut self) {
        while self.sleep_until_watched() {
            let mut known = self.survey().map_err(report).is_ok();
            let mut quiet = 0;
            while self.sleep_a_moment() {
                let news = if known { self.look() } else { self.survey() };
                // What failed is asked again in whole: the hint is late then, and not lost.
                known = news.as_ref().is_ok();
                quiet = if news.map_err(report).unwrap_or(false) { 0 } else { quiet + 1 };
                if quiet >= QUIET_LOOKS {
                    quiet = 0;
                    self.rest_if_unwatched();
                }
            }
        }
    }

    /// Waits for the first watch; says no when it is time to stop.
    fn sleep_until_watched(&mut self) -> bool {
        loop {
            match self.sleep(site::EVERY, State::Idle) {
                State::Idle => self.look_after_files(),
                state => return state == State::Watching,
            }
        }
    }

    /// Waits until the next look is due; says no when there is to be none.
    fn sleep_a_moment(&mut self) -> bool {
        let mut left = self.every;
        loop {
            let time = left.min(site::EVERY);
            if self.sleep(time, State::Watching) != State::Watching {
                return false;
            }
            self.look_after_files();
            left -= time;
            if left.is_zero() {
                return true;
            }
        }
    }

    /// Waits for so long, or until the state is another, and says which it is.
    fn sleep(&self, time: Duration, state: State) -> State {
        let same = |now: &mut State| *now == state;
        let slept = self.signal.changed.wait_timeout_while(self.signal.lock(), time, same);
        *slept.unwrap_or_else(PoisonError::into_inner).0
    }

    fn look_after_files(&mut self) {
        if self.surveyed.elapsed() >= site::EVERY {
            self.surveyed = Instant::now();
            (self.survey_files)();
        }
    }

    fn rest_if_unwatched(&self) {
        // Under the lock: a watch that is not among the watched yet will wake the thread after this.
        let mut state = self.signal.lock();
        let watched = !self.fanout.watched().is_empty() || self.fanout.revoked_is_watched();
        if *state == State::Watching && !watched {
            *state = State::Idle;
        }
    }

    /// The first look: raises every watched topic to where it is. Whatever moves later has a higher mark.
    fn survey(&mut self) -> Result<bool, Fault> {
        self.version = data_version(&self.conn)?;
        let fanout = &self.fanout;
        self.mark = at_one_moment(&self.conn, |conn| {
            let mark = conn.prepare_cached(sql::LAST_MARK)?.query_row([], |row| row.get(0))?;
            let mut standing = conn.prepare_cached(sql::TOPIC)?;
            for topic in fanout.watched() {
                match TopicRow::read(&mut standing, &topic) {
                    Ok(Some(row)) => fanout.raise(&topic, row.bounds.at_head()),
                    Ok(None) => {}
                    Err(fault) => report_one(fault)?,
                }
            }
            raise_revoked(conn, fanout)?;
            Ok(mark)
        })?;
        Ok(true)
    }

    /// Raises what moved since the last look, if anything did.
    fn look(&mut self) -> Result<bool, Fault> {
        let version = data_version(&self.conn)?;
        if version == self.version {
            return Ok(false);
        }
        let mut moved = self.conn.prepare_cached(sql::MOVED)?;
        let mut rows = moved.query(params![self.mark])?;
        let mut mark = self.mark;
        while let Some(found) = rows.next()? {
            let head = || -> Result<_, Fault> {
                let head =
                    Cursor::new(rows::epoch(&StoredRow(found), 1)?, rows::watermark(&StoredRow(found), 2)?);
                Ok((rows::topic(&StoredRow(found), 0)?, head))
            };
            match head() {
                Ok((topic, head)) => self.fanout.raise(&topic, head),
                Err(fault) => report_one(fault)?,
            }
            mark = found.get(3)?;
        }
        raise_revoked(&self.conn, &self.fanout)?;
        self.mark = mark;
        self.version = version;
        Ok(true)
    }
}

/// Raises the level of the revocations to how far their log goes, watched or not: so a watcher that begins to watch while the
/// thread is awake has it too.
fn raise_revoked(conn: &Connection, fanout: &LocalFanout) -> Result<(), Fault> {
    let mut newest = conn.prepare_cached(sql::LAST_REVOKED)?;
    match newest.query_row([], |row| Ok(rows::watermark(&StoredRow(row), 0)))? {
        Ok(newest) if newest > Watermark::ORIGIN => fanout.raise_revoked(newest),
        Ok(_) => {}
        Err(fault) => report_one(fault)?,
    }
    Ok(())
}

fn data_version(conn: &Connection) -> Result<i64, Fault> {
    Ok(conn.prepare_cached(sql::DATA_VERSION)?.query_row([], |row| row.get(0))?)
}

/// A topic of which something corrupt is stored is in nobody's way; who reads it is told. Gives back any other fault.
fn report_one(fault: Fault) -> Result<(), Fault> {
    if !fault.is_of_the_row() {
        return Err(fault);
    }
    let error = Error::from(fault);
    tracing::warn!(%error, "a topic that moved, or the revocations, cannot be watched; the others are");
    Ok(())
}

fn report(fault: Fault) {
    let error = Error::from(fault);
    tracing::warn!(%error, source = ?error, "cannot look for what other processes wrote; subscribers poll meanwhile");
}

#[cfg(test)]
mod tests {
    use khala_core::Topic;

    use super::*;

    #[test]
    fn it_rests_when_neither_topics_nor_revocations_are_watched() {
        let fanout = LocalFanout::new();
        let watching = WatcherThread {
            conn: Connection::open_in_memory().unwrap(),
            fanout: fanout.clone(),
            signal: Arc::default(),
            every: Duration::ZERO,
            survey_files: Box::new(|| {}),
            surveyed: Instant::now(),
            version: 0,
            mark: 0,
        };
        let state_after_a_quiet_time = || {
            watching.signal.set(State::Watching);
            watching.rest_if_unwatched();
            *watching.signal.lock()
        };
        assert_eq!(state_after_a_quiet_time(), State::Idle);
        let topic = fanout.observe(&Topic::parse("t").unwrap());
        assert_eq!(state_after_a_quiet_time(), State::Watching);
        let revocations = fanout.observe_revoked();
        drop(topic);
        assert_eq!(state_after_a_quiet_time(), State::Watching, "for the revocations alone");
        drop(revocations);
        assert_eq!(state_after_a_quiet_time(), State::Idle);
    }
}
