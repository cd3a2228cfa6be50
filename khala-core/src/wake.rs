//! The waker of one connection: it wakes the connection's task and says why, so that the task looks only at what has changed.
//!
//! A connection waits for its client, its topics, the clock and its grant; polling all of them whenever one changes would cost
//! more than the work.
//!
//! # Invariants
//! A wake that comes after the task has taken the reasons wakes it, and the reason of one that came before is not lost. Another
//! wake for the same reason meanwhile costs nothing.

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

/// Why a connection was woken: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WakeReasons(u8);

impl WakeReasons {
    /// The server stops.
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
pub(crate) struct ConnectionWaker {
    task: AtomicWaker,
    reasons: AtomicU8,
    moved: Mutex<Moved>,
}

/// The channels to which a head was announced, each once. The first has a field of its own, because most connections follow one topic.
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

    /// The next channel.
    pub(crate) fn next(&mut self) -> Option<ChannelId> {
        self.first.take().or_else(|| self.others.pop())
    }
}

impl ConnectionWaker {
    /// Wakes the task, unless it was woken for the same reason and has not taken it since.
    pub(crate) fn wake(&self, reason: WakeReasons) {
        if self.reasons.fetch_or(reason.0, Ordering::AcqRel) & reason.0 == 0 {
            self.task.wake();
        }
    }

    /// Takes the reasons of all wakes, and wakes `task` from now on.
    pub(crate) fn take(&self, task: &Waker) -> WakeReasons {
        self.task.register(task);
        WakeReasons(self.reasons.swap(0, Ordering::AcqRel))
    }

    /// Waits for a wake for `reason`, and leaves the other reasons. Cancel safe.
    pub(crate) async fn wait_for(&self, reason: WakeReasons) {
        poll_fn(|context| {
            self.task.register(context.waker());
            let reasons = self.reasons.fetch_and(!reason.0, Ordering::AcqRel);
            if WakeReasons(reasons).has(reason) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Takes the channels to which a head was announced.
    pub(crate) fn moved(&self) -> Moved {
        mem::take(&mut self.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A waker that wakes for `reason`.
    pub(crate) fn waker(self: &Arc<Self>, reason: WakeReasons) -> Waker {
        Waker::from(Arc::new(ReasonWaker { waker: Arc::clone(self), reason }))
    }
}

struct ReasonWaker {
    waker: Arc<ConnectionWaker>,
    reason: WakeReasons,
}

impl Wake for ReasonWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.waker.wake(self.reason);
    }
}

/// Wakes the connection for one channel to which a head was announced.
#[derive(Debug)]
pub(crate) struct ChannelWaker {
    waker: Arc<ConnectionWaker>,
    channel: ChannelId,
    woken: AtomicBool,
}

impl ChannelWaker {
    pub(crate) fn new(waker: &Arc<ConnectionWaker>, channel: ChannelId) -> Arc<Self> {
        Arc::new(Self { waker: Arc::clone(waker), channel, woken: AtomicBool::new(false) })
    }

    /// Lets it wake again. To be called before the watch is asked for its head.
    pub(crate) fn rearm(&self) {
        // A swap, and not a store: so a head that was announced before the wake which it undoes is seen by the reader.
        self.woken.swap(false, Ordering::AcqRel);
    }
}

impl Wake for ChannelWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.waker.moved.lock().unwrap_or_else(PoisonError::into_inner).add(self.channel);
            self.waker.wake(WakeReasons::MOVED);
        }
    }
}
