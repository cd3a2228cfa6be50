//! Random numbers that can be had again: everything random in a run comes from its seed (SplitMix64).

use std::{ops::RangeInclusive, time::Duration};

use khala_testing::{During as _, Failure};

/// The seed that was given, or else one that nobody knows.
///
/// # Errors
/// The system has none.
pub fn seed(given: Option<u64>) -> Result<u64, Failure> {
    match given {
        Some(seed) => Ok(seed),
        None => Ok(u64::from(getrandom::u32().during("drawing a seed")?)),
    }
}

/// A stream of numbers.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream that begins with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number of that range.
    pub fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    /// A pause of up to that many milliseconds, to the microsecond.
    pub fn pause(&mut self, millis: u64) -> Duration {
        Duration::from_micros(self.number(0..=millis * 1000))
    }
}
