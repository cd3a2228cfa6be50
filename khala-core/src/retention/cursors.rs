//! The cursors of those who follow a topic, or did until recently: they tell whose cursors a trim would make stale.
//!
//! A follower that is here has a place, which moves with what it was sent; one that went leaves its cursor for a while, until the
//! same subject follows the topic again.
//!
//! # Invariants
//! A place costs its follower one store per page, and what those who went leave is bounded.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    clock::Moment,
    position::{Cursor, Epoch, Watermark},
    topic::Topic,
};

/// How many cursors of those who went are kept, in all. Past it the oldest are forgotten.
const SEEN_MOST: usize = 100_000;

/// Devices of one subject that are told apart when one of them is back.
const DEVICES: usize = 32;

/// How many cursors of a topic are below a floor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaleCursorCount {
    /// Of those who follow it now.
    pub connected: u64,
    /// Of those who did until recently.
    pub seen: u64,
}

/// The followers of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Followers {
    /// How many follow it now.
    pub connected: u64,
    /// The least of their watermarks.
    pub slowest_connected: Option<Watermark>,
    /// How many did until recently.
    pub seen: u64,
    /// The least of the watermarks that those left with.
    pub slowest_seen: Option<Watermark>,
}

/// All followers of this node.
#[derive(Debug)]
pub(crate) struct Cursors {
    recent_cursor: Duration,
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Topic, Entry>,
    next: u64,
    /// How many went and are not back.
    gone: usize,
    /// Those who went, oldest first; some of them are back.
    order: VecDeque<(Topic, (u64, u64))>,
}

#[derive(Debug, Default)]
struct Entry {
    here: HashMap<u64, Arc<Position>>,
    /// By subject and place.
    gone: BTreeMap<(u64, u64), Seen>,
}

#[derive(Debug)]
struct Position {
    epoch: AtomicU64,
    watermark: AtomicU64,
    moved_at: AtomicU64,
}

impl Position {
    fn cursor(&self) -> Cursor {
        let watermark = Watermark::new(self.watermark.load(Ordering::Relaxed));
        // Between the two stores of a change of epoch the pair may be mixed; a census is of no exact moment anyway.
        Cursor::new(
            Epoch::from_bits(self.epoch.load(Ordering::Relaxed)),
            watermark.expect("a watermark was stored"),
        )
    }
}

#[derive(Debug)]
struct Seen {
    cursor: Cursor,
    at: Moment,
}

