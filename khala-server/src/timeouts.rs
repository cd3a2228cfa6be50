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
    time::{Duration, Instant},
};

use khala_core::clock::{SystemClock, within};
use tokio::time::{Sleep, sleep};

/// In how many parts.
pub(crate) const PARTS: u32 = 4;

/// It was not done in time.
#[derive(Debug)]
pub(crate) struct Late;

/// [`tokio::time::timeout`], in parts.
pub(crate) async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Late> {
    within(&SystemClock::new(), limit, work).await.ok_or(Late)
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
        let part = (limit / PARTS).max(Duration::from_millis(1));
        Self { part, left: PARTS, sleep: Box::pin(sleep(part)) }
    }
}

impl Future for InParts {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while self.left > 0 {
            ready!(self.sleep.as_mut().poll(cx));
            self.left -= 1;
            let next = tokio::time::Instant::now() + self.part;
            self.sleep.as_mut().reset(next);
        }
        Poll::Ready(())
    }
}

impl hyper::rt::Sleep for InParts {}

/// What hyper waits by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PatientTimer;

impl hyper::rt::Timer for PatientTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(InParts::new(duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_uses_up_one_part() {
        let mut wait = Box::pin(InParts::new(Duration::from_secs(40)));
        assert!(timeout(Duration::ZERO, &mut wait).await.is_err());
        advance(Duration::from_secs(66)).await;
        assert!(timeout(Duration::from_secs(29), &mut wait).await.is_err());
        assert!(timeout(Duration::from_secs(2), &mut wait).await.is_ok());
    }
}
