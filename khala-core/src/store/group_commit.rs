//! The policy of group commit: which requests share a transaction, how long a group waits for more of them, and what becomes of
//! a group that fails. For implementers of stores.
//!
//! A store's writer keeps its requests in a [`GroupQueue`]. While one group is committed the next one gathers, so throughput grows
//! with concurrency and latency hardly does. The loop is the store's own, because one writer is a thread and another is a task.
//!
//! # Invariants
//! - Requests leave the queue in the order in which they came.
//! - A request that nobody waits for is not written, and neither is one whose chain is broken (J20).
//! - A writer that has one request at a time never waits for a second one.
//! - Nothing here reads a clock or waits.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    chain::Chain, error::Error, health::Pauses, journal::Batch, telemetry::CommitMetrics, update::NewUpdate,
};

/// The most requests in one group.
pub const MAX_REQUESTS: usize = 1_024;
/// The most updates and bytes in one group, unless its first request alone has more.
const MAX_UPDATES: usize = 4_096;
const MAX_BYTES: usize = 8 << 20;

/// The longest wait of a group that is smaller than expected.
const MAX_WAIT: Duration = Duration::from_millis(1);

/// A commit that takes longer is worth a line in the log.
pub const SLOW: Duration = Duration::from_secs(1);

/// A commit that is at most this old proves that the next one will be possible.
const PROVEN_FOR: Duration = Duration::from_secs(1);

/// The pauses of a writer that panicked.
pub const PAUSES: Pauses =
    Pauses::new(Duration::from_millis(10), Duration::from_secs(1), Duration::from_secs(1));

/// A request that is written in a group with others.
pub trait GroupRequest: Sized {
    /// The batch that it appends. None where it appends nothing.
    fn batch(&self) -> Option<&Batch>;

    /// Whether nobody waits for its answer any more.
    fn is_given_up(&self) -> bool;

    /// Breaks its [chain](Batch::break_chain), because nothing of it is stored, and answers it with the error.
    fn fail(self, error: Error);
}

/// The request, if it is still to be written. If nobody waits for it any more, or its chain is broken, it is not: under overload,
/// writing what was given up would only add to the load.
pub fn still_wanted<R: GroupRequest>(request: R, backend: &'static str) -> Option<R> {
    if request.batch().is_some_and(Batch::is_cut_off) {
        request.fail(Chain::error(backend));
        return None;
    }
    if request.is_given_up() {
        if let Some(batch) = request.batch() {
            batch.break_chain();
        }
        return None;
    }
    Some(request)
}

/// How a writer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupTiming {
    /// The shortest wait that the writer's timer can keep. A group waits only if that is little next to a commit.
    shortest_wait: Duration,
    /// A group of this many requests waits for no more.
    enough: usize,
}

impl GroupTiming {
    /// For a writer that is a task on tokio, whose timer counts milliseconds. Each of its commits is a round trip to a server, so
    /// no group is large enough to go without the rest.
    pub const TASK: Self = Self { shortest_wait: Duration::from_millis(1), enough: usize::MAX };

    /// For a writer that is a thread of its own. Its commits cost little next to a group of 256 requests, and the next group
    /// gathers meanwhile.
    pub const THREAD: Self = Self { shortest_wait: Duration::ZERO, enough: 256 };
}

/// The requests that wait for a writer, and what the last group tells about the next one.
#[derive(Debug)]
pub struct GroupQueue<R> {
    backend: &'static str,
    timing: GroupTiming,
    requests: VecDeque<R>,
    /// How many requests the last group had, together with those that waited behind it: as many are expected again.
    expected: usize,
    /// How long the last group took.
    took: Duration,
}

/// The wait of one group for more requests, which goes on while each part of it brings some.
#[derive(Clone, Copy, Debug)]
pub struct Gathering {
    expected: usize,
    longest: Duration,
    part: Duration,
    before: usize,
}

/// One part of a [`Gathering`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wait {
    /// The wait ends early once that many requests have come.
    pub requests: usize,
    /// The longest that it lasts.
    pub patience: Duration,
}

