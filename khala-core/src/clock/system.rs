//! The operating system's time, on tokio: the one place in the core that reads a clock, for hosts that bring none.
#![expect(clippy::disallowed_methods, reason = "this file is the gate in the fence")]

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{Clock, Moment};
use crate::update::Timestamp;

/// Where the moments of a process begin: more than thirty years after their origin.
const BEGIN: Moment = Moment::from_millis(1 << 40);

/// The operating system's wall clock and monotonic clock, tokio's timer, and the runtime in which something was dropped.
///
/// On Linux the monotonic clock goes on while the process is stopped, and stands still while the machine sleeps. So does
/// tokio's timer.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemClock;

impl SystemClock {
    /// The clock.
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock set before 1970 reads as 1970: dates are for ages and expiries, never for order.
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    fn moment(&self) -> Moment {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        BEGIN.plus(BEGAN.get_or_init(Instant::now).elapsed())
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn finish(&self, work: BoxFuture<'static, ()>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(work);
        }
    }
}
