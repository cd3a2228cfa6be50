//! The clock: where a running host gets its time from. The engine asks it; nothing else in the core knows one.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::update::Timestamp;

#[cfg(feature = "system-clock")]
mod system;

#[cfg(feature = "system-clock")]
pub use self::system::SystemClock;

/// Time for the engine: what it is, and waiting for it.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Ready once that much time has passed. Cancel safe.
    async fn sleep(&self, duration: Duration);
}
