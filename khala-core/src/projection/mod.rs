//! Projections: an ordered source, folded into documents. So far, where each stands: its checkpoints.
//!
//! A source is a topic, or the application's own events; what it is about is told apart by entity. What must stay
//! true: a checkpoint says how much of the source its document holds, so the two are written together or not at all.

mod checkpoints;

pub use self::checkpoints::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName};
