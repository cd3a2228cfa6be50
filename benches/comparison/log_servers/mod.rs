//! How each server that keeps updates is started, with which settings, and when it says that it has one.
//!
//! Settings differ from a server's defaults only in when it syncs, which each names, and so that nobody is dropped or limited
//! within the load. A server can be started again in its folder, with what it kept.

mod jetstream;
mod khala;
mod redis;

pub(super) use self::{
    jetstream::{JETSTREAM, JETSTREAM_SYNCED},
    khala::{KHALA, KHALA_POSTGRES, cluster, journal_reads},
    redis::{REDIS, REDIS_ALWAYS, REDIS_EVERYSEC},
};
use khala_testing::{During as _, Failure};

use super::{
    sample::Sample,
    server::Server,
    tools::Tools,
    wire::log::Protocol,
    workload::{Competitor, Role},
};

/// A server that keeps updates.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogServer {
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
    /// Starts it; gives how it is spoken to.
    pub(super) start: fn(&Tools, &mut Server) -> Result<Protocol, Failure>,
}

/// Everybody.
const ALL: [LogServer; 7] =
    [KHALA, KHALA_POSTGRES, REDIS, REDIS_ALWAYS, REDIS_EVERYSEC, JETSTREAM, JETSTREAM_SYNCED];

impl LogServer {
    /// Takes part with what `measure` measures; that is spoken to over `over`, and `durability` says what has to be said of it.
    pub(super) fn competitor(
        self,
        over: &'static str,
        durability: &'static str,
        measure: impl Fn(&Tools, Self) -> Result<Sample, Failure> + 'static,
    ) -> Competitor {
        let Self { name, role, .. } = self;
        Competitor { name, role, over, durability, measure: Box::new(move |tools| measure(tools, self)) }
    }
}

/// Starts each of these once, and ends it: what is missing is found out before hours were spent on the others.
pub(super) fn try_out(tools: &Tools, names: &[&str]) -> Result<(), Failure> {
    for log_server in ALL.into_iter().filter(|log_server| names.contains(&log_server.name)) {
        let mut server = Server::new(tools.target())?;
        (log_server.start)(tools, &mut server).during(log_server.name)?;
    }
    Ok(())
}
