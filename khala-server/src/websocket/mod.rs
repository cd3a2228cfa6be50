//! WebSockets: from a request to a connection of the core, and its frames.

mod frame_queue;
mod token;
mod transport;
pub(crate) mod upgrade;

pub(crate) use self::upgrade::{Open, serializer, upgrade, upgrade_realtime, verify};
