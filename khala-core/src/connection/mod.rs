//! Connections: what carries out a session's actions over a transport, and answers its questions.

mod answer;
mod doubt;
mod driver;
mod transport;
mod write;

pub use self::{
    answer::HistoryTurn,
    driver::{Connection, Ended},
    transport::{Progress, Received, Sent, Transport},
};
