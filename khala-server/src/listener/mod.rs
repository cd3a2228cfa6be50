//! Accepting connections: how many, how long each may stand still, whose address counts, and the order in which all of it stops.

mod client_address;
mod connection_limits;
mod serve;
mod timeout_stream;
mod timeouts;

pub use self::serve::serve;
pub(crate) use self::{
    client_address::client,
    connection_limits::{Refusal, RequestCounts, Sockets},
    timeout_stream::Accepted,
    timeouts::{PARTS, timeout},
};