impl Cursors {
    pub(crate) fn new(recent_cursor: Duration) -> Self {
        Self { recent_cursor, hasher: RandomState::new(), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for `subject`, which follows `topic` from `cursor` on; what it left there before is forgotten. Without
    /// a subject it leaves nothing when it goes.
    pub(crate) fn follow(
        self: &Arc<Self>,
        topic: &Topic,
        subject: Option<&str>,
        cursor: Cursor,
        now: Moment,
    ) -> CursorHandle {
        let subject = subject.map(|subject| self.hasher.hash_one(subject));
        let position = Arc::new(Position {
            epoch: AtomicU64::new(cursor.epoch.bits()),
            watermark: AtomicU64::new(cursor.watermark.as_u64()),
            moved_at: AtomicU64::new(now.as_millis()),
        });
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        let entry = state.topics.entry(topic.clone()).or_default();
        // One subject may follow by several devices: the one that stood nearest is the one that is back.
        let of_subject = subject.map(|subject| entry.gone.range((subject, 0)..=(subject, u64::MAX)));
        let off = |seen: &Seen| seen.cursor.watermark.as_u64().abs_diff(cursor.watermark.as_u64());
        let nearest = of_subject.into_iter().flatten().take(DEVICES).min_by_key(|(_, seen)| off(seen));
        let back = nearest.map(|(key, _)| *key).and_then(|back| entry.gone.remove(&back));
        entry.here.insert(number, Arc::clone(&position));
        state.gone -= usize::from(back.is_some());
        drop(state);
        CursorHandle { cursors: Arc::clone(self), topic: topic.clone(), subject, number, position }
    }

    /// How many followers of `topic` a floor at `floor` would leave behind. Those of another epoch are so already.
    pub(crate) fn count_stale_below(&self, topic: &Topic, floor: Cursor, now: Moment) -> StaleCursorCount {
        let below = |cursor: Cursor| cursor.epoch == floor.epoch && cursor.watermark < floor.watermark;
        let (here, gone) = self.of(topic, now);
        StaleCursorCount {
            connected: here.into_iter().filter(|cursor| below(*cursor)).count() as u64,
            seen: gone.into_iter().filter(|cursor| below(*cursor)).count() as u64,
        }
    }

    /// Who follows `topic` in that epoch.
    pub(crate) fn followers(&self, topic: &Topic, epoch: Epoch, now: Moment) -> Followers {
        let (here, gone) = self.of(topic, now);
        let slowest = |cursors: &[Cursor]| {
            cursors.iter().filter(|cursor| cursor.epoch == epoch).map(|cursor| cursor.watermark).min()
        };
        Followers {
            connected: here.len() as u64,
            slowest_connected: slowest(&here),
            seen: gone.len() as u64,
            slowest_seen: slowest(&gone),
        }
    }

    /// The topics that anybody follows now.
    pub(crate) fn topics(&self) -> Vec<Topic> {
        let state = self.lock();
        state
            .topics
            .iter()
            .filter(|(_, entry)| !entry.here.is_empty())
            .map(|(topic, _)| topic.clone())
            .collect()
    }

    /// The cursors of those who are here, and of those who went not too long ago.
    fn of(&self, topic: &Topic, now: Moment) -> (Vec<Cursor>, Vec<Cursor>) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(entry) = state.topics.get_mut(topic) else { return Default::default() };
        let before = entry.gone.len();
        entry.gone.retain(|_, seen| now.since(seen.at) <= self.recent_cursor);
        state.gone -= before - entry.gone.len();
        let here = entry.here.values().map(|position| position.cursor()).collect();
        let gone = entry.gone.values().map(|seen| seen.cursor).collect();
        if entry.here.is_empty() && entry.gone.is_empty() {
            state.topics.remove(topic);
        }
        (here, gone)
    }

    fn leave(&self, CursorHandle { topic, subject, number, position, .. }: &CursorHandle) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(entry) = state.topics.get_mut(topic) else { return };
        entry.here.remove(number);
        if let Some(subject) = *subject {
            let at = Moment::from_millis(position.moved_at.load(Ordering::Relaxed));
            entry.gone.insert((subject, *number), Seen { cursor: position.cursor(), at });
            state.order.push_back((topic.clone(), (subject, *number)));
            state.gone += 1;
        }
        Self::tidy(state, topic);
        while state.gone > SEEN_MOST
            && let Some((topic, key)) = state.order.pop_front()
        {
            let Some(entry) = state.topics.get_mut(&topic) else { continue };
            state.gone -= usize::from(entry.gone.remove(&key).is_some());
            Self::tidy(state, &topic);
        }
        if state.order.len() > 2 * SEEN_MOST {
            // Most of them are back: who comes and goes again and again takes nobody's room.
            let State { topics, order, .. } = state;
            order.retain(|(topic, number)| {
                topics.get(topic).is_some_and(|entry| entry.gone.contains_key(number))
            });
        }
    }

    fn tidy(state: &mut State, topic: &Topic) {
        if state.topics.get(topic).is_some_and(|entry| entry.here.is_empty() && entry.gone.is_empty()) {
            state.topics.remove(topic);
        }
    }
}

/// Where one follower of one topic stands. Dropping it says that the follower went.
#[derive(Debug)]
pub(crate) struct CursorHandle {
    cursors: Arc<Cursors>,
    topic: Topic,
    subject: Option<u64>,
    number: u64,
    position: Arc<Position>,
}

impl CursorHandle {
    /// The follower has everything up to here.
    pub(crate) fn moved(&self, cursor: Cursor, now: Moment) {
        self.position.epoch.store(cursor.epoch.bits(), Ordering::Relaxed);
        self.position.watermark.store(cursor.watermark.as_u64(), Ordering::Relaxed);
        self.position.moved_at.store(now.as_millis(), Ordering::Relaxed);
    }
}

