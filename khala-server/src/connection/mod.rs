//! Accepted connections: how many there may be, and how long each may stand still.

mod limits;
mod timeout_stream;

pub(crate) use self::{
    limits::{ConnectionLimits, ConnectionPermit, Refusal},
    timeout_stream::{Accepted, ClientTimes, Requests, linger},
};
