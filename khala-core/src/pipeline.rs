//! Appends that are in flight: handed to the journal in their order, answered in their order, announced once they are stored.
//!
//! A stream of updates over HTTP and the handle's producer both stand on it.
//!
//! # Invariants
//! - A future that was woken is polled again, also behind one that still waits, and once for each wake-up.
//! - What was stored is announced, also where it is not its turn to be answered, and where nobody waits for its answer.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::{FutureExt as _, future::BoxFuture, task::AtomicWaker};
use tokio::task::unconstrained;

use crate::{
    auth::Grant,
    error::Error,
    journal::{Append, Batch},
    khala::{Khala, Unannounced},
    topic::Topic,
};

/// Appends that are in flight, each with a tag by which the caller knows it again.
pub struct Appends<T> {
    khala: Khala,
    in_flight: InFlight<(T, Result<Append, Error>)>,
    /// How many of the appends in flight were abandoned. They are the first ones; their answers are dropped.
    abandoned: usize,
    /// What is stored, or not to be, and not announced yet.
    finished: Finished,
    announcing: InFlight<()>,
    /// Answered, and not given out yet.
    answered: VecDeque<(T, Result<Append, Error>)>,
}

type Finished = Arc<Mutex<Vec<(Topic, Unannounced)>>>;

impl<T> fmt::Debug for Appends<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appends").field("in_flight", &self.len()).finish_non_exhaustive()
    }
}

impl<T> Appends<T> {
    /// How many are not answered.
    pub fn len(&self) -> usize {
        self.in_flight.len() - self.abandoned + self.answered.len()
    }

    /// Whether all are answered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Send + 'static> Appends<T> {
    /// None yet.
    pub fn new(khala: Khala) -> Self {
        Self {
            khala,
            in_flight: InFlight::new(),
            abandoned: 0,
            finished: Finished::default(),
            announcing: InFlight::new(),
            answered: VecDeque::new(),
        }
    }

    /// Whether all are answered and announced.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.answered.is_empty() && self.announcing.is_empty()
    }

    /// Hands a batch to the journal, behind all others; charges the subject of `grant`, where there is one, for a new topic.
    ///
    /// A store takes what it is given in the order in which it was first polled, so each batch is polled here.
    pub fn push(&mut self, tag: T, grant: Option<Grant>, topic: Topic, batch: Batch) {
        let (khala, finished) = (self.khala.clone(), Arc::clone(&self.finished));
        // Without the runtime's budget, which could send it away before it has reached the store's queue.
        self.in_flight.push(unconstrained(async move {
            let (answer, appended) = khala.append_unannounced(&topic, batch).await;
            if let (Some(grant), Ok(append)) = (&grant, &answer) {
                khala.charge_new_topic(grant, append);
            }
            lock(&finished).push((topic, appended));
            (tag, answer)
        }));
    }

    /// The answer of the next one, in order, and announces meanwhile; none once all are answered and announced. Cancel safe.
    pub async fn next(&mut self) -> Option<(T, Result<Append, Error>)> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The answer of the next one, if it is there.
    pub fn try_next(&mut self) -> Option<(T, Result<Append, Error>)> {
        self.answered.pop_front()
    }

    /// Answers no more of those that are in flight. They are still announced.
    pub fn abandon(&mut self) {
        self.answered.clear();
        self.abandoned = self.in_flight.len();
    }

    /// Waits until everything that is in flight is announced, and answers none of it.
    pub async fn finish(mut self) {
        self.abandon();
        // It answers nothing any more.
        while self.next().await.is_some() {}
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(T, Result<Append, Error>)>> {
        if let Some(answered) = self.answered.pop_front() {
            return Poll::Ready(Some(answered));
        }
        while let Poll::Ready(Some(answered)) = self.in_flight.poll_next(context) {
            match self.abandoned.checked_sub(1) {
                Some(left) => self.abandoned = left,
                None => self.answered.push_back(answered),
            }
        }
        let finished = std::mem::take(&mut *lock(&self.finished));
        if !finished.is_empty() {
            let khala = self.khala.clone();
            self.announcing.push(async move { khala.announce_all(&finished).await });
        }
        while let Poll::Ready(Some(())) = self.announcing.poll_next(context) {}
        match self.answered.pop_front() {
            None if !self.is_idle() => Poll::Pending,
            answered => Poll::Ready(answered),
        }
    }
}

fn lock(finished: &Finished) -> MutexGuard<'_, Vec<(Topic, Unannounced)>> {
    // Each change under the lock is whole.
    finished.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Futures that are in flight, given out in the order in which they were pushed.
