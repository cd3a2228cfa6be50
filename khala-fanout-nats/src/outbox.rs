//! What waits to be sent: a level per topic, and not a queue.
//!
//! An announcement only raises a level here; one task takes all of them at once and sends them. However many announcements come
//! meanwhile, the newest head of each topic goes out. What was announced recently is remembered, to be told again to those
//! who missed it, in slices, from a random moment on: after an outage every node is asked at once. Both are bounded: an
//! announcement is a hint, and one that finds no room is lost.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use khala_core::{Cursor, Topic, Watermark};
use tokio::{sync::Notify, time::Instant};

/// How many topics wait at most, and how many are remembered.
const TOPICS: usize = 65_536;
/// How often at most what was announced recently is told again, however many nodes ask.
const RECALL_EVERY: Duration = Duration::from_secs(1);
/// How many heads are told again at once, and how long after them the next may be.
const SLICE: usize = 1_024;
const SLICE_EVERY: Duration = Duration::from_millis(10);
/// How much later than it was asked a node begins to tell again, at most: every other was asked at the same moment.
const SPREAD: Duration = Duration::from_millis(250);

/// What is to be sent now.
#[derive(Debug, Default)]
pub(crate) struct PendingAnnouncements {
    /// The connection is new.
    pub(crate) says_hello: bool,
    pub(crate) heads: HashMap<Topic, Cursor>,
    pub(crate) revoked: Option<Watermark>,
    /// Somebody waits to hear that the server has taken everything up to this ticket.
    pub(crate) echo: Option<u64>,
}

impl PendingAnnouncements {
    pub(crate) fn is_empty(&self) -> bool {
        !self.says_hello && self.heads.is_empty() && self.revoked.is_none() && self.echo.is_none()
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug)]
struct Waiting {
    pending: PendingAnnouncements,
    recent: Recent,
    /// The newest that was ever announced. It is one number, and is remembered for ever.
    revoked: Option<Watermark>,
    /// Others are to be told again what was announced recently.
    resend_recent: bool,
    /// When that was seen, and when it was done last.
    asked: Option<Instant>,
    resent_at: Option<Instant>,
    /// What is still to be told again, and when the next slice of it is due.
    again: VecDeque<Topic>,
    next_slice: Option<Instant>,
    /// How long after it was asked this node begins to tell.
    spread: Duration,
}

impl Outbox {
    /// An empty one, that remembers what was announced for about that long. Where among the nodes that are asked to tell
    /// again it begins is drawn at random, once.
    pub(crate) fn new(remember: Duration, random: u64) -> Self {
        // The remainder fits.
        let spread = Duration::from_micros(random % (SPREAD.as_micros() as u64 + 1));
        Self::with_spread(remember, spread)
    }

