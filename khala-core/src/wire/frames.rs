//! The frames of one thing, such as a page: each serializer's is encoded at most once, and shared by all of its clients.

use std::sync::OnceLock;

use super::{Encoded, Serializer};

/// The frames of what is encoded at most once for each serializer.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    phoenix: [OnceLock<Encoded>; 2],
    /// Apart, because few servers have such clients.
    realtime: OnceLock<Box<[OnceLock<Encoded>; 2]>>,
}

impl Frames {
    /// The frame for that serializer, which `encode` makes if nobody has asked for it before.
    pub(crate) fn get_or_encode(&self, serializer: Serializer, encode: impl FnOnce() -> Encoded) -> Encoded {
        let slot = match serializer {
            Serializer::V1 => &self.phoenix[0],
            Serializer::V2 => &self.phoenix[1],
            Serializer::RealtimeV1 => &self.realtime.get_or_init(Box::default)[0],
            Serializer::RealtimeV2 => &self.realtime.get_or_init(Box::default)[1],
        };
        slot.get_or_init(encode).clone()
    }
}