impl<R: GroupRequest> GroupQueue<R> {
    /// An empty queue of a store of that name.
    pub fn new(backend: &'static str, timing: GroupTiming) -> Self {
        Self { backend, timing, requests: VecDeque::new(), expected: 0, took: Duration::ZERO }
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// How many more requests the queue is to take in now.
    pub fn room(&self) -> usize {
        MAX_REQUESTS.saturating_sub(self.requests.len())
    }

    /// Adds a request behind the others.
    pub fn push(&mut self, request: R) {
        self.requests.push_back(request);
    }

    /// Puts requests that were taken back before all others, in their order.
    pub fn put_back(&mut self, requests: Vec<R>) {
        for request in requests.into_iter().rev() {
            self.requests.push_front(request);
        }
    }

    /// The wait of the next group. The publishers that were just answered may come back with their next request: a request that
    /// misses the group waits for a whole commit, and two half groups cost nearly twice as much as one.
    pub fn gathering(&self) -> Gathering {
        let Self { timing, took, .. } = *self;
        let longest = if took >= 4 * timing.shortest_wait { took.min(MAX_WAIT) } else { Duration::ZERO };
        Gathering {
            expected: self.expected.min(timing.enough),
            longest,
            part: (longest / 8).max(timing.shortest_wait),
            before: 0,
        }
    }

    /// Moves the requests that may share the next transaction into `group`.
    ///
    /// Each of them passes `defer` first, which may keep it.
    pub fn take_group(&mut self, group: &mut Vec<R>, mut defer: impl FnMut(R) -> Option<R>) {
        let (mut updates, mut bytes) = (0, 0);
        while let Some(next) = self.requests.pop_front() {
            let Some(next) = defer(next).and_then(|next| still_wanted(next, self.backend)) else { continue };
            let new = next.batch().map_or(&[][..], Batch::updates);
            updates += new.len();
            bytes += new.iter().map(NewUpdate::size).sum::<usize>();
            let is_full = group.len() == MAX_REQUESTS || updates > MAX_UPDATES || bytes > MAX_BYTES;
            if is_full && !group.is_empty() {
                self.requests.push_front(next);
                return;
            }
            group.push(next);
        }
    }

    /// Notes that a group of `size` requests took that long. The requests that came meanwhile are in the queue.
    pub fn written(&mut self, size: usize, took: Duration) {
        self.took = took;
        self.expected = size + self.requests.len();
    }
}

impl Gathering {
    /// Whether `waiting` requests are fewer than expected.
    pub fn is_short(&self, waiting: usize) -> bool {
        waiting < self.expected
    }

