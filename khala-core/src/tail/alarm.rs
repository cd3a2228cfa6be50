//! Whom the tail tells of a journal that went back.

use std::sync::Arc;

use crate::{clock::Clock, health::Part, stats::Stats};

/// What is told of a journal that went back: the figures, and the health of this node.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// Where it is noted, by topic.
    pub(crate) stats: Arc<Stats>,
    /// What tells operators, for as long as the process runs: only they can say what was lost.
    pub(crate) part: Part,
    /// When that is.
    pub(crate) clock: Arc<dyn Clock>,
}
