//! Fanout: who has something new to read. Heads, not payloads; a level, not an edge.
//!
//! An announcement may be lost, late, repeated or false. A watcher therefore reads the journal and believes only
//! that; what is announced decides when it looks, never what it finds. No announcement keeps a watcher from hearing a
//! later one, but for the same one once more. The control lane is the same for revocations: it says how far their log
//! goes, and every watcher that hears it reads that log.

mod level;
mod wakers;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use async_trait::async_trait;
use tokio::sync::watch;

use self::{level::Level, wakers::Wakers};
use crate::{
    error::Error,
    position::{Cursor, Watermark},
    topic::Topic,
};

/// Carries the news that a topic's head, or the log of revocations, has moved, within a process or between nodes.
#[async_trait]
pub trait Fanout: fmt::Debug + Send + Sync + 'static {
    /// Tells every watcher of `topic`, on every node, that its head is at least there.
    ///
    /// Called after the append is on stable storage. Dropping the future may lose the announcement.
    ///
    /// # Errors
    /// An [`Error`] when it is known not to have gone out. Delivery then completes by polling.
    async fn announce(&self, topic: &Topic, head: Cursor) -> Result<(), Error>;

    /// Watches the head of `topic` until the [`Watch`] is dropped.
    ///
    /// # Errors
    /// An [`Error`] when nothing can be watched now.
    async fn watch(&self, topic: &Topic) -> Result<Watch, Error>;

    /// Tells every node that the log of revocations goes at least that far.
    ///
    /// Called after the revocation is on stable storage. Dropping the future may lose the announcement.
    ///
    /// # Errors
    /// An [`Error`] when it is known not to have gone out. The other nodes then find it by polling.
    async fn announce_revoked(&self, newest: Watermark) -> Result<(), Error>;

    /// Watches how far the log of revocations goes, until the [`Watch`] is dropped.
    ///
    /// # Errors
    /// An [`Error`] when nothing can be watched now.
    async fn watch_revoked(&self) -> Result<Watch<Watermark>, Error>;
}

/// What is announced: the head of one topic, or how far the log of revocations goes.
#[derive(Debug)]
pub struct Watch<T = Cursor> {
    level: watch::Receiver<Level<T>>,
    /// How many announcements were there when it looked last, and what it told then.
    looked: u64,
    told: Option<T>,
    watcher: Option<Watcher>,
}

impl<T: Copy + PartialEq + Send + Sync> Watch<T> {
    fn new(level: watch::Receiver<Level<T>>, watcher: Option<Watcher>) -> Self {
        let (looked, told) = {
            let level = level.borrow();
            (level.count(), level.since(0))
        };
        Self { level, looked, told, watcher }
    }

    /// The furthest of what [`moved`](Self::moved) returned last and what was announced since; before it has returned
    /// anything, of all that was announced since anybody began to watch. None if nothing was.
    pub fn head(&self) -> Option<T> {
        self.level.borrow().since_or(self.looked, self.told)
    }

    /// Waits until something is announced that this method has not returned yet, and returns the furthest of that.
    ///
    /// It may be less than what was returned before: then either it comes late, or the other was false. Only the
    /// journal knows.
    ///
    /// Cancel safe: what was not returned is returned by the next call. Never ready again once the fanout is
    /// gone; a watcher polls beside it anyway.
    pub async fn moved(&mut self) -> T {
        loop {
            if self.level.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let level = self.level.borrow_and_update();
            if let Some(head) = level.since(self.looked) {
                (self.looked, self.told) = (level.count(), Some(head));
                return head;
            }
        }
    }

    /// What [`moved`](Self::moved) would return, if it would return now.
    pub fn news(&mut self) -> Option<T> {
        let level = self.level.borrow();
        let head = level.since(self.looked)?;
        (self.looked, self.told) = (level.count(), Some(head));
        Some(head)
    }
}

impl Watch {
    /// Wakes `waker` at each announcement until the watch is dropped, and whoever was to be woken before no longer: for
    /// who watches many topics, and asks those that have moved for their [`news`](Self::news).
    pub fn wake(&mut self, waker: Waker) {
        if let Some(watcher) = &mut self.watcher {
            watcher.wake(waker);
        }
    }
}