    fn with_spread(remember: Duration, spread: Duration) -> Self {
        let waiting = Waiting {
            pending: PendingAnnouncements::default(),
            recent: Recent::new(remember),
            revoked: None,
            resend_recent: false,
            asked: None,
            resent_at: None,
            again: VecDeque::new(),
            next_slice: None,
            spread,
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
        waiting.pending.revoked = waiting.revoked;
        drop(waiting);
        self.news.notify_one();
    }

    /// Asks for the echo of `ticket`, after everything that waits.
    pub(crate) fn echo(&self, ticket: u64) {
        let mut waiting = self.lock();
        waiting.pending.echo = waiting.pending.echo.max(Some(ticket));
        drop(waiting);
        self.news.notify_one();
    }

    /// The connection is new: what was sent on the last one may be lost, and others may have been missed.
    pub(crate) fn reconnected(&self) {
        let mut waiting = self.lock();
        waiting.pending.says_hello = true;
        waiting.resend_recent = true;
        waiting.resent_at = None;
        drop(waiting);
        self.news.notify_one();
    }

    /// Another node has missed something.
    pub(crate) fn resend_recent(&self) {
        self.lock().resend_recent = true;
        self.news.notify_one();
    }

    /// Takes what is to be sent; if there is nothing, when to look again without news.
    pub(crate) fn take(&self, now: Instant) -> Result<PendingAnnouncements, Option<Instant>> {
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
        raise(&mut self.pending.heads, topic, head, TOPICS)
    }

    fn take(&mut self, now: Instant) -> Result<PendingAnnouncements, Option<Instant>> {
        let recall_at = self.recall_at(now);
        if recall_at.is_some_and(|due| due <= now) {
            (self.resend_recent, self.asked, self.resent_at) = (false, None, Some(now));
            self.again = self.recent.topics(now);
            self.next_slice = Some(now);
            self.pending.revoked = self.revoked;
        }
        if self.slice_at().is_some_and(|due| due <= now) {
            let slice = self.again.len().min(SLICE);
            for topic in self.again.drain(..slice) {
                if let Some(head) = self.recent.head(&topic) {
                    let level = self.pending.heads.entry(topic).or_insert(head);
                    *level = further(*level, head);
                }
            }
            self.next_slice = Some(now + SLICE_EVERY);
        }
        if !self.pending.is_empty() {
            return Ok(mem::take(&mut self.pending));
        }
        Err(self.slice_at().or_else(|| recall_at.filter(|due| *due > now)))
    }

    /// When what was announced recently is to be told again; not before all of the last time was.
    fn recall_at(&mut self, now: Instant) -> Option<Instant> {
        if !self.resend_recent {
            return None;
        }
        let asked = *self.asked.get_or_insert(now);
        if !self.again.is_empty() {
            return None;
        }
        let due = asked + self.spread;
        Some(self.resent_at.map_or(due, |last| due.max(last + RECALL_EVERY)))
    }

    fn slice_at(&self) -> Option<Instant> {
        self.next_slice.filter(|_| !self.again.is_empty())
    }
}

/// The newest head of each topic that was announced recently: two generations, of which the older is forgotten at once.
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

    /// The topics that are remembered.
    fn topics(&mut self, now: Instant) -> VecDeque<Topic> {
        self.age(now);
        let old = self.old.keys().filter(|topic| !self.young.contains_key(*topic));
        self.young.keys().chain(old).cloned().collect()
    }

