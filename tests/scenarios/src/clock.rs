//! One clock for publisher and clients, which share the process: microseconds since it was first read.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

static START: OnceLock<Instant> = OnceLock::new();

/// Now.
pub(crate) fn micros() -> u64 {
    // Half a million years fit.
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// From one moment to a later one.
pub(crate) fn between(from: u64, to: u64) -> Duration {
    Duration::from_micros(to.saturating_sub(from))
}
