//! The one writer of this process: a thread with a connection of its own, and group commit.
//!
//! Its requests are committed in groups by the core's policy ([`group_commit`](khala_core::store::group_commit)); this file has the
//! thread and the transactions.
//!
//! # Invariants
//! - No request is answered before the commit of its group.
//! - A group that fails is rolled back as a whole. If the fault may be of one request, each then has a transaction of its own, so
//!   that no request can fail its neighbours. A request that panics is such a fault.
//! - A change, which is rare, has a transaction of its own from the start: a revocation, say.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use khala_core::{
    Append, Batch, Error, ErrorKind, Timestamp, Topic,
    health::{Condition, Part, panic_message},
    inbox::{Arrivals, Handed, Inbox},
    journal::Trimmed,
    projection::{Advance, Advanced},
    store::{
        group_commit::{
            CommitCounts, GroupQueue, GroupRequest as _, GroupTiming, MAX_REQUESTS, PAUSES, SLOW, fail_all,
            is_split,
        },
        trim::{TrimOrder, TrimProgress},
    },
};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{
    append::Group,
    fault::{BACKEND, Fault, shutting_down},
    site::Site,
    sql,
    trim::{Next, Trim},
    waiting::{Answer, Waiting},
};

/// The handle of the writer's thread.
#[derive(Debug)]
pub(crate) struct Writer {
    requests: Option<Inbox<Request>>,
    thread: Option<thread::JoinHandle<()>>,
    site: Arc<Site>,
    counts: Arc<CommitCounts>,
}

#[derive(Debug)]
enum Request {
    Change(Change),
    Trim(Trim),
    Write(Waiting),
}

/// One transaction, which answers whoever asked for it.
struct Change(Box<dyn FnOnce(&Connection) + Send>);

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").finish_non_exhaustive()
    }
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(
        conn: Connection,
        seed: [u8; 16],
        site: Arc<Site>,
        part: Part,
    ) -> Result<Self, Error> {
        let (requests, inbox) = Inbox::new();
        let counts = Arc::new(CommitCounts::new(Instant::now()));
        let mut committer = GroupCommitter::new(conn, seed, Arc::clone(&site), inbox, Arc::clone(&counts));
        let thread = thread::Builder::new().name("khala-sqlite-writer".into()).spawn(move || {
            run_again(&part, Condition::Failed, || committer.work());
            committer.close();
        });
        let thread = thread.map_err(|fault| {
            Error::caused_by(ErrorKind::Unavailable, BACKEND, "no thread to write on", fault)
        })?;
        Ok(Self { requests: Some(requests), thread: Some(thread), site, counts })
    }

    pub(crate) fn counts(&self) -> &CommitCounts {
        &self.counts
    }

    pub(crate) async fn append(&self, topic: Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        let (answer, answered) = Answer::new();
        let handed = self.send(Request::Write(Waiting::Append { topic, batch, now, answer }))?;
        let answer = answered.await.unwrap_or_else(|_| Err(Error::unanswered(BACKEND)));
        // It was taken, so there is nothing to take out again.
        handed.leave();
        answer
    }

    pub(crate) async fn advance(&self, advance: Advance, now: Timestamp) -> Result<Advanced, Error> {
        let (answer, answered) = Answer::new();
        let _handed = self.send(Request::Write(Waiting::Advance { advance, now, answer }))?;
        answered.await.unwrap_or_else(|_| Err(Error::unanswered(BACKEND)))
    }

    pub(crate) async fn trim(&self, order: TrimOrder) -> Result<Trimmed, Error> {
        let (answer, answered) = oneshot::channel();
        let _handed = self.send(Request::Trim(Trim { order, answer, progress: None }))?;
        answered.await.unwrap_or_else(|_| Err(Error::unanswered(BACKEND)))
    }

    /// Runs `change` in a transaction of its own, whether or not anybody waits for its answer any more.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let site = Arc::clone(&self.site);
        let change = Change(Box::new(move |conn| {
            let done = transaction(conn, &site, change).map_err(Error::from);
            if let Err(error) = &done {
                tracing::error!(%error, source = ?error, "a change failed");
            }
            let _ = answer.send(done);
        }));
        self.send(Request::Change(change))?.leave();
        answered.await.unwrap_or_else(|_| Err(Error::unanswered(BACKEND)))
    }

    /// Whether something can be stored now.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        self.site.stands()?;
        if self.counts.is_proven(Instant::now()) {
            return Ok(());
        }
        let proved = self.change(|conn| {
            conn.prepare_cached(sql::PROVE_WRITABLE)?.execute([])?;
            Ok(())
        });
        proved.await?;
        self.counts.proven(Instant::now());
        Ok(())
    }

    /// Looks whether the files are the ones that were opened, and has the writer see to it where they are not.
    pub(crate) fn survey(&self) -> impl Fn() + Send + use<> {
        let (site, requests) = (Arc::clone(&self.site), self.requests.clone());
        move || {
            let Some(requests) = requests.as_ref().filter(|_| site.wants_writer()) else { return };
            let site = Arc::clone(&site);
            let confirm = Change(Box::new(move |conn| {
                let confirmed = site.confirm(conn).map_err(Error::from);
                site.has_writer();
                if let Err(error) = confirmed {
                    tracing::error!(%error, "the files of the store are not what they were");
                }
            }));
            if let Ok(handed) = requests.hand_in(Request::Change(confirm)) {
                handed.leave();
            }
        }
    }

    fn send(&self, request: Request) -> Result<Handed<Request>, Error> {
        let requests = self.requests.as_ref().ok_or_else(shutting_down)?;
        requests.hand_in(request).map_err(|_| shutting_down())
    }

    /// Lets the writer finish what waits, and waits for it.
    pub(crate) fn stop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer's thread had panicked");
        }
    }
}

