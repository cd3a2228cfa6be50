//! Connections: what carries out a session's actions over a transport, and answers its questions.

mod answer;
mod doubt;
mod driver;
mod questions;
mod reads;
mod transport;
mod write;

pub use self::{
    answer::ReadPermit,
    driver::Connection,
    transport::{Progress, Received, Sent, Transport},
    write::Ended,
};
