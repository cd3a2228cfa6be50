//! The writers of this process: group commit across topics.
//!
//! Requests are committed in groups by the core's policy ([`group_commit`](khala_core::store::group_commit)); this file has the tasks
//! and the transactions. A topic always belongs to the same writer. A group takes only topics that nobody else has locked. A
//! request for a locked topic leaves the group and is deferred: it waits for that topic on a connection of its own, together with
//! the requests that come for the topic meanwhile.
//!
//! # Invariants
//! - No request is answered before the commit of its group.
//! - A topic never waits for another topic, and the requests of one topic keep their order.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use khala_core::{
    Append, Batch, Error, ErrorKind, Timestamp, Topic,
    health::{Condition, Part, panic_message},
    inbox::{Arrivals, Inbox},
    journal::Chain,
    store::group_commit::{
        CommitCounts, GroupQueue, GroupRequest, GroupTiming, MAX_REQUESTS, PAUSES, SLOW, fail_all, is_split,
        still_wanted,
    },
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
const MAX_DEFERRED: usize = 4_096;
/// How long the row of a new topic may wait for somebody who adds it just now, on behalf of other new topics.
const ADD_PATIENCE: Duration = Duration::from_millis(200);
/// When what waits for a locked topic tries again, if no connection is left to wait on.
const AGAIN: Duration = Duration::from_millis(10);
/// How often a group that is smaller than expected lets other tasks run before it waits. That costs nothing where publishers on
/// this runtime are about to come back.
const YIELDS: usize = 16;

/// The handle of the writers' tasks.
#[derive(Debug)]
pub(crate) struct Writers {
    database: Arc<Database>,
    inboxes: Vec<Inbox<Waiting>>,
    hasher: RandomState,
    counts: Arc<CommitCounts>,
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
}

impl GroupRequest for Waiting {
    fn batch(&self) -> Option<&Batch> {
        Some(&self.request.batch)
    }

    fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }

    fn fail(self, error: Error) {
        self.tell(Err(error));
    }
}

impl Writers {
    /// Starts the tasks. They end when the handle is dropped and what waits is written.
    pub(crate) fn start(database: &Arc<Database>) -> Self {
        let counts = Arc::new(CommitCounts::new(Instant::now()));
        let inboxes = (0..database.options.writers.get()).map(|_| {
            let (inbox, requests) = Inbox::new();
            let committer = GroupCommitter {
                runner: TransactionRunner { database: Arc::clone(database), counts: Arc::clone(&counts) },
                inbox: requests,
                open: true,
                queue: GroupQueue::new(BACKEND, GroupTiming::TASK),
                deferred: Deferred::default(),
                waits: JoinSet::new(),
            };
            tokio::spawn(committer.run_again(database.options.health.part("store_writer")));
            inbox
        });
        Self {
            database: Arc::clone(database),
            inboxes: inboxes.collect(),
            hasher: RandomState::new(),
            counts,
        }
    }

    pub(crate) fn counts(&self) -> &CommitCounts {
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
        if !self.counts.is_proven(Instant::now()) {
            self.database.group(ProveWritable).await?;
            self.counts.proven(Instant::now());
        }
        Ok(())
    }
}

/// What one writer's task works on.
struct GroupCommitter {
    runner: TransactionRunner,
    inbox: Arrivals<Waiting>,
    open: bool,
    queue: GroupQueue<Waiting>,
    deferred: Deferred,
    /// The transactions that wait for deferred topics.
    waits: JoinSet<Waited>,
}

/// The topics that are waited for, and the requests that came for them meanwhile.
#[derive(Default)]
struct Deferred {
    topics: HashMap<Topic, Vec<Waiting>>,
    /// How many requests that is.
    requests: usize,
}

impl Deferred {
    /// From now on, requests for that topic are kept.
    fn add(&mut self, topic: &Topic) {
        self.topics.entry(topic.clone()).or_default();
    }

    /// Keeps a request if its topic is waited for, and gives it back otherwise.
    fn keep(&mut self, waiting: Waiting) -> Option<Waiting> {
        let Some(kept) = self.topics.get_mut(&waiting.request.topic) else { return Some(waiting) };
        if self.requests < MAX_DEFERRED {
            kept.push(waiting);
            self.requests += 1;
        } else {
            waiting.fail(too_many_wait());
        }
        None
    }

    /// Waits for that topic no longer.
    fn take(&mut self, topic: &Topic) -> Vec<Waiting> {
        let kept = self.topics.remove(topic).unwrap_or_default();
        self.requests -= kept.len();
        kept
    }
}

/// How a wait for deferred topics ended.
struct Waited {
    topics: HashSet<Topic>,
    /// The requests that were not answered, in order.
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

impl GroupCommitter {
    /// Runs until nothing comes any more. After a panic it goes on with what waits, and `part` says so meanwhile.
    async fn run_again(mut self, part: Part) {
        let mut pauses = PAUSES;
        loop {
            let begun = Instant::now();
            let Err(panic) = AssertUnwindSafe(self.run()).catch_unwind().await else { return };
            let pause = pauses.after(begun.elapsed());
            part.restarts(Some(panic_message(&*panic)), Condition::Failed);
            sleep(pause).await;
            part.healthy();
        }
    }

    async fn run(&mut self) {
        while self.receive().await {
            self.gather().await;
            let mut group = Vec::new();
            self.queue.take_group(&mut group, |waiting| self.deferred.keep(waiting));
            if group.is_empty() {
                continue;
            }
            let (size, begun) = (group.len(), Instant::now());
            let (held, untouched) = self.runner.write(group, Locking::Skip).await;
            let took = begun.elapsed();
            self.drain();
            self.queue.written(size, took);
            self.wait_for_each(held);
            self.add(untouched);
        }
    }

