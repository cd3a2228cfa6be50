//! Connections: what carries out a session's actions over a transport.

mod driver;
mod questions;
mod reads;
mod transport;
mod write;

pub use self::{
    driver::Connection,
    transport::{Progress, Received, Sent, Transport},
    write::Ended,
};
pub use crate::khala::ReadPermit;
