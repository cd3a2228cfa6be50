//! The queue before a store's one writer: what is handed in comes out in the order in which it was handed in.
//!
//! A bounded channel does not keep that promise. Where it is full, the value stays with its future until that is polled
//! again, and of two futures that are let in at once the later one may be polled first. Here a value is in the queue as
//! soon as it is handed in. The caller that waits for an answer would hold it in any case, so a bound would save no memory, but
//! for what was given up: that is taken out again at once, when its [`Handed`] is dropped. The writer may say how many
//! values are worth being woken for: a wake-up is a system call, and one per group is enough.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

/// Room that an empty queue keeps, in values.
const KEPT: usize = 1_024;

/// The end that takes values in. Cloning it gives another such end.
pub struct Inbox<T>(Arc<Shared<T>>);

/// The end that values come out of.
pub struct Arrivals<T>(Arc<Shared<T>>);

/// A value that was handed in. Dropping it takes the value out again, if nobody has got it yet.
#[must_use = "what is dropped was not handed in"]
pub struct Handed<T> {
    shared: Arc<Shared<T>>,
    /// Its place among all that were ever handed in; none if it is to be left where it is.
    number: Option<u64>,
}

/// Nobody takes what is handed in any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes what is handed in any more")]
#[non_exhaustive]
pub struct InboxClosed;

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// For the thread that waits, if one does.
    enough: Condvar,
}

struct Queue<T> {
    /// What was handed in and not taken, in order. What was given up is none, and never the first.
    slots: VecDeque<Option<T>>,
    /// The number of the first slot.
    first: u64,
    /// How many values there are.
    there: usize,
    /// How many inboxes there are.
    inboxes: usize,
    /// Whether somebody takes values still.
    open: bool,
    waiter: Waiter,
}

/// Who waits for values.
enum Waiter {
    Nobody,
    Task(Waker),
    /// A thread, until that many values are there.
    Thread(usize),
}

impl<T> Shared<T> {
    /// Each change under the lock is whole.
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes who waits, if what is there is enough or nothing will come any more.
    fn wake(&self, mut queue: MutexGuard<'_, Queue<T>>) {
        let enough = match queue.waiter {
            Waiter::Nobody => false,
            Waiter::Task(_) => true,
            Waiter::Thread(wanted) => queue.there >= wanted || queue.inboxes == 0,
        };
        if !enough {
            return;
        }
        let waiter = std::mem::replace(&mut queue.waiter, Waiter::Nobody);
        drop(queue);
        match waiter {
            Waiter::Nobody => {}
            Waiter::Task(waker) => waker.wake(),
            Waiter::Thread(_) => self.enough.notify_one(),
        }
    }
}

impl<T> Queue<T> {
    /// The next value, if it is there.
    fn take(&mut self) -> Option<T> {
        let value = self.slots.pop_front()?;
        self.first += 1;
        self.there -= 1;
        self.tidy();
        value
    }

    /// Moves up to `limit` values into `fresh`.
    fn take_many(&mut self, fresh: &mut Vec<T>, limit: usize) {
        fresh.extend((0..limit).map_while(|_| self.take()));
    }

    /// Takes out what was given up, if nobody has got it yet.
    fn give_up(&mut self, number: u64) -> Option<T> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let value = self.slots.get_mut(place)?.take()?;
        self.there -= 1;
        self.tidy();
        Some(value)
    }

    fn tidy(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > KEPT {
            self.slots.shrink_to(KEPT);
        }
    }
}

impl<T> Inbox<T> {
    /// An inbox, and where its values come out. They end when all clones of the inbox are gone.
    pub fn new() -> (Self, Arrivals<T>) {
        let queue = Queue {
            slots: VecDeque::new(),
            first: 0,
            there: 0,
            inboxes: 1,
            open: true,
            waiter: Waiter::Nobody,
        };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), enough: Condvar::new() });
        (Self(Arc::clone(&shared)), Arrivals(shared))
    }

    /// Hands a value in, behind all that were before it.
    ///
    /// # Errors
    /// [`InboxClosed`] if the other end is gone.
    pub fn hand_in(&self, value: T) -> Result<Handed<T>, InboxClosed> {
        let mut queue = self.0.queue();
        if !queue.open {
            return Err(InboxClosed);
        }
        let number = queue.first + queue.slots.len() as u64;
        queue.slots.push_back(Some(value));
        queue.there += 1;
        self.0.wake(queue);
        Ok(Handed { shared: Arc::clone(&self.0), number: Some(number) })
    }
}

impl<T> Handed<T> {
    /// Leaves the value in the queue, although its sender no longer waits for it.
    pub fn leave(mut self) {
        self.number = None;
    }
}

impl<T> Drop for Handed<T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let value = self.shared.queue().give_up(number);
            // It may have much to drop, which nobody needs to wait for.
            drop(value);
        }
    }
}

impl<T> Arrivals<T> {
    /// Waits until something is there, and moves up to `limit` of it into `fresh`. No once there never will be. Cancel
    /// safe.
    pub async fn receive(&mut self, fresh: &mut Vec<T>, limit: usize) -> bool {
        self.arrived().await && {
            self.0.queue().take_many(fresh, limit);
            true
        }
    }

