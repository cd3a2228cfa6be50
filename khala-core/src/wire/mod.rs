//! The wire: Phoenix Channels frames (serializers V2 and V1), and the JSON of everything inside them.
//!
//! PROTOCOL.md is the normative text; this is its only implementation, in both directions. What is on the hot
//! path (updates) is written by hand from text that was checked when it came in; all else is serde.

mod codes;
mod encoded;
mod frame;
mod frames;
mod json;
mod messages;
mod path;

pub use self::{
    codes::{Close, Code},
    encoded::Encoded,
    frame::{Frame, FrameError, Ref, Serializer, event},
    json::{write_document_page, write_page, write_update},
    messages::{
        ErrorResponse, Head, JoinRequest, Joined, OnStale, Resume, SnapshotBatch, StaleCursor, UpdateBatch,
        WireUpdate,
    },
    path::{PathPrefix, snapshot_path},
};
pub(crate) use self::{frame::PHOENIX, frames::Frames, json::write_batch};
