//! The clock: where a running host gets its time from, and its hands for what nobody waits for any more. The engine asks it;
//! nothing else in the core knows one.
//!
//! There are two times. What is a date, such as the end of a token or the moment of an update, is a [`Timestamp`] of the
//! wall clock. What is judged by how much time has passed is a [`Moment`] of a clock that nobody can set.
//!
//! # Invariants
//! - A step of the wall clock makes nobody silent, late, due or fresh: only dates move with it.
//! - A limit of time counts the time in which this process runs: a pause of the process uses up no more than a part of it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use pin_project_lite::pin_project;

use crate::update::Timestamp;

#[cfg(feature = "system-clock")]
mod system;

#[cfg(feature = "system-clock")]
pub use self::system::SystemClock;

/// In how many parts [`within`] waits: a pause counts for one of them at most.
const PARTS: u32 = 5;

/// Time for the engine: what it is, and waiting for it.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The date now, by the wall clock. It may be set forward and back.
    fn now(&self) -> Timestamp;

    /// The moment now, by a clock that never goes back and that nobody sets.
    fn moment(&self) -> Moment;

    /// Ready once that much time has passed. Cancel safe.
    async fn sleep(&self, duration: Duration);

    /// Drives `work` to its end, beside everything else: somebody has begun it and stopped waiting for it.
    ///
    /// It is called where a future is dropped, perhaps outside of any runtime. Work that cannot be driven any more, as when the
    /// process ends, may be dropped: what it was to tell of is then found by polling.
    fn finish(&self, work: BoxFuture<'static, ()>);
}

impl dyn Clock {
    /// What both clocks say now.
    pub fn read(&self) -> Now {
        Now { wall: self.now(), steady: self.moment() }
    }
}

/// A moment of this process, by a clock that never goes back: milliseconds since a fixed origin that lies long before the
/// process began.
///
/// Moments of two processes cannot be compared, and one is no date. The default is the origin: before any moment that a
/// clock gives, by more than any interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment that many milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this moment is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment that much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The moment that much earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What both clocks say at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "there are two clocks")]
pub struct Now {
    /// The date.
    pub wall: Timestamp,
    /// The moment.
    pub steady: Moment,
}

impl Now {
    /// When the wall clock will show `date` if nobody sets it; now, if it did already.
    pub fn moment_of(self, date: Timestamp) -> Moment {
        self.steady.plus(date.since(self.wall))
    }
}

/// Waits for `work`, and gives none if it is not done within `limit`.
///
/// The limit is waited for in parts, and `work` is looked at after each. So when the process or the machine stood still,
/// what has come meanwhile is seen before the limit is over. It is looked at twice, the second time when the rest of its task had its
/// turn, before the clock is asked for a timer, and the limit begins there: most work is done by then.
///
/// # Cancellation
/// As that of `work`.
pub fn within<F: Future>(clock: &dyn Clock, limit: Duration, work: F) -> Within<'_, F> {
    Within {
        work,
        clock,
        part: (limit / PARTS).max(Duration::from_millis(1)),
        left: PARTS,
        looked: false,
        sleep: None,
    }
}

pin_project! {
    /// What [`within`] gives.
    #[must_use = "futures do nothing unless polled"]
    pub struct Within<'a, F> {
        #[pin]
        work: F,
        clock: &'a dyn Clock,
        part: Duration,
        left: u32,
        looked: bool,
        sleep: Option<BoxFuture<'a, ()>>,
    }
}

impl<F: fmt::Debug> fmt::Debug for Within<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Within")
            .field("work", &self.work)
            .field("left", &(self.part * self.left))
            .finish_non_exhaustive()
    }
}

impl<F: Future> Future for Within<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let Poll::Ready(done) = this.work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            if *this.left == 0 {
                return Poll::Ready(None);
            }
            // As the body of a request that came with its head: its connection hands it over between the two looks.
            if !std::mem::replace(this.looked, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let (clock, part) = (*this.clock, *this.part);
            ready!(this.sleep.get_or_insert_with(|| clock.sleep(part)).as_mut().poll(context));
            *this.sleep = None;
            *this.left -= 1;
        }
    }
}