    fn head(&self, topic: &Topic) -> Option<Cursor> {
        match (self.young.get(topic), self.old.get(topic)) {
            (Some(young), Some(old)) => Some(further(*young, *old)),
            (young, old) => young.or(old).copied(),
        }
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

/// What was announced before, if it is further in the epoch of what was announced since.
fn further(since: Cursor, before: Cursor) -> Cursor {
    if since.epoch == before.epoch && before.watermark > since.watermark { before } else { since }
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

    fn outbox() -> Outbox {
        Outbox::with_spread(Duration::from_secs(30), Duration::ZERO)
    }

    fn topic(name: &str) -> Topic {
        Topic::parse(name).unwrap()
    }

    fn head(epoch: u64, watermark: u64) -> Cursor {
        Cursor::new(Epoch::from_bits(epoch), Watermark::new(watermark).unwrap())
    }

    #[test]
    fn many_announcements_of_a_topic_are_one() {
        let outbox = outbox();
        let now = Instant::now();
        for watermark in [1, 64, 3] {
            assert!(outbox.announce(&topic("a"), head(1, watermark), now));
        }
        outbox.announce(&topic("b"), head(1, 9), now);
        outbox.announce(&topic("b"), head(2, 1), now);
        let pending = outbox.take(now).unwrap();
        assert_eq!(pending.heads, HashMap::from([(topic("a"), head(1, 64)), (topic("b"), head(2, 1))]));
        assert_eq!(outbox.take(now).unwrap_err(), None, "once");
    }

    #[test]
    fn what_was_announced_lately_is_told_again_and_not_too_often() {
        let outbox = outbox();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        outbox.announce(&topic("a"), head(1, 1), at(0));
        outbox.announce_revoked(Watermark::new(5).unwrap());
        outbox.take(at(0)).unwrap();
        outbox.resend_recent();
        let again = outbox.take(at(10)).unwrap();
        assert_eq!((again.heads.len(), again.revoked), (1, Watermark::new(5)));
        outbox.resend_recent();
        assert_eq!(outbox.take(at(10)).unwrap_err(), Some(at(11)));
        outbox.announce(&topic("b"), head(1, 2), at(10));
        assert_eq!(outbox.take(at(10)).unwrap().heads.len(), 1, "news goes out meanwhile");
        assert_eq!(outbox.take(at(11)).unwrap().heads.len(), 2);
        outbox.resend_recent();
        assert!(outbox.take(at(100)).unwrap().heads.is_empty(), "and is forgotten");
    }

    #[test]
    fn the_newest_head_is_told_again_also_when_an_older_one_was_announced_after_it() {
        let outbox = outbox();
        let start = Instant::now();
        let later = start + Duration::from_secs(31);
        outbox.announce(&topic("a"), head(1, 5), start);
        outbox.take(start).unwrap();
        outbox.announce(&topic("a"), head(1, 3), later);
        outbox.take(later).unwrap();
        outbox.resend_recent();
        assert_eq!(outbox.take(later).unwrap().heads, HashMap::from([(topic("a"), head(1, 5))]));
    }

    #[test]
    fn a_new_connection_is_told_everything_at_once() {
        let outbox = outbox();
        let now = Instant::now();
        outbox.announce(&topic("a"), head(1, 1), now);
        outbox.resend_recent();
        outbox.take(now).unwrap();
        outbox.reconnected();
        let pending = outbox.take(now).unwrap();
        assert!(pending.says_hello);
        assert_eq!(pending.heads.len(), 1);
    }

    #[test]
    fn much_is_told_again_in_slices_and_news_between_them() {
        let outbox = outbox();
        let start = Instant::now();
        for n in 0..5 * SLICE / 2 {
            outbox.announce(&topic(&format!("t{n}")), head(1, 1), start);
        }
        outbox.take(start).unwrap();
        outbox.resend_recent();
        let mut told = outbox.take(start).unwrap().heads;
        assert_eq!(told.len(), SLICE);
        outbox.resend_recent();
        assert_eq!(outbox.take(start).unwrap_err(), Some(start + SLICE_EVERY));
        // One that was not told again yet.
        let late = (0..).map(|n| topic(&format!("t{n}"))).find(|topic| !told.contains_key(topic)).unwrap();
        outbox.announce(&late, head(1, 2), start);
        assert_eq!(outbox.take(start).unwrap().heads, HashMap::from([(late.clone(), head(1, 2))]));
        for n in 1..3 {
            told.extend(outbox.take(start + n * SLICE_EVERY).unwrap().heads);
        }
        assert_eq!(told[&late], head(1, 2), "not as it was when they were asked");
        assert_eq!(told.len(), 5 * SLICE / 2);
        assert_eq!(
            outbox.take(start + 3 * SLICE_EVERY).unwrap_err(),
            Some(start + RECALL_EVERY),
            "asked again"
        );
        assert_eq!(outbox.take(start + RECALL_EVERY).unwrap().heads.len(), SLICE);
    }

    #[test]
    fn nodes_that_are_asked_at_once_begin_one_after_the_other() {
        let start = Instant::now();
        let begins = |random: u64| {
            let outbox = Outbox::new(Duration::from_secs(30), random);
            outbox.announce(&topic("a"), head(1, 1), start);
            outbox.take(start).unwrap();
            outbox.resend_recent();
            match outbox.take(start) {
                Ok(_) => start,
                Err(due) => {
                    assert_eq!(outbox.take(due.unwrap()).unwrap().heads.len(), 1);
                    due.unwrap()
                }
            }
        };
        assert_eq!(begins(0), start);
        assert_eq!(begins(3_000), start + Duration::from_millis(3));
        assert!(begins(u64::MAX) <= start + SPREAD);
    }

    #[test]
    fn what_waits_and_what_is_remembered_is_bounded() {
        let outbox = outbox();
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