    /// Waits until there is something to do; says no once there never will be again.
    async fn receive(&mut self) -> bool {
        let mut fresh = Vec::new();
        if self.queue.is_empty() {
            tokio::select! {
                Some(waited) = self.waits.join_next() => self.return_from(waited),
                open = self.inbox.receive(&mut fresh, MAX_REQUESTS), if self.open => self.open = open,
                else => return false,
            }
        }
        while let Some(waited) = self.waits.try_join_next() {
            self.return_from(waited);
        }
        fresh.into_iter().for_each(|waiting| self.queue.push(waiting));
        self.drain();
        true
    }

    /// Takes what has come, without waiting.
    fn drain(&mut self) {
        for _ in 0..self.queue.room() {
            let Some(waiting) = self.inbox.try_next() else { return };
            self.queue.push(waiting);
        }
    }

    /// Lets the group grow for as long as its policy says.
    async fn gather(&mut self) {
        let mut gathering = self.queue.gathering();
        for _ in 0..YIELDS {
            if !gathering.is_short(self.queue.len()) {
                return;
            }
            yield_now().await;
            self.drain();
        }
        let begun = Instant::now();
        while let Some(wait) = gathering.next(self.queue.len(), begun.elapsed()) {
            let _ = timeout(wait.patience, async {
                for _ in 0..wait.requests {
                    let Some(next) = self.inbox.next().await else { return };
                    self.queue.push(next);
                }
            })
            .await;
        }
    }

    /// Lets the requests for topics that somebody else has wait for them, each topic by itself.
    fn wait_for_each(&mut self, held: Vec<Waiting>) {
        let mut topics: HashMap<Topic, Vec<Waiting>> = HashMap::new();
        for waiting in held {
            topics.entry(waiting.request.topic.clone()).or_default().push(waiting);
        }
        for (topic, waiting) in topics {
            self.deferred.add(&topic);
            self.waits.spawn(self.runner.clone().wait_for(topic, waiting));
        }
    }

    /// Gives topics that were never written their rows; the requests for them come back then.
    fn add(&mut self, untouched: Vec<Waiting>) {
        if untouched.is_empty() {
            return;
        }
        let topics: HashSet<Topic> = untouched.iter().map(|waiting| waiting.request.topic.clone()).collect();
        topics.iter().for_each(|topic| self.deferred.add(topic));
        self.waits.spawn(self.runner.clone().add(topics, untouched));
    }

    /// Puts what is left of a wait, and what came for its topics meanwhile, before everything else that waits.
    fn return_from(&mut self, waited: Result<Waited, tokio::task::JoinError>) {
        let Waited { topics, mut left, apart } = waited.unwrap_or_else(|fault| {
            // Nobody knows which topics it had: nothing that is deferred may wait for ever.
            tracing::error!(%fault, "a wait of the writer ended");
            let topics = self.deferred.topics.keys().cloned().collect();
            Waited { topics, left: Vec::new(), apart: false }
        });
        if apart {
            return self.wait_for_each(left);
        }
        for topic in &topics {
            left.extend(self.deferred.take(topic));
        }
        self.queue.put_back(left);
    }
}

/// Runs the transactions of a writer: in its turn, or beside it.
#[derive(Clone)]
struct TransactionRunner {
    database: Arc<Database>,
    counts: Arc<CommitCounts>,
}

impl TransactionRunner {
    /// Waits for one topic, and writes what goes to it. Without a turn to wait, it tries again a little later, but not for
    /// longer than one waits for a lock.
    async fn wait_for(self, topic: Topic, mut waiting: Vec<Waiting>) -> Waited {
        let (now, patience) = (Instant::now(), self.database.options.lock_timeout());
        waiting = waiting.into_iter().filter_map(|waiting| still_wanted(waiting, BACKEND)).collect();
        for one in &mut waiting {
            one.held_since.get_or_insert(now);
        }
        let left = match self.database.turn_to_wait() {
            Some(_turn) => self.write(waiting, Locking::Wait).await.0,
            None => {
                let over = |one: &Waiting| one.held_since.is_some_and(|since| since.elapsed() > patience);
                let (over, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(over);
                for one in over {
                    one.fail(too_many_wait());
                }
                sleep(AGAIN).await;
                left
            }
        };
        Waited { topics: HashSet::from([topic]), left, apart: false }
    }

    /// Adds the rows of topics, in a transaction of its own.
    async fn add(self, topics: HashSet<Topic>, untouched: Vec<Waiting>) -> Waited {
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
                untouched.into_iter().for_each(|waiting| waiting.fail(error.clone()));
                (Vec::new(), false)
            }
        };
        Waited { topics, left, apart }
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
            Err(fault) if is_split(group.len(), fault.is_of_one_request()) => {
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
            Err(fault) => fail_all(group.into_iter(), &fault.into()),
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
        let outcomes = outcomes.inspect_err(|_| self.counts.failed(group.len(), took))?;
        let (mut answered, mut updates) = (0, 0);
        for (request, outcome) in requests.iter().zip(&outcomes) {
            answered += usize::from(matches!(outcome, Outcome::Answered(_)));
            if let Outcome::Answered(Ok(Append::Written(_))) = outcome {
                updates += request.batch.updates().len();
            }
        }
        if answered > 0 {
            self.counts.committed(answered, updates, took, begun + took);
        }
        Ok(outcomes)
    }
}

/// What a transaction gives; a panic is a fault of its own.
async fn unless_it_panics<T>(done: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let done = AssertUnwindSafe(done).catch_unwind().await;
    done.unwrap_or_else(|panic| Err(Error::panicked(BACKEND, &*panic).into()))
}
