//! The writers of this process: group commit across topics.
//!
//! A topic always belongs to the same writer, which drains what waits, in order, and commits it once; nobody is answered
//! before that commit. While it commits, the next group gathers. A group takes only topics that nobody else has locked: what
//! is to go to one that is locked leaves the group and waits for that topic on a connection of its own, with whatever comes
//! for it meanwhile. What must stay true: a topic never waits for another one, and what goes to one topic keeps its order.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use khala_core::{
    Append, Batch, Error, ErrorKind, NewUpdate, Timestamp, Topic,
    health::{Condition, Part, panic_message},
    inbox::{Arrivals, Inbox},
    journal::Chain,
    telemetry::CommitMetrics,
};
use sqlx::PgConnection;
use tokio::{
    sync::oneshot,
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

use crate::{
    append::{AddTopics, AppendGroup, Locking, Outcome, Request},
    database::{Database, Work},
    fault::{BACKEND, Fault, error, shutting_down, too_many_wait},
    plain::{self, is_plain},
    sql::{Sql, query},
};

/// How many requests may wait at one writer for topics that somebody else has.
const PARKED: usize = 4_096;
/// The most requests, updates and bytes in one group, but for its first request.
const GROUP_REQUESTS: usize = 1_024;
const GROUP_UPDATES: usize = 4_096;
const GROUP_BYTES: usize = 8 << 20;
/// How long the row of a new topic may wait for somebody who adds it just now, on behalf of other new topics.
const ADD_PATIENCE: Duration = Duration::from_millis(200);
/// When what waits for a locked topic tries again, if no connection is left to wait on.
const AGAIN: Duration = Duration::from_millis(10);
/// How often a group that is smaller than the last ones looks again before it is written, and how long it waits where that is
/// little next to a commit.
const LOOKS: usize = 16;
const GATHER: Duration = Duration::from_millis(1);
/// A commit that takes longer is worth a log line.
const SLOW: Duration = Duration::from_secs(1);

/// A commit that is not older proves that the next one will be possible.
const PROVEN_FOR: Duration = Duration::from_secs(1);
/// How long a writer that panicked rests before it goes on, at first and at most.
const RESTS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The handle of the writers' tasks.
#[derive(Debug)]
pub(crate) struct Writers {
    database: Arc<Database>,
    inboxes: Vec<Inbox<Waiting>>,
    hasher: RandomState,
    counts: Arc<Counts>,
}

/// What the writers have done.
#[derive(Debug)]
pub(crate) struct Counts {
    started: Instant,
    /// When something was last committed, in milliseconds since `started`, and one more; 0: never.
    committed_at: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) appends: AtomicU64,
    pub(crate) updates: AtomicU64,
    pub(crate) metrics: CommitMetrics,
}

impl Counts {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            committed_at: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            appends: AtomicU64::new(0),
            updates: AtomicU64::new(0),
            metrics: CommitMetrics::new(),
        }
    }

    fn committed(&self) {
        let at = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.committed_at.store(at.saturating_add(1), Ordering::Relaxed);
    }

    fn committed_just_now(&self) -> bool {
        let at = self.committed_at.load(Ordering::Relaxed);
        at > 0 && self.started.elapsed().saturating_sub(Duration::from_millis(at)) < PROVEN_FOR
    }

    /// Counts a commit.
    pub(crate) fn add(&self, appends: u64, updates: u64) {
        if updates > 0 {
            self.committed();
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.appends.fetch_add(appends, Ordering::Relaxed);
        self.updates.fetch_add(updates, Ordering::Relaxed);
    }
}

/// An append that waits to be answered.
#[derive(Debug)]
struct Waiting {
    request: Request,
    answer: oneshot::Sender<Result<Append, Error>>,
    /// When its topic was first found to be somebody else's.
    held_since: Option<Instant>,
}

impl Waiting {
    /// Gives the answer. Who has stopped waiting learns of it by a dedup key or by reading.
    fn tell(self, answer: Result<Append, Error>) {
        if answer.is_err() {
            self.request.batch.break_chain();
        }
        let _ = self.answer.send(answer);
    }

    /// The request itself. None if nobody waits for it any more or if its chain is broken; that breaks its chain.
    fn still_wanted(self) -> Option<Self> {
        if self.request.batch.is_cut_off() {
            self.tell(Err(Chain::error(BACKEND)));
            return None;
        }
        if self.answer.is_closed() {
            self.request.batch.break_chain();
            return None;
        }
        Some(self)
    }
}

