//! What the generator can be told to do with a server that keeps updates.

use serde::{Deserialize, Serialize};

use crate::comparison::wire::log::Protocol;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "snake_case")]
pub(in crate::comparison) enum Command {
    /// Close what is open, connect these, and wait until all are ready.
    Open(Open),
    /// Append, read, or both at once.
    Work(Work),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::comparison) struct Open {
    pub(in crate::comparison) protocol: Protocol,
    pub(in crate::comparison) payload_bytes: usize,
    /// Connections that append, and how many updates each has under way.
    pub(in crate::comparison) appenders: usize,
    pub(in crate::comparison) window: usize,
    /// The number of the topic that they append to.
    pub(in crate::comparison) append_to: usize,
    /// Connections that read, and the number of the topic that they read.
    pub(in crate::comparison) readers: usize,
    pub(in crate::comparison) read_from: usize,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(in crate::comparison) struct Work {
    pub(in crate::comparison) append: Option<Amount>,
    pub(in crate::comparison) read: Option<Read>,
}

/// How much is appended, as fast as it goes. What was begun is waited for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::comparison) enum Amount {
    Seconds(f64),
    Updates(u64),
}

/// What each reader reads: all begin at once.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::comparison) struct Read {
    /// The number of the first update, counted from 0.
    pub(in crate::comparison) first: u64,
    /// How many there are from there to the end.
    pub(in crate::comparison) count: u64,
    pub(in crate::comparison) order: Order,
    /// Whether a reader that has all begins anew, for as long as updates are appended.
    pub(in crate::comparison) again: Again,
}

/// In which order updates were appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::comparison) enum Order {
    /// Over several connections, so any: each has to come once.
    Any,
    /// In that of their numbers.
    ByNumber,
}

/// When a reader that has everything begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::comparison) enum Again {
    AtOnce,
    /// That many seconds after it began, or at once if that is over; readers begin one after the other within that time.
    Every(f64),
    Never,
}
