//! What the generator can be told, and what it answers: a line of JSON each, on its standard input and output.

use serde::{Deserialize, Serialize};

use crate::comparison::{sample::Latency, wire::Protocol};

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(in crate::comparison) enum Command {
    /// Connect subscribers, each to one topic in turn, and the publisher; wait until all are ready.
    Open(Open),
    /// Publish, to all topics in turn, until the time is over, and wait until all have all of it.
    Publish(Publish),
    /// Cut all subscribers' connections, at once.
    Cut,
    /// Of servers that keep what they are given: see there.
    Log(super::log::command::Command),
    /// Connect them again, at once; wait until all are ready, and have what they missed where the server keeps it.
    Return,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::comparison) struct Open {
    pub(in crate::comparison) protocol: Protocol,
    pub(in crate::comparison) topics: usize,
    pub(in crate::comparison) subscribers: usize,
    pub(in crate::comparison) payload_bytes: usize,
    /// As many connections may be under way that the server has not answered yet: servers have short queues for those.
    pub(in crate::comparison) at_once: usize,
    /// Whether a publisher is connected, too.
    pub(in crate::comparison) publishes: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::comparison) struct Publish {
    pub(in crate::comparison) pace: Pace,
    pub(in crate::comparison) seconds: f64,
}

/// How quickly.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::comparison) enum Pace {
    /// That many updates a second, each due at its time, whatever became of the updates before it.
    Rate(f64),
    /// As quickly as it goes, with at most that many updates that not all of their subscribers have.
    Window(usize),
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::comparison) struct Done {
    /// Updates that were published.
    pub(in crate::comparison) published: u64,
    /// Updates that arrived, each once for each subscriber.
    pub(in crate::comparison) delivered: u64,
    /// Updates that should have arrived and have not.
    pub(in crate::comparison) lost: u64,
    /// Updates that arrived again, or after a later one.
    pub(in crate::comparison) disordered: u64,
    /// From the first thing done to the last thing awaited.
    pub(in crate::comparison) wall_seconds: f64,
    /// Processor time of the generator for that.
    pub(in crate::comparison) cpu_seconds: f64,
    /// From when an update was due until a subscriber had it; of [`Command::Return`], until a subscriber was back.
    pub(in crate::comparison) latency: Option<Latency>,
}

/// The answer to a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::comparison) enum Answer {
    Done(Done),
    Failed(String),
}
