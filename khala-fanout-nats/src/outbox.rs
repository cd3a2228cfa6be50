//! What waits to be sent: a level per topic, and not a queue.
//!
//! Whoever announces only raises a level here; one task takes all of them at once and sends them. However many announce
//! meanwhile, the newest head of each topic goes out. What was announced lately is remembered, to be told again to those
//! who missed it. Both are bounded: an announcement is a hint, and one that finds no room is lost.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use khala_core::{Cursor, Topic, Watermark};
use tokio::{sync::Notify, time::Instant};

/// How many topics wait at most, and how many are remembered.
const TOPICS: usize = 65_536;
/// How often at most what was announced lately is told again, however many nodes ask.
const RECALL_EVERY: Duration = Duration::from_secs(1);

/// What is to be sent now.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    /// The connection is new.
    pub(crate) greet: bool,
    pub(crate) heads: HashMap<Topic, Cursor>,
    pub(crate) revoked: Option<Watermark>,
    /// Somebody waits to hear that the server has taken everything up to this ticket.
    pub(crate) echo: Option<u64>,
}

impl Parcel {
    pub(crate) fn is_empty(&self) -> bool {
        !self.greet && self.heads.is_empty() && self.revoked.is_none() && self.echo.is_none()
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug)]
struct Waiting {
    parcel: Parcel,
    recent: Recent,
    /// The newest that was ever announced. It is one number, and is remembered for ever.
    revoked: Option<Watermark>,
    /// Others are to be told again what was announced lately.
    recall: bool,
    recalled: Option<Instant>,
}

impl Outbox {
    /// An empty one, that remembers what was announced for about that long.
    pub(crate) fn new(remember: Duration) -> Self {
        let waiting = Waiting {
            parcel: Parcel::default(),
            recent: Recent::new(remember),
            revoked: None,
            recall: false,
            recalled: None,
        };
        Self { waiting: Mutex::new(waiting), news: Notify::new() }
    }

    /// Raises the level of `topic`; says no if there was no room for it.
    pub(crate) fn announce(&self, topic: &Topic, head: Cursor, now: Instant) -> bool {
        let room = self.lock().announce(topic, head, now);
        self.news.notify_one();
        room
    }

    pub(crate) fn announce_revoked(&self, newest: Watermark) {
        let mut waiting = self.lock();
        waiting.revoked = waiting.revoked.max(Some(newest));
        waiting.parcel.revoked = waiting.revoked;
        drop(waiting);
        self.news.notify_one();
    }

    /// Asks for the echo of `ticket`, after everything that waits.
    pub(crate) fn echo(&self, ticket: u64) {
        let mut waiting = self.lock();
        waiting.parcel.echo = waiting.parcel.echo.max(Some(ticket));
        drop(waiting);
        self.news.notify_one();
    }

    /// The connection is new: what was sent on the last one may be lost, and others may have been missed.
    pub(crate) fn reconnected(&self) {
        let mut waiting = self.lock();
        waiting.parcel.greet = true;
        waiting.recall = true;
        waiting.recalled = None;
        drop(waiting);
        self.news.notify_one();
    }

    /// Another node has missed something.
    pub(crate) fn recall(&self) {
        self.lock().recall = true;
        self.news.notify_one();
    }

    /// Takes what is to be sent; if there is nothing, when to look again without news.
    pub(crate) fn take(&self, now: Instant) -> Result<Parcel, Option<Instant>> {
        self.lock().take(now)
    }

    /// Waits until there may be something to take.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn announce(&mut self, topic: &Topic, head: Cursor, now: Instant) -> bool {
        self.recent.note(topic, head, now);
        raise(&mut self.parcel.heads, topic, head, TOPICS)
    }

    fn take(&mut self, now: Instant) -> Result<Parcel, Option<Instant>> {
        if self.recall {
            let due = self.recalled.map_or(now, |last| last + RECALL_EVERY);
            if due <= now {
                self.recall = false;
                self.recalled = Some(now);
                for (topic, head) in self.recent.heads(now) {
                    self.parcel.heads.entry(topic.clone()).or_insert(*head);
                }
                self.parcel.revoked = self.revoked;
            } else if self.parcel.is_empty() {
                return Err(Some(due));
            }
        }
        if self.parcel.is_empty() { Err(None) } else { Ok(mem::take(&mut self.parcel)) }
    }
}

/// The newest head of each topic that was announced lately: two generations, of which the older is forgotten at once.
#[derive(Debug)]
struct Recent {
    generation: Duration,
    young: HashMap<Topic, Cursor>,
    old: HashMap<Topic, Cursor>,
    born: Option<Instant>,
}

impl Recent {
    fn new(remember: Duration) -> Self {
        Self { generation: remember, young: HashMap::new(), old: HashMap::new(), born: None }
    }

    fn note(&mut self, topic: &Topic, head: Cursor, now: Instant) {
        self.age(now);
        if self.young.len() >= TOPICS / 2 && !self.young.contains_key(topic) {
            self.turn(now);
        }
        raise(&mut self.young, topic, head, TOPICS);
    }