/// What the writer's thread works on.
struct GroupCommitter {
    conn: Connection,
    seed: [u8; 16],
    site: Arc<Site>,
    inbox: Arrivals<Request>,
    /// What was taken out of the inbox and not sorted yet.
    fresh: Vec<Request>,
    writes: GroupQueue<Waiting>,
    changes: VecDeque<Change>,
    trims: VecDeque<Trim>,
    counts: Arc<CommitCounts>,
}

impl GroupCommitter {
    fn new(
        conn: Connection,
        seed: [u8; 16],
        site: Arc<Site>,
        inbox: Arrivals<Request>,
        counts: Arc<CommitCounts>,
    ) -> Self {
        let (fresh, changes, trims) = (Vec::new(), VecDeque::new(), VecDeque::new());
        let writes = GroupQueue::new(BACKEND, GroupTiming::THREAD);
        Self { conn, seed, site, inbox, fresh, writes, changes, trims, counts }
    }

    /// Until there is nothing to do and never will be again: a group, a change and a step of a trim in turn, so that
    /// none of them waits for more than one of each other kind.
    fn work(&mut self) {
        let mut group = Vec::new();
        while self.receive() {
            self.gather();
            self.writes.take_group(&mut group, Some);
            if !group.is_empty() {
                let (size, begun) = (group.len(), Instant::now());
                self.write(&mut group);
                let took = begun.elapsed();
                self.drain();
                self.writes.written(size, took);
            }
            if let Some(Change(change)) = self.changes.pop_front() {
                change(&self.conn);
            }
            if let Some(trim) = self.trims.pop_front() {
                self.trim(trim);
            }
        }
    }

    /// Waits until there is something to do; says no once there never will be again.
    fn receive(&mut self) -> bool {
        let nothing = self.writes.is_empty() && self.changes.is_empty() && self.trims.is_empty();
        if nothing && !self.inbox.blocking_receive(&mut self.fresh, MAX_REQUESTS) {
            return false;
        }
        self.drain();
        true
    }

    /// Sorts out what has come, without waiting.
    fn drain(&mut self) {
        let room = self.writes.room().saturating_sub(self.fresh.len());
        self.inbox.take(&mut self.fresh, room);
        for request in self.fresh.drain(..) {
            match request {
                Request::Change(change) => self.changes.push_back(change),
                Request::Trim(trim) => self.trims.push_back(trim),
                Request::Write(write) => self.writes.push(write),
            }
        }
    }

    /// Lets the group grow for as long as its policy says.
    fn gather(&mut self) {
        let (mut gathering, begun) = (self.writes.gathering(), Instant::now());
        while let Some(wait) = gathering.next(self.writes.len(), begun.elapsed()) {
            self.inbox.blocking_gather(wait.requests, wait.patience);
            self.drain();
        }
    }

    /// Stores a group and answers everybody in it.
    fn write(&mut self, group: &mut Vec<Waiting>) {
        match self.commit(group) {
            Ok(()) => group.drain(..).for_each(Waiting::tell),
            Err(fault) if is_split(group.len(), fault.is_of_one_request()) => {
                for mut waiting in group.drain(..) {
                    match self.commit(std::slice::from_mut(&mut waiting)) {
                        Ok(()) => waiting.tell(),
                        Err(fault) => waiting.fail(fault.into()),
                    }
                }
            }
            Err(fault) => fail_all(group.drain(..), &fault.into()),
        }
    }