impl Writers {
    /// Starts the tasks. They end when the handle is dropped and what waits is written.
    pub(crate) fn start(database: &Arc<Database>) -> Self {
        let counts = Arc::new(Counts::new());
        let inboxes = (0..database.options.writers.get()).map(|_| {
            let (inbox, requests) = Inbox::new();
            let desk = Desk {
                pen: Pen { database: Arc::clone(database), counts: Arc::clone(&counts) },
                inbox: requests,
                open: true,
                waiting: VecDeque::new(),
                parked: HashMap::new(),
                parked_requests: 0,
                lanes: JoinSet::new(),
                expected: 0,
                took: Duration::ZERO,
            };
            tokio::spawn(desk.run_again(database.options.health.part("store_writer")));
            inbox
        });
        Self {
            database: Arc::clone(database),
            inboxes: inboxes.collect(),
            hasher: RandomState::new(),
            counts,
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(crate) async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
        let writer = self.hasher.hash_one(topic) % self.inboxes.len() as u64;
        let inbox = usize::try_from(writer).ok().and_then(|writer| self.inboxes.get(writer));
        let (answer, answered) = oneshot::channel();
        let request = Request { topic: topic.clone(), batch, now };
        let waiting = Waiting { request, answer, held_since: None };
        let inbox = inbox.ok_or_else(shutting_down)?;
        let _handed = inbox.hand_in(waiting).map_err(|_| shutting_down())?;
        answered.await.unwrap_or_else(|_| Err(Error::unanswered(BACKEND)))
    }

    /// Whether something can be stored now.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        if !self.counts.committed_just_now() {
            self.database.group(ProveWritable).await?;
            self.counts.committed();
        }
        Ok(())
    }
}

/// What one writer's task works on.
struct Desk {
    pen: Pen,
    inbox: Arrivals<Waiting>,
    open: bool,
    waiting: VecDeque<Waiting>,
    /// The topics that are waited for, and what came for them meanwhile.
    parked: HashMap<Topic, Vec<Waiting>>,
    /// How many requests that is.
    parked_requests: usize,
    lanes: JoinSet<Back>,
    /// How many requests the last group and those that waited behind it were: so many are expected again.
    expected: usize,
    /// How long the last group took.
    took: Duration,
}

/// What comes back from a lane.
struct Back {
    topics: HashSet<Topic>,
    /// What was not answered, in order.
    left: Vec<Waiting>,
    /// Whether what is left is to wait topic by topic.
    apart: bool,
}

/// A transaction that must write, and writes nothing that anybody reads.
struct ProveWritable;

impl Work for ProveWritable {
    type Done = ();

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<(), Fault> {
        query(&sql.prove_writable).execute(conn).await?;
        Ok(())
    }
}

impl Desk {
    /// Runs until nothing comes any more. After a panic it goes on with what waits, and `part` says so meanwhile.
    async fn run_again(mut self, part: Part) {
        let (mut rest, most) = RESTS;
        loop {
            let begun = Instant::now();
            let Err(panic) = AssertUnwindSafe(self.run()).catch_unwind().await else { return };
            if begun.elapsed() > most {
                rest = RESTS.0;
            }
            part.restarts(Some(panic_message(&*panic)), Condition::Failed);
            sleep(rest).await;
            rest = (rest * 2).min(most);
            part.healthy();
        }
    }

    async fn run(&mut self) {
        while self.receive().await {
            self.gather().await;
            let mut group = Vec::new();
            self.take_group(&mut group);
            if group.is_empty() {
                continue;
            }
            let (size, begun) = (group.len(), Instant::now());
            let (held, untouched) = self.pen.write(group, Locking::Skip).await;
            self.took = begun.elapsed();
            self.drain();
            self.expected = size + self.waiting.len();
            self.wait_for_each(held);
            self.add(untouched);
        }
    }

    /// Waits until there is something to do; says no once there never will be again.
    async fn receive(&mut self) -> bool {
        let mut fresh = Vec::new();
        if self.waiting.is_empty() {
            tokio::select! {
                Some(back) = self.lanes.join_next() => self.return_from(back),
                open = self.inbox.receive(&mut fresh, GROUP_REQUESTS), if self.open => self.open = open,
                else => return false,
            }
        }
        while let Some(back) = self.lanes.try_join_next() {
            self.return_from(back);
        }
        self.waiting.extend(fresh);
        self.drain();
        true
    }

    /// Takes what has come, without waiting.
    fn drain(&mut self) {
        let room = GROUP_REQUESTS.saturating_sub(self.waiting.len());
        self.waiting.extend((0..room).map_while(|_| self.inbox.try_next()));
    }

    /// Lets those who were just answered come back with their next request: who has to wait for the next group instead
    /// waits for a whole commit, and each of two half groups costs as much as one.
    async fn gather(&mut self) {
        for _ in 0..LOOKS {
            if self.waiting.len() >= self.expected {
                return;
            }
            yield_now().await;
            self.drain();
        }
        if self.took >= 4 * GATHER {
            let _ = timeout(GATHER, async {
                while self.waiting.len() < self.expected {
                    let Some(next) = self.inbox.next().await else { return };
                    self.waiting.push_back(next);
                }
            })
            .await;
        }
    }

