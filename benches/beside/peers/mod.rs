//! How each server is started, with which settings, and what has to be said of it.
//!
//! Settings differ from a server's defaults only so that nobody drops subscribers or updates within the load (limits of
//! buffers and rates), and so that there are no pings meanwhile, which the generator does not answer.

mod floor;
pub(super) mod khala;
mod mosquitto;
mod nats;
pub(super) mod nodes;
mod redis;
mod scripts;
mod sockudo;

use super::{child::Server, row::Role, tools::Tools, wire::Speech};
use crate::crowd::{During as _, Failure};

/// A server that fans updates out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) role: Role,
    pub(super) over: &'static str,
    pub(super) durability: &'static str,
    /// Whether a subscriber that comes back gets what it missed.
    pub(super) keeps_history: bool,
    /// Starts it; gives how it is spoken to.
    pub(super) start: fn(&Tools) -> Result<(Server, Speech), Failure>,
}

/// Everybody who fans out, floors first, where each update of the publisher's is worth looking at.
pub(super) fn all_and_posts() -> Vec<Peer> {
    let mut peers = all();
    peers.insert(3, khala::KHALA_POSTS);
    peers
}

/// Everybody who fans out, floors first.
pub(super) fn all() -> Vec<Peer> {
    vec![
        floor::EACH,
        floor::COALESCED,
        khala::KHALA,
        scripts::BUN,
        scripts::WS,
        scripts::SOCKET_IO,
        sockudo::SOCKUDO,
        nats::NATS,
        redis::REDIS,
        mosquitto::MOSQUITTO,
    ]
}

/// Starts each of these once, as far as it fans out, and ends it: so that what is missing is found out before hours were spent on the others.
pub(super) fn try_out(tools: &Tools, names: &[&str]) -> Result<(), Failure> {
    for peer in all().into_iter().chain(nodes::ALL).filter(|peer| names.contains(&peer.name)) {
        (peer.start)(tools).during(peer.name)?;
    }
    Ok(())
}