    /// One transaction: all of it is on stable storage when this returns, or nothing ever was there.
    fn commit(&mut self, group: &mut [Waiting]) -> Result<(), Fault> {
        let (conn, seed) = (&self.conn, &self.seed);
        let begun = Instant::now();
        let done = transaction(conn, &self.site, |conn| {
            let mut appends = Group::new(conn, seed);
            group.iter_mut().try_for_each(|waiting| waiting.write(&mut appends))?;
            let updates = appends.updates();
            appends.finish()?;
            Ok(updates)
        });
        let took = begun.elapsed();
        if took > SLOW {
            tracing::warn!(requests = group.len(), ?took, "a transaction was slow");
        }
        match done {
            Ok(updates) => self.counts.committed(group.len(), updates, took, begun + took),
            Err(fault) => {
                self.counts.failed(group.len(), took);
                return Err(fault);
            }
        }
        Ok(())
    }

    /// One step of a trim. What is left of it queues up behind other trims, and behind appends.
    fn trim(&mut self, mut trim: Trim) {
        if trim.answer.is_closed() {
            // Nobody waits for the rest; each step was a whole.
            return;
        }
        match transaction(&self.conn, &self.site, |conn| trim.step(conn, &self.seed)) {
            Ok((progress, Next::Step)) => {
                trim.progress = Some(progress);
                self.trims.push_back(trim);
            }
            Ok((progress, Next::Done)) => {
                let _ = trim.answer.send(Ok(progress.trimmed()));
            }
            Err(fault) => {
                let _ = trim.answer.send(TrimProgress::ended_by(trim.progress, &trim.order, fault));
            }
        }
    }

    /// Leaves everything in the database file itself, where nobody else has it open, and closes it.
    fn close(self) {
        if self.site.check().is_ok() {
            self.empty_log();
        }
        self.site.close(self.conn);
    }

    fn empty_log(&self) {
        // Whoever still reads or writes will do it in our stead; waiting for them would hold up the one who closes.
        let emptied = self
            .conn
            .busy_timeout(Duration::ZERO)
            .and_then(|()| self.conn.query_row(sql::EMPTY_LOG, [], |_| Ok(())));
        if let Err(fault) = emptied {
            tracing::debug!(%fault, "no checkpoint of the file at closing; the write-ahead log stays");
        }
    }
}

/// Runs `work` until it returns. After a panic it goes on, with a rest, and `part` says so meanwhile.
pub(crate) fn run_again(part: &Part, meanwhile: fn(String) -> Condition, mut work: impl FnMut()) {
    let mut pauses = PAUSES;
    loop {
        let begun = Instant::now();
        let Err(panic) = catch_unwind(AssertUnwindSafe(&mut work)) else { return };
        let pause = pauses.after(begun.elapsed());
        part.restarts(Some(panic_message(&*panic)), meanwhile);
        thread::sleep(pause);
        part.healthy();
    }
}

/// Runs `work` in one transaction under the write lock, and commits it or undoes all of it. What is committed is where others
/// find it, or this is an error.
pub(crate) fn transaction<T>(
    conn: &Connection,
    site: &Site,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    site.prepare(conn)?;
    conn.prepare_cached(sql::BEGIN_WRITE)?.execute([])?;
    let worked = catch_unwind(AssertUnwindSafe(|| site.admit_writer().and_then(|()| work(conn))));
    let done =
        worked.unwrap_or_else(|panic| Err(Error::panicked(BACKEND, &*panic).into())).and_then(|done| {
            conn.prepare_cached(sql::COMMIT)?.execute([])?;
            // It is stored, and may be lost: nobody may store it again because of that.
            site.confirm(conn).map_err(Fault::unsure)?;
            Ok(done)
        });
    // After some faults SQLite has rolled back by itself.
    if done.is_err()
        && !conn.is_autocommit()
        && let Err(fault) = conn.execute_batch(sql::ROLLBACK)
    {
        tracing::error!(%fault, "a failed transaction could not be rolled back");
    }
    done
}

#[cfg(test)]
mod tests {
    use khala_core::{Kind, NewUpdate, Payload, journal::Keep};
    use rusqlite::params;

    use super::*;
    use crate::schema;

    use crate::waiting::PANICS;