    /// Lets it wait for its topic with those that do.
    fn park(&mut self, waiting: Waiting) {
        match self.parked.get_mut(&waiting.request.topic) {
            Some(there) if self.parked_requests < PARKED => {
                there.push(waiting);
                self.parked_requests += 1;
            }
            _ => waiting.tell(Err(too_many_wait())),
        }
    }

    /// Moves what may share the next transaction into `group`.
    fn take_group(&mut self, group: &mut Vec<Waiting>) {
        let (mut updates, mut bytes) = (0, 0);
        while let Some(next) = self.waiting.front() {
            if self.parked.contains_key(&next.request.topic) {
                if let Some(next) = self.waiting.pop_front() {
                    self.park(next);
                }
                continue;
            }
            let batch = next.request.batch.updates();
            updates += batch.len();
            bytes += batch.iter().map(NewUpdate::size).sum::<usize>();
            let full = group.len() == GROUP_REQUESTS || updates > GROUP_UPDATES || bytes > GROUP_BYTES;
            if full && !group.is_empty() {
                return;
            }
            // Whoever has stopped waiting gets nothing stored: under overload, retries would only add to it.
            group.extend(self.waiting.pop_front().and_then(Waiting::still_wanted));
        }
    }

    /// Lets what goes to topics that somebody else has wait for them, each topic by itself.
    fn wait_for_each(&mut self, held: Vec<Waiting>) {
        let mut topics: HashMap<Topic, Vec<Waiting>> = HashMap::new();
        for waiting in held {
            topics.entry(waiting.request.topic.clone()).or_default().push(waiting);
        }
        for (topic, waiting) in topics {
            self.parked.entry(topic.clone()).or_default();
            self.lanes.spawn(self.pen.clone().wait_for(topic, waiting));
        }
    }

    /// Gives topics that were never written their rows; what goes to them comes back then.
    fn add(&mut self, untouched: Vec<Waiting>) {
        if untouched.is_empty() {
            return;
        }
        let topics: HashSet<Topic> = untouched.iter().map(|waiting| waiting.request.topic.clone()).collect();
        for topic in &topics {
            self.parked.entry(topic.clone()).or_default();
        }
        self.lanes.spawn(self.pen.clone().add(topics, untouched));
    }

    /// Puts what a lane left, and what came for its topics meanwhile, before everything else that waits.
    fn return_from(&mut self, back: Result<Back, tokio::task::JoinError>) {
        let Back { topics, mut left, apart } = match back {
            Ok(back) => back,
            Err(fault) => {
                // Nobody knows which topics it had: nothing that is parked may wait for ever.
                tracing::error!(%fault, "a lane of the writer ended");
                let topics = self.parked.keys().cloned().collect();
                Back { topics, left: Vec::new(), apart: false }
            }
        };
        if apart {
            return self.wait_for_each(left);
        }
        for topic in topics {
            let parked = self.parked.remove(&topic).unwrap_or_default();
            self.parked_requests -= parked.len();
            left.extend(parked);
        }
        for waiting in left.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
    }
}

/// What writes: in the desk's own turn, or beside it.
#[derive(Clone)]
struct Pen {
    database: Arc<Database>,
    counts: Arc<Counts>,
}

