//! How far a follower has come: opening, sending a snapshot, or live.

use std::sync::Arc;

use crate::{
    documents::SnapshotFrom,
    position::{Cursor, Stale},
    stats::Stats,
    wire::Resume,
};

#[derive(Debug)]
pub(super) enum Phase {
    /// Where it starts is not known yet, or not whether it can start there.
    Opening {
        /// What was asked for.
        resume: Resume,
        /// Where that is, once it is known.
        at: Option<Cursor>,
    },
    /// Documents are being sent.
    Snapshot {
        /// Whether the subscriber was told where it starts. The first page tells it, unless the log was followed before.
        opened: bool,
        /// Why there is a snapshot in the place of the log, until the first page says so.
        stale: Option<Box<Stale>>,
        /// The page that comes next.
        next: SnapshotFrom,
    },
    /// It follows the log.
    Live,
}

impl Phase {
    pub(super) fn of(resume: Resume) -> Self {
        match resume {
            Resume::Snapshot => Self::Snapshot { opened: false, stale: None, next: SnapshotFrom::Start },
            Resume::After(cursor) => Self::Opening { resume, at: Some(cursor) },
            Resume::Floor | Resume::Head => Self::Opening { resume, at: None },
        }
    }

    /// Puts a snapshot in the place of a log that cannot be continued.
    pub(super) fn start_snapshot(&mut self, stale: Stale) {
        let opened = matches!(self, Self::Live | Self::Snapshot { opened: true, .. });
        *self = Self::Snapshot { opened, stale: Some(Box::new(stale)), next: SnapshotFrom::Start };
    }

    /// Starts over: the log no longer continues from the watermark of the snapshot that was under way.
    pub(super) fn restart_snapshot(&mut self) {
        if let Self::Snapshot { next, .. } = self {
            *next = SnapshotFrom::Start;
        }
    }
}

/// Counts a follower that reads from the journal and not from the tail, for as long as it does.
#[derive(Debug)]
pub(super) struct Behind(Arc<Stats>);

impl Behind {
    pub(super) fn new(stats: &Arc<Stats>, was_live: bool) -> Self {
        stats.cells.behind.change(1);
        if was_live {
            stats.cells.demotions.add(1);
        }
        Self(Arc::clone(stats))
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.0.cells.behind.change(-1);
    }
}