impl Drop for CursorHandle {
    fn drop(&mut self) {
        self.cursors.leave(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, watermark: u64) -> Cursor {
        Cursor::new(Epoch::from_bits(epoch), Watermark::new(watermark).unwrap())
    }

    fn ms(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    #[test]
    fn a_floor_leaves_behind_who_stands_below_it() {
        let cursors = Arc::new(Cursors::new(Duration::from_millis(100)));
        let topic = Topic::parse("t").unwrap();
        let left = |floor, now| cursors.count_stale_below(&topic, at(1, floor), ms(now));
        let ada = cursors.follow(&topic, Some("ada"), at(1, 5), ms(0));
        let bob = cursors.follow(&topic, Some("bob"), at(1, 9), ms(0));
        let other = cursors.follow(&topic, Some("eve"), at(2, 1), ms(0));
        assert_eq!(left(5, 0), StaleCursorCount { connected: 0, seen: 0 }, "a cursor at the floor is good");
        assert_eq!(left(6, 0), StaleCursorCount { connected: 1, seen: 0 });
        ada.moved(at(1, 8), ms(10));
        assert_eq!(left(9, 10), StaleCursorCount { connected: 1, seen: 0 });
        drop(ada);
        assert_eq!(left(10, 10), StaleCursorCount { connected: 1, seen: 1 });
        assert_eq!(left(10, 110), StaleCursorCount { connected: 1, seen: 1 });
        assert_eq!(left(10, 111), StaleCursorCount { connected: 1, seen: 0 }, "too long ago");
        let followers = cursors.followers(&topic, Epoch::from_bits(1), ms(111));
        assert_eq!((followers.connected, followers.slowest_connected), (2, Watermark::new(9)));
        drop((bob, other));
        assert!(cursors.topics().is_empty());
    }

    #[test]
    fn who_is_back_is_not_missed() {
        let cursors = Arc::new(Cursors::new(Duration::from_secs(60)));
        let topic = Topic::parse("t").unwrap();
        let seen = || cursors.count_stale_below(&topic, at(1, 100), ms(1)).seen;
        let devices = [5, 50].map(|watermark| cursors.follow(&topic, Some("ada"), at(1, watermark), ms(0)));
        let nobody = cursors.follow(&topic, None, at(1, 7), ms(0));
        drop((devices, nobody));
        // FollowResult again from 5 on: the device that stood there is back, not the other.
        assert_eq!(seen(), 2);
        let back = cursors.follow(&topic, Some("ada"), at(1, 5), ms(0));
        assert_eq!(seen(), 1);
        let slowest = cursors.followers(&topic, Epoch::from_bits(1), ms(1)).slowest_seen;
        assert_eq!(slowest, Watermark::new(50));
        drop(back);
    }

    #[test]
    fn who_comes_and_goes_takes_nobodys_room() {
        let cursors = Arc::new(Cursors::new(Duration::from_secs(60)));
        let (quiet, busy) = (Topic::parse("quiet").unwrap(), Topic::parse("busy").unwrap());
        drop(cursors.follow(&quiet, Some("ada"), at(1, 5), ms(0)));
        for _ in 0..3 * SEEN_MOST {
            drop(cursors.follow(&busy, Some("bob"), at(1, 5), ms(0)));
        }
        assert_eq!(cursors.count_stale_below(&quiet, at(1, 9), ms(0)).seen, 1);
        let state = cursors.lock();
        assert!(state.gone == 2 && state.order.len() <= 2 * SEEN_MOST + 1);
    }

    #[test]
    fn what_is_left_is_bounded() {
        let cursors = Arc::new(Cursors::new(Duration::from_secs(60)));
        let topic = |n: usize| Topic::parse(&format!("t{}", n % 1_000)).unwrap();
        for n in 0..SEEN_MOST + 500 {
            drop(cursors.follow(&topic(n), Some(&n.to_string()), at(1, 5), ms(0)));
        }
        let state = cursors.lock();
        assert_eq!((state.order.len(), state.gone), (SEEN_MOST, SEEN_MOST));
        assert_eq!(state.topics.values().map(|entry| entry.gone.len()).sum::<usize>(), SEEN_MOST);
    }
}
