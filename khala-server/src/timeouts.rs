//! How long others are waited for: in parts, so that a pause of this process or machine uses up one part at most.
//!
//! After a pause every timer is due at once, and the sockets, in which there is what the others sent meanwhile, are looked at
//! later.
//!
//! # Invariants
//! - Nobody is given up by the first look after a pause.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::FutureExt as _;
use khala_core::clock::{SystemClock, within};
use tokio::time::{Instant, Sleep, sleep};

/// In how many parts.
pub(crate) const PARTS: u32 = 4;

/// It was not done in time.
#[derive(Debug)]
pub(crate) struct Late;

/// [`tokio::time::timeout`], in parts.
pub(crate) fn timeout<F: Future>(limit: Duration, work: F) -> impl Future<Output = Result<F::Output, Late>> {
    static CLOCK: SystemClock = SystemClock::new();
    within(&CLOCK, limit, work).map(|done| done.ok_or(Late))
}

/// [`tokio::time::sleep`], in parts: its caller looks at something else before each poll.
#[derive(Debug)]
pub(crate) struct InParts {
    part: Duration,
    left: u32,
    sleep: Pin<Box<Sleep>>,
}

impl InParts {
    pub(crate) fn new(limit: Duration) -> Self {
        let part = part_of(limit);
        Self { part, left: PARTS, sleep: Box::pin(sleep(part)) }
    }

    /// Begins anew now, with another limit.
    pub(crate) fn restart(&mut self, limit: Duration) {
        self.part = part_of(limit);
        self.left = PARTS;
        self.sleep.as_mut().reset(Instant::now() + self.part);
    }

    /// Counts all parts again, with the one under way as the first: to be called when a part has just begun.
    pub(crate) fn extend(&mut self) {
        self.left = PARTS;
    }

    /// Ready at the end of each part, with how many are left.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<u32> {
        ready!(self.sleep.as_mut().poll(cx));
        self.left = self.left.saturating_sub(1);
        self.sleep.as_mut().reset(Instant::now() + self.part);
        Poll::Ready(self.left)
    }
}

fn part_of(limit: Duration) -> Duration {
    (limit / PARTS).max(Duration::from_millis(1))
}

impl Future for InParts {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while ready!(self.poll_part(cx)) > 0 {}
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    /// Outside of a runtime there is no timer to be had.
    #[test]
    fn what_is_done_at_the_second_look_needs_no_timer() {
        let mut looks = 0;
        let work = std::future::poll_fn(|_| {
            looks += 1;
            if looks == 2 { Poll::Ready(7) } else { Poll::Pending }
        });
        let mut done = Box::pin(super::timeout(Duration::from_secs(1), work));
        assert!((&mut done).now_or_never().is_none());
        assert_eq!(done.now_or_never().map(Result::ok), Some(Some(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_done_is_looked_at_once_more_at_the_end() {
        let (done, work) = tokio::sync::oneshot::channel::<()>();
        let mut late = Box::pin(super::timeout(Duration::from_secs(40), work));
        assert!(timeout(Duration::from_secs(39), &mut late).await.is_err());
        drop(done);
        assert!(late.await.is_ok(), "it ended in time");
        let never = super::timeout(Duration::from_secs(40), std::future::pending::<()>());
        let begun = Instant::now();
        assert!(never.await.is_err());
        assert_eq!(begun.elapsed().as_secs(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_uses_up_one_part() {
        let mut wait = Box::pin(InParts::new(Duration::from_secs(40)));
        assert!(timeout(Duration::ZERO, &mut wait).await.is_err());
        advance(Duration::from_secs(66)).await;
        assert!(timeout(Duration::from_secs(29), &mut wait).await.is_err());
        assert!(timeout(Duration::from_secs(2), &mut wait).await.is_ok());
    }
}
