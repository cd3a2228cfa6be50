//! The session engine, proved: rules of the wire one by one, and client-and-server pairs under random schedules.
//!
//! Time is simulated everywhere: nothing here sleeps, and nothing depends on how fast it runs.

#![expect(unreachable_pub, reason = "the modules of a test binary have nobody outside to be public to")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod ahead;
mod behind;
mod beside;
mod client;
mod clock;
mod coverage;
mod crowd;
mod driver;
mod following;
mod guards;
mod held;
mod host;
mod limits;
mod log;
mod memory;
mod model;
mod pair;
mod producer;
mod regression;
mod regrown;
mod revoked;
mod rig;
mod rules;
mod schedules;
mod starved;
mod store;
mod subscribe;
mod sweep;
mod tail;
mod trouble;
