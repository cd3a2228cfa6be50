//! The bell of one connection: what wakes its task, and why, so that the task looks at nothing that has not rung.
//!
//! A connection waits for its client, its topics, the clock and its grant; polling all of them whenever one moves would cost
//! more than the work. What must stay true: whatever rings after the task has looked wakes it, and what rang before it
//! looks is not lost; what rings again meanwhile costs nothing.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Poll, Wake, Waker},
};

use futures::{future::poll_fn, task::AtomicWaker};

use crate::session::ChannelId;

/// Why it rang: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Why(u8);

impl Why {
    /// The order to end was given.
    pub(crate) const DRAIN: Self = Self(1);
    /// The grant may have been taken back.
    pub(crate) const GRANT: Self = Self(2);
    /// The transport may have something that came in.
    pub(crate) const INPUT: Self = Self(4);
    /// Something was announced to a channel.
    pub(crate) const MOVED: Self = Self(8);
    /// The timer went off.
    pub(crate) const TIMER: Self = Self(16);

    pub(crate) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Takes `other` out; says whether it was in.
    pub(crate) fn remove(&mut self, other: Self) -> bool {
        let had = self.has(other);
        self.0 &= !other.0;
        had
    }
}

#[derive(Debug, Default)]
pub(crate) struct Bell {
    task: AtomicWaker,
    rung: AtomicU8,
    moved: Mutex<Moved>,
}

/// The channels that something was announced to, each once. The first has its place, for most connections have no other.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    first: Option<ChannelId>,
    others: Vec<ChannelId>,
}

impl Moved {
    fn add(&mut self, channel: ChannelId) {
        if let Some(other) = self.first.replace(channel) {
            self.others.push(other);
        }
    }

    /// One after the other.
    pub(crate) fn next(&mut self) -> Option<ChannelId> {
        self.first.take().or_else(|| self.others.pop())
    }
}

impl Bell {
    /// Wakes the task, unless it was woken for the same and has not looked since.
    pub(crate) fn ring(&self, why: Why) {
        if self.rung.fetch_or(why.0, Ordering::AcqRel) & why.0 == 0 {
            self.task.wake();
        }
    }

    /// Takes all that it rang for, and wakes `task` from now on.
    pub(crate) fn look(&self, task: &Waker) -> Why {
        self.task.register(task);
        Why(self.rung.swap(0, Ordering::AcqRel))
    }

    /// Waits until it rings for `why`, and leaves all else. Cancel safe.
    pub(crate) async fn wait_for(&self, why: Why) {
        poll_fn(|context| {
            self.task.register(context.waker());
            let rung = self.rung.fetch_and(!why.0, Ordering::AcqRel);
            if Why(rung).has(why) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Takes the channels that have moved.
    pub(crate) fn moved(&self) -> Moved {
        mem::take(&mut self.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A waker that rings for `why`.
    pub(crate) fn waker(self: &Arc<Self>, why: Why) -> Waker {
        Waker::from(Arc::new(Cord { bell: Arc::clone(self), why }))
    }
}

struct Cord {
    bell: Arc<Bell>,
    why: Why,
}

impl Wake for Cord {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.ring(self.why);
    }
}

/// Rings for one channel that has moved.
#[derive(Debug)]
pub(crate) struct ChannelCord {
    bell: Arc<Bell>,
    channel: ChannelId,
    pulled: AtomicBool,
}

impl ChannelCord {
    pub(crate) fn new(bell: &Arc<Bell>, channel: ChannelId) -> Arc<Self> {
        Arc::new(Self { bell: Arc::clone(bell), channel, pulled: AtomicBool::new(false) })
    }

    /// Lets it ring again. To be called before it is looked what moved.
    pub(crate) fn release(&self) {
        // A swap, and not a store: so whatever was announced before the pull that it undoes is seen by who looks.
        self.pulled.swap(false, Ordering::AcqRel);
    }
}

impl Wake for ChannelCord {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.pulled.swap(true, Ordering::AcqRel) {
            self.bell.moved.lock().unwrap_or_else(PoisonError::into_inner).add(self.channel);
            self.bell.ring(Why::MOVED);
        }
    }
}
