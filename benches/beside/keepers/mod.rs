//! How each server that keeps updates is started, with which settings, and when it says that it has one.
//!
//! Settings differ from a server's defaults only in when it syncs, which each names, and so that nobody is dropped or limited
//! within the load. A server can be started again in its folder, with what it kept.

mod durable_streams;
mod jetstream;
mod khala;
mod redis;

pub(super) use self::{
    durable_streams::DURABLE_STREAMS,
    jetstream::{JETSTREAM, JETSTREAM_SYNCED},
    khala::{KHALA, KHALA_POSTGRES, cluster, journal_reads},
    redis::{REDIS, REDIS_ALWAYS, REDIS_EVERYSEC},
};
use super::{child::Server, row::Role, tools::Tools, wire::log::Speech};
use crate::crowd::{During as _, Failure};

/// A server that keeps updates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeper {
    pub(super) name: &'static str,
    pub(super) role: Role,
    /// What appenders speak, and what readers do.
    pub(super) append_over: &'static str,
    pub(super) read_over: &'static str,
    /// What it has done when it acknowledges an update.
    pub(super) durability: &'static str,
    /// Where it reads from when it was just started.
    pub(super) reads_from: &'static str,
    /// Whether it is started anew before it is read from, so that it has nothing in memory.
    pub(super) starts_cold: bool,
    /// So many updates go into one request where a topic is filled, because there is no other quick way.
    pub(super) fill_batch: usize,
    /// Starts it; gives how it is spoken to.
    pub(super) start: fn(&Tools, &mut Server) -> Result<Speech, Failure>,
}

/// Everybody.
const ALL: [Keeper; 8] = [
    KHALA,
    KHALA_POSTGRES,
    REDIS,
    REDIS_ALWAYS,
    REDIS_EVERYSEC,
    JETSTREAM,
    JETSTREAM_SYNCED,
    DURABLE_STREAMS,
];

/// Starts each of these once, and ends it: what is missing is found out before hours were spent on the others.
pub(super) fn try_out(tools: &Tools, names: &[&str]) -> Result<(), Failure> {
    for keeper in ALL.into_iter().filter(|keeper| names.contains(&keeper.name)) {
        let mut server = Server::new(tools.target())?;
        (keeper.start)(tools, &mut server).during(keeper.name)?;
    }
    Ok(())
}
