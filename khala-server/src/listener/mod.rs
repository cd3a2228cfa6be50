//! Accepting connections: how many, how long each may stand still, whose address counts, and the order in which all of it stops.

mod accepted;
mod patience;
mod proxies;
mod serve;
mod sockets;

pub use self::serve::serve;
pub(crate) use self::{
    accepted::Accepted,
    patience::{PARTS, timeout},
    proxies::client,
    sockets::{Refusal, RequestCounts, Sockets},
};
