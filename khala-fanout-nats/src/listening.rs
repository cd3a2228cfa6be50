//! Which topics this node listens to: one subscription for each that is watched here, however many watch it.
//!
//! A topic is wanted from its first watcher on, and subscribed by the task that sends, as soon as there is a connection; with the
//! last watcher its subscription ends.
//!
//! # Invariants
//! A subscription belongs to a ticket, so that one which comes too late, for a watcher that has gone meanwhile, is ended and not
//! kept.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use khala_core::Topic;
use tokio::task::AbortHandle;

#[derive(Debug, Default)]
pub(crate) struct Listening(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tickets: u64,
    topics: HashMap<Topic, TopicSubscription>,
    wanted: HashSet<Topic>,
}

#[derive(Debug)]
struct TopicSubscription {
    ticket: u64,
    listener: Option<Listener>,
}

/// The task that hears a topic. Ending it ends the subscription.
#[derive(Debug)]
pub(crate) struct Listener(pub(crate) AbortHandle);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listening {
    /// Wants `topic`, and says by which ticket; and whether that is new.
    pub(crate) fn want(&self, topic: &Topic) -> (u64, bool) {
        let mut state = self.lock();
        if let Some(subscription) = state.topics.get(topic) {
            return (subscription.ticket, false);
        }
        let ticket = state.draw();
        state.topics.insert(topic.clone(), TopicSubscription { ticket, listener: None });
        state.wanted.insert(topic.clone());
        (ticket, true)
    }

    /// A ticket for something else that somebody waits for.
    pub(crate) fn ticket(&self) -> u64 {
        self.lock().draw()
    }

    /// Takes the topics that are wanted and not subscribed yet, each with its ticket.
    pub(crate) fn take_wanted(&self) -> Vec<(Topic, u64)> {
        let mut state = self.lock();
        let wanted = mem::take(&mut state.wanted);
        wanted
            .into_iter()
            .filter_map(|topic| Some((state.topics.get(&topic)?.ticket, topic)))
            .map(|(n, t)| (t, n))
            .collect()
    }

    /// Queues all topics that have no listener yet to be subscribed again. Returns the last ticket that was drawn.
    pub(crate) fn want_unheard(&self) -> u64 {
        let mut state = self.lock();
        let State { tickets, topics, wanted } = &mut *state;
        wanted.extend(
            topics
                .iter()
                .filter(|(_, subscription)| subscription.listener.is_none())
                .map(|(topic, _)| topic.clone()),
        );
        *tickets
    }

    /// Keeps the listener of `topic`, or ends it if it is not wanted any more.
    pub(crate) fn heard_by(&self, topic: &Topic, ticket: u64, listener: Listener) {
        if let Some(subscription) = self.lock().topics.get_mut(topic)
            && subscription.ticket == ticket
        {
            subscription.listener = Some(listener);
        }
    }

    /// Nobody watches `topic` any more.
    pub(crate) fn forget(&self, topic: &Topic) {
        let mut state = self.lock();
        state.wanted.remove(topic);
        state.topics.remove(topic);
    }

    /// Ends all of it.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        state.wanted.clear();
        state.topics.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().topics.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn draw(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (Listener, tokio::task::JoinHandle<()>) {
        let task = tokio::spawn(std::future::pending());
        (Listener(task.abort_handle()), task)
    }

    #[tokio::test]
    async fn a_topic_is_wanted_once_and_one_that_is_forgotten_is_not_subscribed() {
        let listening = Listening::default();
        let (a, b) = (Topic::parse("a").unwrap(), Topic::parse("b").unwrap());
        assert_eq!(listening.want(&a), (1, true));
        assert_eq!(listening.want(&a), (1, false));
        assert_eq!(listening.want(&b), (2, true));
        listening.forget(&b);
        assert_eq!(listening.take_wanted(), [(a.clone(), 1)]);
        assert!(listening.take_wanted().is_empty());
        let (kept, task) = listener();
        listening.heard_by(&a, 1, kept);
        assert!(!task.is_finished());
        listening.forget(&a);
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(listening.is_empty());
    }

    #[tokio::test]
    async fn a_listener_that_comes_too_late_is_ended() {
        let listening = Listening::default();
        let a = Topic::parse("a").unwrap();
        let (first, _) = listening.want(&a);
        listening.take_wanted();
        listening.forget(&a);
        let (second, _) = listening.want(&a);
        assert_ne!(first, second);
        let (late, task) = listener();
        listening.heard_by(&a, first, late);
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(listening.take_wanted(), [(a, second)]);
    }
}