/// The fanout of one process, and the last stretch of every other: a level per watched topic, and one for
/// revocations.
///
/// Cloning it gives another handle to the same levels.
#[derive(Clone, Debug, Default)]
pub struct LocalFanout(Arc<Levels>);

#[derive(Debug)]
struct Levels {
    heads: Mutex<HashMap<Topic, Head>>,
    revoked: watch::Sender<Level<Watermark>>,
    unwatched: Option<Hook>,
    /// How often a topic began to be watched that nobody watched before.
    generation: AtomicU64,
}

/// The head of one topic, and who is woken when it moves.
#[derive(Debug)]
struct Head {
    level: watch::Sender<Level<Cursor>>,
    wakers: Arc<Wakers>,
    /// The generation that began when somebody began to watch the topic.
    since: u64,
}

impl Head {
    fn new(since: u64) -> Self {
        Self { level: watch::Sender::new(Level::new(Cursor::is_news_to)), wakers: Arc::default(), since }
    }
}

impl Default for Levels {
    fn default() -> Self {
        let revoked = watch::Sender::new(Level::new(|newest, known| newest > known));
        Self { heads: Mutex::default(), revoked, unwatched: None, generation: AtomicU64::new(0) }
    }
}

struct Hook(Box<dyn Fn(&Topic) + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

impl Levels {
    fn lock(&self) -> MutexGuard<'_, HashMap<Topic, Head>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalFanout {
    /// A fanout that nobody watches yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A fanout that tells `hook` of each topic whose last watcher in this process has gone: for a fanout between nodes
    /// that listens to what is watched only.
    ///
    /// The hook is called while the levels are locked, so that nobody can begin to watch the topic meanwhile: it must be
    /// quick, and must not call this fanout. It is called from wherever a [`Watch`] is dropped, with or without a runtime.
    pub fn with_unwatched(hook: impl Fn(&Topic) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Levels { unwatched: Some(Hook(Box::new(hook))), ..Levels::default() }))
    }

    /// Tells those who watch `topic` in this process of a head, unless it is what they were told last.
    ///
    /// A lower one too, for the one before may have been false; one that only came late wakes them for nothing. Who has
    /// not looked yet is told the furthest of the same epoch.
    pub fn raise(&self, topic: &Topic, head: Cursor) {
        let wakers = {
            let heads = self.0.lock();
            let Some(Head { level, wakers, .. }) = heads.get(topic) else { return };
            if !level.send_if_modified(|level| level.announce(head)) {
                return;
            }
            Arc::clone(wakers)
        };
        wakers.wake();
    }

    /// Watches `topic` in this process.
    pub fn observe(&self, topic: &Topic) -> Watch {
        let mut heads = self.0.lock();
        let Head { level, wakers, .. } = heads
            .entry(topic.clone())
            .or_insert_with(|| Head::new(self.0.generation.fetch_add(1, Ordering::Relaxed) + 1));
        let watcher = Watcher {
            levels: Arc::clone(&self.0),
            topic: topic.clone(),
            wakers: Arc::clone(wakers),
            woken: None,
        };
        Watch::new(level.subscribe(), Some(watcher))
    }

    /// Tells those who watch the revocations in this process how far their log goes, as [`raise`](Self::raise) does of a
    /// head.
    pub fn raise_revoked(&self, newest: Watermark) {
        self.0.revoked.send_if_modified(|level| level.announce(newest));
    }

    /// Watches the revocations in this process.
    pub fn observe_revoked(&self) -> Watch<Watermark> {
        Watch::new(self.0.revoked.subscribe(), None)
    }

    /// Whether anybody in this process watches the revocations.
    pub fn revoked_is_watched(&self) -> bool {
        self.0.revoked.receiver_count() > 0
    }

    /// Whether anybody in this process watches `topic`.
    pub fn watches(&self, topic: &Topic) -> bool {
        self.0.lock().contains_key(topic)
    }

    /// The topics that began to be watched in this process after `generation`, and the generation of now. A generation begins
    /// whenever a topic begins to be watched that nobody watched; 0 is before all of them.
    pub fn watched_since(&self, generation: u64) -> (Vec<Topic>, u64) {
        // Under the lock: no generation begins meanwhile.
        let heads = self.0.lock();
        let now = self.0.generation.load(Ordering::Relaxed);
        if now == generation {
            return (Vec::new(), now);
        }
        let since = heads.iter().filter(|(_, head)| head.since > generation);
        (since.map(|(topic, _)| topic.clone()).collect(), now)
    }

    /// The topics that somebody in this process watches.
    pub fn watched(&self) -> Vec<Topic> {
        self.0.lock().keys().cloned().collect()
    }
}