    const SEED: [u8; 16] = [7; 16];

    fn waiting(topic: &str, updates: usize) -> (Waiting, oneshot::Receiver<Result<Append, Error>>) {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::null());
        let (answer, answered) = Answer::new();
        let (topic, batch) = (Topic::parse(topic).unwrap(), Batch::new(vec![update; updates]).unwrap());
        (Waiting::Append { topic, batch, now: Timestamp::default(), answer }, answered)
    }

    #[test]
    fn what_waits_waits_for_one_step_of_a_trim_at_most() {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::prepare(&mut conn).unwrap();
        for _ in 0..10 {
            let (mut waiting, _answered) = waiting("trimmed", 1_000);
            let mut group = Group::new(&conn, &SEED);
            waiting.write(&mut group).unwrap();
            group.finish().unwrap();
        }
        // What was committed, in its order.
        conn.execute_batch(
            "CREATE TEMP TABLE own_log (id INTEGER PRIMARY KEY, event TEXT);
             CREATE TEMP TRIGGER own_append AFTER UPDATE OF head ON main.khala_topic
                 BEGIN INSERT INTO own_log (event) VALUES ('append'); END;
             CREATE TEMP TRIGGER own_step AFTER UPDATE OF floor ON main.khala_topic
                 BEGIN INSERT INTO own_log (event) VALUES ('step'); END",
        )
        .unwrap();

        let (requests, inbox) = Inbox::new();
        let (answer, mut trimmed) = oneshot::channel();
        let (topic, keep) =
            (Topic::parse("trimmed").unwrap(), Keep { updates: Some(0), ..Keep::everything() });
        let order = TrimOrder { topic, keep, now: Timestamp::default() };
        requests.hand_in(Request::Trim(Trim { order, answer, progress: None })).unwrap().leave();
        // Four to a group.
        let mut answers = Vec::new();
        for _ in 0..5 * 4 {
            let (waiting, answered) = waiting("written", 1_000);
            requests.hand_in(Request::Write(waiting)).unwrap().leave();
            answers.push(answered);
        }
        for _ in 0..5 {
            let change = |conn: &Connection| {
                conn.execute("INSERT INTO own_log (event) VALUES (?1)", params!["change"]).unwrap();
            };
            requests.hand_in(Request::Change(Change(Box::new(change)))).unwrap().leave();
        }
        drop(requests);
        let (site, counts) = (Arc::new(Site::of_none()), Arc::new(CommitCounts::new(Instant::now())));
        let mut committer = GroupCommitter::new(conn, SEED, site, inbox, counts);
        committer.work();

        assert_eq!(trimmed.try_recv().unwrap().unwrap().updates, 10_000);
        assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
        let mut events = committer.conn.prepare("SELECT event FROM own_log ORDER BY id").unwrap();
        let events: Vec<String> =
            events.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let (mixed, steps) = events.split_at(15);
        assert_eq!(mixed, ["append", "change", "step"].repeat(5));
        assert_eq!(steps, ["step"; 15]);
    }

    #[test]
    fn a_panic_costs_one_request_and_not_its_group_nor_the_writer() {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::prepare(&mut conn).unwrap();
        let health = khala_core::health::Health::new();
        let mut writer =
            Writer::start(conn, SEED, Arc::new(Site::of_none()), health.part("store_writer")).unwrap();
        let mut answers = Vec::new();
        // All in one group: the writer is held up until they are there.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let held = Change(Box::new(move |_| {
            let _ = wait.recv();
        }));
        writer.send(Request::Change(held)).unwrap().leave();
        for topic in ["a", PANICS, "b"] {
            let (waiting, answered) = waiting(topic, 1);
            writer.send(Request::Write(waiting)).unwrap().leave();
            answers.push(answered);
        }
        drop(go);
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.blocking_recv().unwrap()).collect();
        assert!(
            matches!(&answers[..], [Ok(Append::Written(_)), Err(_), Ok(Append::Written(_))]),
            "{answers:?}"
        );
        let error = answers[1].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Internal, false), "{error}");

        // What panics outside of a transaction costs nobody else either.
        writer.send(Request::Change(Change(Box::new(|_| panic!("outside"))))).unwrap().leave();
        let (waiting, answered) = waiting("c", 1);
        writer.send(Request::Write(waiting)).unwrap().leave();
        assert!(matches!(answered.blocking_recv().unwrap(), Ok(Append::Written(_))));
        writer.stop();
        assert!(health.failures().is_empty());
    }
}
