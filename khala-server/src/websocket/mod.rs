//! WebSockets: from a request to a connection of the core, and its frames.

mod frame_queue;
mod token;
mod transport;
mod upgrade;

pub(crate) use self::upgrade::upgrade;