#[async_trait]
impl Fanout for LocalFanout {
    async fn announce(&self, topic: &Topic, head: Cursor) -> Result<(), Error> {
        self.raise(topic, head);
        Ok(())
    }

    async fn watch(&self, topic: &Topic) -> Result<Watch, Error> {
        Ok(self.observe(topic))
    }

    async fn announce_revoked(&self, newest: Watermark) -> Result<(), Error> {
        self.raise_revoked(newest);
        Ok(())
    }

    async fn watch_revoked(&self) -> Result<Watch<Watermark>, Error> {
        Ok(self.observe_revoked())
    }
}

/// Forgets a topic when the last one who watches it goes.
#[derive(Debug)]
struct Watcher {
    levels: Arc<Levels>,
    topic: Topic,
    wakers: Arc<Wakers>,
    /// Its number among those who are woken.
    woken: Option<u64>,
}

impl Watcher {
    fn wake(&mut self, waker: Waker) {
        if let Some(before) = self.woken.replace(self.wakers.add(waker)) {
            self.wakers.remove(before);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(number) = self.woken {
            self.wakers.remove(number);
        }
        let mut levels = self.levels.lock();
        // The receiver beside this guard is declared before it, and so already dropped.
        if levels.get(&self.topic).is_some_and(|head| head.level.receiver_count() == 0) {
            levels.remove(&self.topic);
            if let Some(Hook(hook)) = &self.levels.unwatched {
                hook(&self.topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::position::{Epoch, Watermark};

    fn head(epoch: u64, watermark: u64) -> Cursor {
        Cursor::new(Epoch::from_bits(epoch), Watermark::new(watermark).unwrap())
    }

    #[tokio::test]
    async fn a_level_is_not_an_edge() {
        let fanout = LocalFanout::new();
        let topic = Topic::parse("t").unwrap();
        let mut watch = fanout.observe(&topic);
        for watermark in [1, 5, 3] {
            fanout.raise(&topic, head(1, watermark));
        }
        assert_eq!(watch.moved().await, head(1, 5), "the newest, once; a late one hides nothing");
        assert!(watch.moved().now_or_never().is_none());
        fanout.raise(&topic, head(2, 1));
        assert_eq!(watch.moved().await, head(2, 1), "another epoch is news, wherever it stands");
        fanout.raise(&topic, head(2, 1));
        assert!(watch.moved().now_or_never().is_none(), "the same once more is not");
    }

    #[tokio::test]
    async fn a_head_that_is_never_reached_hides_none_that_is_announced_after_it() {
        let fanout = LocalFanout::new();
        let topic = Topic::parse("t").unwrap();
        let (mut watch, mut slow) = (fanout.observe(&topic), fanout.observe(&topic));
        let mut revoked = fanout.observe_revoked();
        let never = Watermark::new(crate::position::MAX_POSITION).unwrap();
        fanout.raise(&topic, Cursor::new(Epoch::from_bits(1), never));
        fanout.raise_revoked(never);
        assert_eq!((watch.moved().await.watermark, revoked.moved().await), (never, never));
        for watermark in [3, 4] {
            fanout.raise(&topic, head(1, watermark));
            fanout.raise_revoked(head(1, watermark).watermark);
            assert_eq!(watch.head().unwrap().watermark, never, "not known to be false before it has looked");
            assert_eq!(watch.moved().await, head(1, watermark));
            assert_eq!(revoked.moved().await, head(1, watermark).watermark);
            assert_eq!(watch.head(), Some(head(1, watermark)));
            fanout.raise(&topic, Cursor::new(Epoch::from_bits(1), never));
            assert_eq!(watch.moved().await.watermark, never);
        }
        assert_eq!(slow.moved().await.watermark, never);
        assert!(slow.moved().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_comes_late_hides_nothing_from_who_has_not_looked() {
        let fanout = LocalFanout::new();
        let topic = Topic::parse("t").unwrap();
        let (mut quick, mut slow) = (fanout.observe(&topic), fanout.observe(&topic));
        fanout.raise(&topic, head(1, 5));
        assert_eq!(quick.moved().await, head(1, 5));
        fanout.raise(&topic, head(1, 3));
        assert_eq!(quick.head(), Some(head(1, 5)));
        assert_eq!(slow.moved().await, head(1, 5));
        assert_eq!(fanout.observe(&topic).head(), Some(head(1, 5)));
    }

    #[test]
    fn who_asked_to_be_woken_is_each_time_until_it_goes() {
        struct Count(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let woken = |count: &Count| count.0.swap(0, Ordering::Relaxed);
        let fanout = LocalFanout::new();
        let topic = Topic::parse("t").unwrap();
        let (one, other) = (Arc::new(Count(0.into())), Arc::new(Count(0.into())));
        let (mut watch, mut second) = (fanout.observe(&topic), fanout.observe(&topic));
        watch.wake(Arc::clone(&one).into());
        second.wake(Arc::clone(&other).into());
        for watermark in [1, 2] {
            fanout.raise(&topic, head(1, watermark));
            fanout.raise(&topic, head(1, watermark));
            assert_eq!((woken(&one), woken(&other)), (1, 1), "an echo is no announcement");
            assert_eq!((watch.news(), watch.news()), (Some(head(1, watermark)), None));
        }
        watch.wake(Arc::clone(&other).into());
        fanout.raise(&topic, head(1, 3));
        assert_eq!((woken(&one), woken(&other)), (0, 2), "another in its place");
        drop(second);
        fanout.raise(&topic, head(1, 4));
        assert_eq!((woken(&one), woken(&other), Arc::strong_count(&one)), (0, 1, 1));
    }

    #[tokio::test]
    async fn revocations_have_a_level_of_their_own() {
        let fanout = LocalFanout::new();
        fanout.raise_revoked(Watermark::new(1).unwrap());
        let mut watch = fanout.observe_revoked();
        assert_eq!(watch.head(), Watermark::new(1), "a late watcher sees where it stands");
        for watermark in [3, 2] {
            fanout.raise_revoked(Watermark::new(watermark).unwrap());
        }
        assert_eq!(Some(watch.moved().await), Watermark::new(3));
        assert!(fanout.revoked_is_watched());
        drop(watch);
        assert!(!fanout.revoked_is_watched());
    }

    #[test]
    fn the_last_watcher_that_goes_is_told_of() {
        let gone = Arc::new(Mutex::new(Vec::new()));
        let fanout = LocalFanout::with_unwatched({
            let gone = Arc::clone(&gone);
            move |topic| gone.lock().unwrap().push(topic.clone())
        });
        let topic = Topic::parse("t").unwrap();
        let (one, two) = (fanout.observe(&topic), fanout.observe(&topic));
        drop(one);
        assert!(gone.lock().unwrap().is_empty());
        drop(two);
        drop(fanout.observe(&topic));
        assert_eq!(*gone.lock().unwrap(), [topic.clone(), topic], "each time anew");
    }

    #[test]
    fn nothing_is_kept_for_topics_that_nobody_watches() {
        let fanout = LocalFanout::new();
        let topic = Topic::parse("t").unwrap();
        let (one, two) = (fanout.observe(&topic), fanout.observe(&topic));
        drop(one);
        assert_eq!(fanout.watched(), vec![topic.clone()]);
        drop(two);
        assert!(fanout.watched().is_empty());
        fanout.raise(&topic, head(1, 1));
        assert!(fanout.watched().is_empty());
    }
}