impl Pen {
    /// Waits for one topic, and writes what goes to it. Without a turn to wait, it tries again a little later, but not for
    /// longer than one waits for a lock.
    async fn wait_for(self, topic: Topic, mut waiting: Vec<Waiting>) -> Back {
        let (now, patience) = (Instant::now(), self.database.options.lock_timeout());
        waiting = waiting.into_iter().filter_map(Waiting::still_wanted).collect();
        for one in &mut waiting {
            one.held_since.get_or_insert(now);
        }
        let left = match self.database.turn_to_wait() {
            Some(_turn) => self.write(waiting, Locking::Wait).await.0,
            None => {
                let over = |one: &Waiting| one.held_since.is_some_and(|since| since.elapsed() > patience);
                let (over, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(over);
                for one in over {
                    one.tell(Err(too_many_wait()));
                }
                sleep(AGAIN).await;
                left
            }
        };
        Back { topics: HashSet::from([topic]), left, apart: false }
    }

    /// Adds the rows of topics, in a transaction of its own.
    async fn add(self, topics: HashSet<Topic>, untouched: Vec<Waiting>) -> Back {
        let mut names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
        names.sort_unstable();
        let added = self.database.group(AddTopics { names: names.clone(), patience: ADD_PATIENCE });
        let (left, apart) = match unless_it_panics(added).await {
            Ok(()) => (untouched, false),
            // Somebody adds one of them in a transaction that is still open: the others need not wait for that.
            Err(fault) if fault.is_lock_timeout() => (untouched, true),
            Err(fault) => {
                let error = Error::from(fault);
                tracing::error!(topics = names.len(), %error, source = ?error, "topics could not be added");
                for waiting in untouched {
                    waiting.tell(Err(error.clone()));
                }
                (Vec::new(), false)
            }
        };
        Back { topics, left, apart }
    }

    /// Stores a group and answers everybody in it, but for those whose topics somebody else has, and those whose topics
    /// have no row, which it gives back.
    async fn write(&self, group: Vec<Waiting>, locking: Locking) -> (Vec<Waiting>, Vec<Waiting>) {
        let (mut held, mut untouched) = (Vec::new(), Vec::new());
        let mut settle = |waiting: Waiting, outcome| match outcome {
            Outcome::Answered(answer) => waiting.tell(answer),
            Outcome::Held => held.push(waiting),
            Outcome::Untouched => untouched.push(waiting),
        };
        match self.commit(&group, locking).await {
            Ok(outcomes) => {
                group.into_iter().zip(outcomes).for_each(|(waiting, outcome)| settle(waiting, outcome))
            }
            Err(fault) if group.len() > 1 && fault.is_of_one_request() => {
                // What has to wait for its topic takes along what comes after it: each topic keeps its order.
                let mut behind: HashMap<Topic, Outcome> = HashMap::new();
                for waiting in group {
                    let outcome = match behind.get(&waiting.request.topic) {
                        Some(Outcome::Untouched) => Outcome::Untouched,
                        Some(_) => Outcome::Held,
                        // One before it may have failed by now.
                        None if waiting.request.batch.is_cut_off() => {
                            Outcome::Answered(Err(Chain::error(BACKEND)))
                        }
                        None => self.commit_one(&waiting, locking).await,
                    };
                    match &outcome {
                        Outcome::Held => drop(behind.insert(waiting.request.topic.clone(), Outcome::Held)),
                        Outcome::Untouched => {
                            drop(behind.insert(waiting.request.topic.clone(), Outcome::Untouched))
                        }
                        Outcome::Answered(_) => {}
                    }
                    settle(waiting, outcome);
                }
            }
            Err(fault) => {
                let error = Error::from(fault);
                tracing::error!(requests = group.len(), %error, source = ?error, "a commit failed");
                for waiting in group {
                    settle(waiting, Outcome::Answered(Err(error.clone())));
                }
            }
        }
        (held, untouched)
    }

    /// What becomes of a request that has a transaction to itself.
    async fn commit_one(&self, waiting: &Waiting, locking: Locking) -> Outcome {
        match self.commit(std::slice::from_ref(waiting), locking).await.map(|mut outcomes| outcomes.pop()) {
            Ok(Some(outcome)) => outcome,
            Ok(None) => Outcome::Answered(Err(error(ErrorKind::Corrupt, "no answer to a request"))),
            Err(fault) => Outcome::Answered(Err(fault.into())),
        }
    }

    /// One transaction: all of it is on stable storage when this returns, or nothing ever was there.
    async fn commit(&self, group: &[Waiting], locking: Locking) -> Result<Vec<Outcome>, Fault> {
        let requests: Vec<&Request> = group.iter().map(|waiting| &waiting.request).collect();
        let begun = Instant::now();
        let outcomes = unless_it_panics(async {
            if locking == Locking::Skip && requests.iter().all(|request| is_plain(request)) {
                plain::append(&self.database, &requests).await
            } else {
                self.database.group(AppendGroup { requests: requests.clone(), locking }).await
            }
        });
        let outcomes = outcomes.await;
        let took = begun.elapsed();
        if took > SLOW && locking == Locking::Skip {
            tracing::warn!(appends = group.len(), ?took, "a transaction was slow");
        }
        let answered = |outcomes: &Vec<Outcome>| {
            outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Answered(_))).count()
        };
        let appends = outcomes.as_ref().map_or(group.len(), answered);
        if appends > 0 {
            self.counts.metrics.record(outcomes.is_ok(), appends, took);
        }
        let outcomes = outcomes?;
        let written = requests
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| matches!(outcome, Outcome::Answered(Ok(Append::Written(_)))));
        let updates: usize = written.map(|(request, _)| request.batch.updates().len()).sum();
        if appends > 0 {
            self.counts.add(appends as u64, updates as u64);
        }
        Ok(outcomes)
    }
}

/// What a transaction gives; a panic is a fault of its own.
async fn unless_it_panics<T>(done: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let done = AssertUnwindSafe(done).catch_unwind().await;
    done.unwrap_or_else(|panic| Err(Error::panicked(BACKEND, &*panic).into()))
}