///
/// One waker for all of them: a store answers many at once, and one wake-up has to be enough for that.
struct InFlight<T> {
    queue: VecDeque<Slot<T>>,
    woken: Arc<Woken>,
    waker: Waker,
    /// A future was woken, and not all were polled since.
    owed: bool,
}

enum Slot<T> {
    Done(T),
    Pending(BoxFuture<'static, T>),
}

/// Whether a future was woken, and whom to tell.
#[derive(Default)]
struct Woken {
    any: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.any.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }
}

impl<T> InFlight<T> {
    fn new() -> Self {
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        Self { queue: VecDeque::new(), woken, waker, owed: false }
    }

    fn len(&self) -> usize {
        self.queue.len()
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts a future behind all others: it is polled once, here.
    fn push(&mut self, work: impl Future<Output = T> + Send + 'static) {
        let mut work: BoxFuture<'static, T> = work.boxed();
        self.queue.push_back(match work.as_mut().poll(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(done) => Slot::Done(done),
            Poll::Pending => Slot::Pending(work),
        });
    }

    /// The first, once it is done; none if there is none. Pending while the first is.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if self.queue.is_empty() {
            return Poll::Ready(None);
        }
        self.woken.task.register(cx.waker());
        if self.woken.any.swap(false, Ordering::AcqRel) {
            self.owed = true;
        }
        // A store answers in its order: the first is mostly the one that was woken.
        if self.owed {
            poll_one(self.queue.front_mut(), &self.waker);
        }
        if let Some(Slot::Done(_)) = self.queue.front()
            && let Some(Slot::Done(done)) = self.queue.pop_front()
        {
            return Poll::Ready(Some(done));
        }
        if self.owed {
            self.owed = false;
            for slot in self.queue.iter_mut().skip(1) {
                poll_one(Some(slot), &self.waker);
            }
        }
        Poll::Pending
    }
}

fn poll_one<T>(slot: Option<&mut Slot<T>>, waker: &Waker) {
    if let Some(slot) = slot
        && let Slot::Pending(work) = slot
        && let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(waker))
    {
        *slot = Slot::Done(done);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    impl<T> InFlight<T> {
        async fn next(&mut self) -> Option<T> {
            std::future::poll_fn(|context| self.poll_next(context)).await
        }
    }

    /// The wait for an answer ends when there will be none.
    #[tokio::test]
    async fn after_those_that_were_given_up_there_is_none() {
        let khala = Khala::open(crate::memory::MemoryStore::new());
        let mut appends = Appends::new(khala);
        let topic = Topic::parse("t").unwrap();
        let batch = || {
            let update = crate::update::Update::json("k", &1).unwrap();
            Batch::new(vec![update]).unwrap()
        };
        appends.push(1, None, topic.clone(), batch());
        appends.push(2, None, topic.clone(), batch());
        assert!(matches!(appends.next().await, Some((1, Ok(Append::Written(_))))));
        appends.abandon();
        assert!(appends.is_empty());
        assert!(appends.next().await.is_none());
        assert!(appends.is_idle());
    }

    #[tokio::test]
    async fn what_is_done_is_given_out_in_order() {
        let mut in_flight = InFlight::new();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..100).map(|_| oneshot::channel()).unzip();
        for receiver in receivers {
            in_flight.push(async { receiver.await.unwrap() });
        }
        in_flight.push(async { 100 });
        // Each after one that is behind it.
        let telling = async {
            let mut senders: Vec<_> = senders.into_iter().enumerate().collect();
            for pair in senders.chunks_mut(2) {
                pair.reverse();
            }
            for (number, sender) in senders {
                sender.send(number).unwrap();
                tokio::task::yield_now().await;
            }
        };
        let hearing = async {
            for number in 0..=100 {
                assert_eq!(in_flight.next().await, Some(number));
            }
            assert_eq!(in_flight.next().await, None);
        };
        futures::join!(telling, hearing);
    }

    #[tokio::test]
    async fn what_is_behind_goes_on_while_the_first_waits() {
        let mut in_flight = InFlight::new();
        let (first, waits) = oneshot::channel();
        in_flight.push(async { waits.await.unwrap() });
        let (start, started) = oneshot::channel();
        let (end, mut ended) = oneshot::channel();
        in_flight.push(async {
            started.await.unwrap();
            end.send(()).unwrap();
            2
        });
        assert!(in_flight.next().now_or_never().is_none());
        start.send(()).unwrap();
        assert!(in_flight.next().now_or_never().is_none());
        assert!(ended.try_recv().is_ok(), "it went on");
        first.send(1).unwrap();
        assert_eq!((in_flight.next().await, in_flight.next().await), (Some(1), Some(2)));
    }
}