    /// What is remembered, the newer head of a topic before an older one.
    fn heads(&mut self, now: Instant) -> impl Iterator<Item = (&Topic, &Cursor)> {
        self.age(now);
        self.young.iter().chain(&self.old)
    }

    fn age(&mut self, now: Instant) {
        let born = *self.born.get_or_insert(now);
        let age = now.saturating_duration_since(born);
        if age >= self.generation {
            self.turn(now);
        }
        if age >= self.generation.saturating_mul(2) {
            self.old.clear();
        }
    }

    fn turn(&mut self, now: Instant) {
        self.old = mem::take(&mut self.young);
        self.born = Some(now);
    }
}

/// Raises a level: a newer head of the same epoch replaces the older, and another epoch always. Says no if `topic` is not
/// there and there are `most` already.
fn raise(levels: &mut HashMap<Topic, Cursor>, topic: &Topic, head: Cursor, most: usize) -> bool {
    if let Some(level) = levels.get_mut(topic) {
        if head.is_news_to(*level) {
            *level = head;
        }
        return true;
    }
    let room = levels.len() < most;
    if room {
        levels.insert(topic.clone(), head);
    }
    room
}

#[cfg(test)]
mod tests {
    use khala_core::Epoch;

    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::parse(name).unwrap()
    }

    fn head(epoch: u64, watermark: u64) -> Cursor {
        Cursor::new(Epoch::from_bits(epoch), Watermark::new(watermark).unwrap())
    }

    #[test]
    fn many_announcements_of_a_topic_are_one() {
        let outbox = Outbox::new(Duration::from_secs(30));
        let now = Instant::now();
        for watermark in [1, 64, 3] {
            assert!(outbox.announce(&topic("a"), head(1, watermark), now));
        }
        outbox.announce(&topic("b"), head(1, 9), now);
        outbox.announce(&topic("b"), head(2, 1), now);
        let parcel = outbox.take(now).unwrap();
        assert_eq!(parcel.heads, HashMap::from([(topic("a"), head(1, 64)), (topic("b"), head(2, 1))]));
        assert_eq!(outbox.take(now).unwrap_err(), None, "once");
    }

    #[test]
    fn what_was_announced_lately_is_told_again_and_not_too_often() {
        let outbox = Outbox::new(Duration::from_secs(30));
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        outbox.announce(&topic("a"), head(1, 1), at(0));
        outbox.announce_revoked(Watermark::new(5).unwrap());
        outbox.take(at(0)).unwrap();
        outbox.recall();
        let again = outbox.take(at(10)).unwrap();
        assert_eq!((again.heads.len(), again.revoked), (1, Watermark::new(5)));
        outbox.recall();
        assert_eq!(outbox.take(at(10)).unwrap_err(), Some(at(11)));
        outbox.announce(&topic("b"), head(1, 2), at(10));
        assert_eq!(outbox.take(at(10)).unwrap().heads.len(), 1, "news goes out meanwhile");
        assert_eq!(outbox.take(at(11)).unwrap().heads.len(), 2);
        outbox.recall();
        assert!(outbox.take(at(100)).unwrap().heads.is_empty(), "and is forgotten");
    }

    #[test]
    fn the_newest_head_is_told_again_also_when_an_older_one_was_announced_after_it() {
        let outbox = Outbox::new(Duration::from_secs(30));
        let start = Instant::now();
        let later = start + Duration::from_secs(31);
        outbox.announce(&topic("a"), head(1, 5), start);
        outbox.take(start).unwrap();
        outbox.announce(&topic("a"), head(1, 3), later);
        outbox.take(later).unwrap();
        outbox.recall();
        assert_eq!(outbox.take(later).unwrap().heads, HashMap::from([(topic("a"), head(1, 5))]));
    }

    #[test]
    fn a_new_connection_is_told_everything_at_once() {
        let outbox = Outbox::new(Duration::from_secs(30));
        let now = Instant::now();
        outbox.announce(&topic("a"), head(1, 1), now);
        outbox.recall();
        outbox.take(now).unwrap();
        outbox.reconnected();
        let parcel = outbox.take(now).unwrap();
        assert!(parcel.greet);
        assert_eq!(parcel.heads.len(), 1);
    }

    #[test]
    fn what_waits_and_what_is_remembered_is_bounded() {
        let outbox = Outbox::new(Duration::from_secs(30));
        let now = Instant::now();
        for n in 0..TOPICS {
            assert!(outbox.announce(&topic(&format!("t{n}")), head(1, 1), now));
        }
        assert!(!outbox.announce(&topic("one-more"), head(1, 1), now));
        assert!(outbox.announce(&topic("t0"), head(1, 2), now), "what waits already is raised");
        let waiting = outbox.lock();
        assert!(waiting.recent.young.len() + waiting.recent.old.len() <= TOPICS);
    }
}