    /// The same for a thread.
    pub fn blocking_receive(&mut self, fresh: &mut Vec<T>, limit: usize) -> bool {
        let mut queue = self.0.queue();
        while queue.there == 0 {
            if queue.inboxes == 0 {
                return false;
            }
            queue.waiter = Waiter::Thread(1);
            queue = self.0.enough.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.waiter = Waiter::Nobody;
        queue.take_many(fresh, limit);
        true
    }

    /// For a thread: waits until `wanted` values are there, but for `patience` at most.
    pub fn blocking_gather(&mut self, wanted: usize, patience: Duration) {
        let mut queue = self.0.queue();
        if queue.there < wanted && queue.inboxes > 0 {
            queue.waiter = Waiter::Thread(wanted);
            let few = |queue: &mut Queue<T>| queue.there < wanted && queue.inboxes > 0;
            let waited = self.0.enough.wait_timeout_while(queue, patience, few);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.waiter = Waiter::Nobody;
        }
    }

    /// Moves up to `limit` of what is there into `fresh`.
    pub fn take(&mut self, fresh: &mut Vec<T>, limit: usize) {
        self.0.queue().take_many(fresh, limit);
    }

    /// The next value, as soon as there is one; none once there never will be. Cancel safe.
    pub async fn next(&mut self) -> Option<T> {
        self.arrived().await;
        self.try_next()
    }

    /// The next value, if it is there.
    pub fn try_next(&mut self) -> Option<T> {
        self.0.queue().take()
    }

    /// Waits until something is there; no once there never will be.
    async fn arrived(&mut self) -> bool {
        poll_fn(|cx| {
            let mut queue = self.0.queue();
            if queue.there > 0 || queue.inboxes == 0 {
                queue.waiter = Waiter::Nobody;
                return Poll::Ready(queue.there > 0);
            }
            queue.waiter = Waiter::Task(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl<T> Drop for Arrivals<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.open = false;
        queue.there = 0;
        queue.waiter = Waiter::Nobody;
        let slots = std::mem::take(&mut queue.slots);
        drop(queue);
        drop(slots);
    }
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        self.0.queue().inboxes += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.inboxes -= 1;
        if queue.inboxes == 0 {
            self.0.wake(queue);
        }
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Arrivals<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Handed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use futures::FutureExt as _;
    use tokio::task::yield_now;

    use super::*;

    #[test]
    fn what_is_handed_in_comes_out_in_order_but_for_what_was_given_up() {
        let (inbox, mut arrivals) = Inbox::new();
        let mut handed: Vec<_> = (0..10_000).map(|number| inbox.hand_in(number).unwrap()).collect();
        drop(handed.remove(1));
        handed.remove(1).leave();
        let mut fresh = Vec::new();
        assert!(arrivals.blocking_receive(&mut fresh, 3));
        assert_eq!(fresh, [0, 2, 3]);
        assert_eq!(arrivals.try_next(), Some(4));
        drop(handed);
        assert_eq!(arrivals.try_next(), None);
        drop(inbox);
        assert!(!arrivals.blocking_receive(&mut fresh, 3));
    }

    #[test]
    fn a_thread_is_woken_when_enough_is_there_or_its_patience_ends() {
        let (inbox, mut arrivals) = Inbox::new();
        let mut fresh = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..3 {
                    inbox.hand_in(number).unwrap().leave();
                    thread::yield_now();
                }
            });
            arrivals.blocking_gather(3, Duration::from_secs(60));
            arrivals.take(&mut fresh, 9);
        });
        assert_eq!(fresh, [0, 1, 2]);
        let handed = inbox.hand_in(3).unwrap();
        arrivals.blocking_gather(2, Duration::from_millis(1));
        drop(handed);
        arrivals.take(&mut fresh, 9);
        assert_eq!(fresh.len(), 3, "it was given up");
        inbox.hand_in(4).unwrap().leave();
        drop(inbox);
        arrivals.blocking_gather(2, Duration::from_secs(60));
        assert!(arrivals.blocking_receive(&mut fresh, 9), "what was left there comes still");
        assert!(!arrivals.blocking_receive(&mut fresh, 9));
        assert_eq!(fresh, [0, 1, 2, 4]);
    }

    #[tokio::test]
    async fn a_task_waits_for_what_comes_and_for_the_end() {
        let (inbox, mut arrivals) = Inbox::new();
        let mut fresh = Vec::new();
        assert!(arrivals.receive(&mut fresh, 9).now_or_never().is_none());
        let coming = async {
            yield_now().await;
            drop(inbox.hand_in(0).unwrap());
            yield_now().await;
            inbox.hand_in(1).unwrap().leave();
            inbox.hand_in(2).unwrap().leave();
            yield_now().await;
            drop(inbox);
        };
        let taking = async {
            assert!(arrivals.receive(&mut fresh, 9).await);
            assert_eq!(fresh, [1, 2], "what was given up wakes nobody for nothing");
            assert_eq!(arrivals.next().await, None);
            assert!(!arrivals.receive(&mut fresh, 9).await);
        };
        futures::join!(coming, taking);
    }

    #[test]
    fn what_is_given_up_takes_no_memory() {
        let (inbox, arrivals) = Inbox::new();
        let value = Arc::new(());
        for _ in 0..10 {
            drop(inbox.hand_in(Arc::clone(&value)).unwrap());
        }
        assert_eq!(Arc::strong_count(&value), 1);
        drop(arrivals);
        assert_eq!(inbox.hand_in(value).err(), Some(InboxClosed));
    }
}
