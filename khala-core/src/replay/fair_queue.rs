//! The fair queue of reads: which read of the journal is next, when more subscribers are behind the tail than may read at once.
//!
//! Subjects take turns, and within a subject its connections, and within a connection its topics in the order in which they
//! asked. So neither a subject with a thousand connections nor a connection with a thousand topics delays another subject's
//! single read by more than one read.
//!
//! # Invariants
//! A permit that is dropped, or whose owner stopped waiting, goes to the next in the queue.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Who waits: a subject's number, and its connection's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Waiter {
    pub(crate) subject: u64,
    pub(crate) connection: u64,
}

/// The queue of one node. A clone is another handle.
#[derive(Clone, Debug)]
pub(crate) struct FairQueue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: Ring<u64, Ring<u64, VecDeque<oneshot::Sender<ReadPermit>>>>,
}

/// Queues that are served in turn.
#[derive(Debug)]
struct Ring<K, Q> {
    queues: HashMap<K, Q>,
    /// Each key of `queues` once.
    order: VecDeque<K>,
}

impl<K, Q> Default for Ring<K, Q> {
    fn default() -> Self {
        Self { queues: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, Q: Default> Ring<K, Q> {
    fn queue(&mut self, key: K) -> &mut Q {
        self.queues.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            Q::default()
        })
    }

    /// Takes from the queue whose turn it is; it then stands last, or is gone if `take` says that it is empty.
    fn next<T>(&mut self, take: impl FnOnce(&mut Q) -> (Option<T>, bool)) -> Option<T> {
        let key = self.order.pop_front()?;
        let (taken, empty) = take(self.queues.get_mut(&key)?);
        if empty {
            self.queues.remove(&key);
        } else {
            self.order.push_back(key);
        }
        taken
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

impl State {
    fn next(&mut self) -> Option<oneshot::Sender<ReadPermit>> {
        self.waiting.next(|connections| {
            let taken = connections.next(|waiting| {
                let taken = waiting.pop_front();
                (taken, waiting.is_empty())
            });
            (taken, connections.is_empty())
        })
    }
}

impl FairQueue {
    pub(crate) fn new(at_once: NonZeroUsize) -> Self {
        Self(Arc::new(Mutex::new(State { free: at_once.get(), waiting: Ring::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit if one is free.
    pub(crate) fn try_acquire(&self) -> Option<ReadPermit> {
        let mut state = self.lock();
        if state.free == 0 {
            return None;
        }
        state.free -= 1;
        Some(ReadPermit { queue: Some(self.clone()) })
    }

    /// Waits for a permit, which lasts until it is dropped. Dropping the future gives it up.
    pub(crate) async fn acquire(&self, waiter: Waiter) -> ReadPermit {
        let given = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return ReadPermit { queue: Some(self.clone()) };
            }
            let (give, given) = oneshot::channel();
            state.waiting.queue(waiter.subject).queue(waiter.connection).push_back(give);
            given
        };
        // The sender is dropped only with the queue itself, which this future holds.
        given.await.unwrap_or(ReadPermit { queue: None })
    }

    fn pass_on(&self) {
        loop {
            let mut state = self.lock();
            let Some(next) = state.next() else {
                state.free += 1;
                return;
            };
            drop(state);
            match next.send(ReadPermit { queue: Some(self.clone()) }) {
                Ok(()) => return,
                // Nobody waits there any more; the permit that comes back must not pass itself on again.
                Err(mut permit) => permit.queue = None,
            }
        }
    }
}

/// The right to read, until it is dropped.
#[derive(Debug)]
pub(crate) struct ReadPermit {
    queue: Option<FairQueue>,
}

impl Drop for ReadPermit {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;

    fn turns(at_once: usize) -> FairQueue {
        FairQueue::new(NonZeroUsize::new(at_once).unwrap())
    }

    /// Asks for a turn, and for the place in line.
    fn ask(turns: &FairQueue, subject: u64, connection: u64) -> BoxFuture<'static, ReadPermit> {
        let turns = turns.clone();
        let mut asked = async move { turns.acquire(Waiter { subject, connection }).await }.boxed();
        assert!(asked.as_mut().now_or_never().is_none(), "none is free");
        asked
    }

    /// Who got the turn.
    fn served(asked: &mut [(char, Option<BoxFuture<'static, ReadPermit>>)]) -> Option<(char, ReadPermit)> {
        asked.iter_mut().find_map(|(name, waiting)| {
            let turn = waiting.as_mut()?.now_or_never()?;
            *waiting = None;
            Some((*name, turn))
        })
    }

    #[test]
    fn subjects_take_turns_and_within_them_connections() {
        let turns = turns(1);
        let mut turn = turns.try_acquire().unwrap();
        assert!(turns.try_acquire().is_none());
        // One subject with two busy connections, another with one read, asked last.
        let order = [('a', 1, 1), ('b', 1, 1), ('c', 1, 1), ('d', 1, 2), ('e', 1, 2), ('f', 2, 3)];
        let mut asked: Vec<_> = order
            .into_iter()
            .map(|(name, subject, connection)| (name, Some(ask(&turns, subject, connection))))
            .collect();
        let mut line = String::new();
        for _ in 0..6 {
            drop(turn);
            let (name, next) = served(&mut asked).expect("the turn is passed on");
            line.push(name);
            turn = next;
        }
        assert_eq!(line, "afdbec");
        drop(turn);
        assert!(turns.try_acquire().is_some());
    }

    #[test]
    fn who_stopped_waiting_is_passed_over() {
        let turns = turns(2);
        let held = [turns.try_acquire().unwrap(), turns.try_acquire().unwrap()];
        let (first, second, third) = (ask(&turns, 1, 1), ask(&turns, 1, 1), ask(&turns, 2, 2));
        drop((first, third));
        let [one, other] = held;
        drop(one);
        let turn = second.now_or_never().expect("the one who waits still");
        drop((turn, other));
        assert!(turns.try_acquire().is_some() && turns.lock().free == 2);
    }

    #[test]
    fn a_turn_that_was_given_and_not_taken_goes_on() {
        let turns = turns(1);
        let held = turns.try_acquire().unwrap();
        let (first, second) = (ask(&turns, 1, 1), ask(&turns, 2, 2));
        drop(held);
        // Given to the first, which is dropped before it looks.
        drop(first);
        assert!(second.now_or_never().is_some());
    }
}
