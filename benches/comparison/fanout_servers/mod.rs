//! How each server is started, with which settings, and what has to be said of it.
//!
//! Settings differ from a server's defaults only so that nobody drops subscribers or updates within the load (limits of
//! buffers and rates), and so that there are no pings meanwhile, which the generator does not answer.

mod floor;
pub(super) mod khala;
mod mosquitto;
mod nats;
pub(super) mod nodes;
mod npm;
mod redis;
mod sockudo;

use khala_testing::{During as _, Failure};

use super::{
    sample::Sample,
    server::Server,
    tools::Tools,
    wire::Protocol,
    workload::{Competitor, Role},
};

/// A server that fans updates out.
#[derive(Clone, Copy, Debug)]
pub(super) struct FanoutServer {
    pub(super) name: &'static str,
    pub(super) role: Role,
    pub(super) over: &'static str,
    pub(super) durability: &'static str,
    /// Whether a subscriber that comes back gets what it missed.
    pub(super) keeps_history: bool,
    /// Starts it; gives how it is spoken to.
    pub(super) start: fn(&Tools) -> Result<(Server, Protocol), Failure>,
}

impl FanoutServer {
    /// Takes part with what `measure` measures.
    pub(super) fn competitor(
        self,
        measure: impl Fn(&Tools, Self) -> Result<Sample, Failure> + 'static,
    ) -> Competitor {
        let Self { name, role, over, durability, .. } = self;
        Competitor { name, role, over, durability, measure: Box::new(move |tools| measure(tools, self)) }
    }
}

/// Everybody who fans out, floors first, where each update of the publisher's is worth looking at.
pub(super) fn all_and_posts() -> Vec<FanoutServer> {
    let mut servers = all();
    servers.insert(3, khala::KHALA_POSTS);
    servers
}

/// Everybody who fans out, floors first.
pub(super) fn all() -> Vec<FanoutServer> {
    vec![
        floor::EACH,
        floor::COALESCED,
        khala::KHALA,
        npm::BUN,
        npm::SOCKET_IO,
        sockudo::SOCKUDO,
        nats::NATS,
        redis::REDIS,
        mosquitto::MOSQUITTO,
    ]
}

/// Starts each of these once, as far as it fans out, and ends it: so that what is missing is found out before hours were spent on the others.
pub(super) fn try_out(tools: &Tools, names: &[&str]) -> Result<(), Failure> {
    for server in all().into_iter().chain(nodes::ALL).filter(|server| names.contains(&server.name)) {
        (server.start)(tools).during(server.name)?;
    }
    Ok(())
}