    /// How long to wait now, if at all, with `waiting` requests there, after `waited` in all.
    pub fn next(&mut self, waiting: usize, waited: Duration) -> Option<Wait> {
        if waiting <= self.before || !self.is_short(waiting) || waited >= self.longest {
            return None;
        }
        self.before = waiting;
        Some(Wait { requests: self.expected - waiting, patience: self.part })
    }
}

/// Whether the requests of a group that failed are each written in a transaction of their own, so that none fails its neighbours:
/// if the fault may be the fault of one of them.
pub fn is_split(requests: usize, fault_is_of_one_request: bool) -> bool {
    requests > 1 && fault_is_of_one_request
}

/// Answers all requests of a group with the error that it failed with, and logs it.
pub fn fail_all<R: GroupRequest>(group: impl ExactSizeIterator<Item = R>, error: &Error) {
    tracing::error!(requests = group.len(), %error, source = ?error, "a commit failed");
    group.for_each(|request| request.fail(error.clone()));
}

/// What the writers of a store have committed.
#[derive(Debug)]
pub struct CommitCounts {
    started: Instant,
    /// When something was last committed, in milliseconds since `started`, and one more. 0: never.
    proven_at: AtomicU64,
    commits: AtomicU64,
    appends: AtomicU64,
    updates: AtomicU64,
    metrics: CommitMetrics,
}

impl CommitCounts {
    /// Counts of a store that is opened now.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            proven_at: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            appends: AtomicU64::new(0),
            updates: AtomicU64::new(0),
            metrics: CommitMetrics::new(),
        }
    }

    /// Notes that a transaction of `appends` requests is on stable storage, with `updates` in it.
    pub fn committed(&self, appends: usize, updates: usize, took: Duration, now: Instant) {
        if updates > 0 {
            self.proven(now);
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.appends.fetch_add(appends as u64, Ordering::Relaxed);
        self.updates.fetch_add(updates as u64, Ordering::Relaxed);
        self.metrics.record(true, appends, took);
    }

    /// Notes that a transaction of `appends` requests failed.
    pub fn failed(&self, appends: usize, took: Duration) {
        self.metrics.record(false, appends, took);
    }

    /// Notes that a write has reached stable storage.
    pub fn proven(&self, now: Instant) {
        let at = u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        self.proven_at.store(at.saturating_add(1), Ordering::Relaxed);
    }

    /// Whether a write has reached stable storage so recently that another one need not prove that the store can be written.
    pub fn is_proven(&self, now: Instant) -> bool {
        let at = self.proven_at.load(Ordering::Relaxed);
        let since_start = now.saturating_duration_since(self.started);
        at > 0 && since_start.saturating_sub(Duration::from_millis(at)) < PROVEN_FOR
    }

    /// How many transactions were committed.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// How many requests were in them.
    pub fn appends(&self) -> u64 {
        self.appends.load(Ordering::Relaxed)
    }

    /// How many updates they wrote.
    pub fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;
    use crate::update::{Kind, Payload};

    /// A request with that many updates and bytes, which notes its number when it fails.
    #[derive(Debug)]
    struct Request {
        number: usize,
        batch: Batch,
        is_given_up: bool,
        failed: Rc<RefCell<Vec<usize>>>,
    }

    impl GroupRequest for Request {
        fn batch(&self) -> Option<&Batch> {
            Some(&self.batch)
        }

        fn is_given_up(&self) -> bool {
            self.is_given_up
        }

        fn fail(self, _: Error) {
            self.batch.break_chain();
            self.failed.borrow_mut().push(self.number);
        }
    }

    fn request(number: usize, updates: usize, bytes: usize) -> Request {
        let payload = Payload::parse(&format!("\"{}\"", "x".repeat(bytes))).unwrap();
        let update = NewUpdate::new(Kind::parse("k").unwrap(), payload);
        let batch = Batch::new(vec![update; updates]).unwrap();
        Request { number, batch, is_given_up: false, failed: Rc::default() }
    }

    fn queue(requests: impl IntoIterator<Item = Request>) -> GroupQueue<Request> {
        let mut queue = GroupQueue::new("test", GroupTiming::THREAD);
        requests.into_iter().for_each(|request| queue.push(request));
        queue
    }

    fn groups(mut queue: GroupQueue<Request>) -> Vec<Vec<usize>> {
        let mut groups = Vec::new();
        while !queue.is_empty() {
            let mut group = Vec::new();
            queue.take_group(&mut group, Some);
            groups.push(group.iter().map(|request| request.number).collect());
        }
        groups
    }

    #[test]
    fn a_group_is_bounded_by_requests_updates_and_bytes_but_for_its_first_request() {
        let many = groups(queue((0..MAX_REQUESTS + 1).map(|number| request(number, 1, 1))));
        assert_eq!(many, [(0..MAX_REQUESTS).collect::<Vec<_>>(), vec![MAX_REQUESTS]]);
        let long = groups(queue((0..9).map(|number| request(number, 1_000, 1))));
        assert_eq!(long, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8]]);
        let large =
            [request(0, 1, 9 << 20), request(1, 1, 5 << 20), request(2, 1, 2 << 20), request(3, 1, 2 << 20)];
        assert_eq!(groups(queue(large)), [vec![0], vec![1, 2], vec![3]]);
    }

    #[test]
    fn what_nobody_waits_for_is_not_written_and_ends_its_chain() {
        let (chain, failed) = (Chain::new(), Rc::default());
        let mut requests: Vec<_> = (0..4).map(|number| request(number, 1, 1)).collect();
        for request in &mut requests {
            request.failed = Rc::clone(&failed);
        }
        requests[1].is_given_up = true;
        for chained in [1, 2] {
            requests[chained].batch.chain = Some(chain.clone());
        }
        assert_eq!(groups(queue(requests)), [vec![0, 3]]);
        assert_eq!(*failed.borrow(), [2], "nobody hears of the first");
    }

    #[test]
    fn what_is_deferred_stays_out_and_what_is_put_back_comes_first() {
        let mut queue = queue((0..4).map(|number| request(number, 1, 1)));
        let (mut group, mut deferred) = (Vec::new(), Vec::new());
        queue.take_group(&mut group, |request| {
            if request.number % 2 == 0 {
                return Some(request);
            }
            deferred.push(request);
            None
        });
        assert_eq!(group.iter().map(|request| request.number).collect::<Vec<_>>(), [0, 2]);
        queue.push(request(4, 1, 1));
        queue.put_back(deferred);
        assert_eq!(groups(queue), [vec![1, 3, 4]]);
    }

    #[test]
    fn a_group_waits_for_those_that_were_answered_while_more_come_and_not_for_long() {
        let micros = Duration::from_micros;
        let mut queue = queue([request(0, 1, 1)]);
        assert_eq!(queue.gathering().next(1, Duration::ZERO), None, "nothing is expected yet");
        queue.written(10, micros(800));
        let mut gathering = queue.gathering();
        assert!(gathering.is_short(10) && !gathering.is_short(11));
        assert_eq!(gathering.next(0, Duration::ZERO), None, "there is no group to wait with");
        let wait = |requests| Some(Wait { requests, patience: micros(100) });
        assert_eq!(gathering.next(1, Duration::ZERO), wait(10));
        assert_eq!(gathering.next(4, micros(100)), wait(7));
        assert_eq!(gathering.next(4, micros(200)), None, "the last part brought none");
        assert_eq!(queue.gathering().next(11, Duration::ZERO), None, "all are there");
        assert_eq!(queue.gathering().next(1, micros(800)), None, "a commit would have been over");

        queue.written(1_000, Duration::from_secs(1));
        let mut gathering = queue.gathering();
        assert!(!gathering.is_short(256), "enough");
        assert_eq!(gathering.next(1, Duration::ZERO).unwrap().patience, micros(125), "a millisecond in all");

        // A writer that has one request at a time.
        queue.take_group(&mut Vec::new(), Some);
        queue.written(1, micros(800));
        queue.push(request(0, 1, 1));
        assert_eq!(queue.gathering().next(1, Duration::ZERO), None);
    }

    #[test]
    fn a_task_waits_only_where_its_timer_is_fine_next_to_a_commit() {
        let mut queue = GroupQueue::new("test", GroupTiming::TASK);
        queue.push(request(0, 1, 1));
        for (took, waits) in [(3_900, false), (4_000, true)] {
            queue.written(1_000, Duration::from_micros(took));
            let mut gathering = queue.gathering();
            let wait = gathering.next(1, Duration::ZERO);
            assert_eq!(wait.map(|wait| wait.patience), waits.then_some(MAX_WAIT), "{took}");
            assert_eq!(gathering.next(500, MAX_WAIT), None, "once");
        }
    }

    #[test]
    fn a_commit_of_the_last_second_proves_that_the_next_is_possible() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let counts = CommitCounts::new(start);
        assert!(!counts.is_proven(start));
        counts.committed(2, 0, Duration::ZERO, at(5));
        assert!(!counts.is_proven(at(5)), "nothing was written");
        counts.committed(3, 7, Duration::ZERO, at(5));
        assert!(counts.is_proven(at(5)) && counts.is_proven(at(1_000)) && !counts.is_proven(at(1_006)));
        assert_eq!((counts.commits(), counts.appends(), counts.updates()), (2, 5, 7));
    }
}
