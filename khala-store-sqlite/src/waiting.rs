//! What waits to be written in a group with others, and its answer, which is held back until the group's commit.

use khala_core::{
    Append, Batch, Error, ErrorKind, Timestamp, Topic,
    projection::{Advance, Advanced},
    store::group_commit::GroupRequest,
};
use tokio::sync::oneshot;

use crate::{
    append::Group,
    checkpoint,
    fault::{Fault, error},
};

/// The topic whose appends panic, in tests.
#[cfg(test)]
pub(crate) const PANICS: &str = "test:panics";

/// An append or an advance, and whoever waits for it.
#[derive(Debug)]
pub(crate) enum Waiting {
    Advance { advance: Advance, now: Timestamp, answer: Answer<Advanced> },
    Append { topic: Topic, batch: Batch, now: Timestamp, answer: Answer<Append> },
}

/// An answer, once there is one, and where it goes.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    to: oneshot::Sender<Result<T, Error>>,
    held: Option<Result<T, Error>>,
}

impl<T> Answer<T> {
    pub(crate) fn new() -> (Self, oneshot::Receiver<Result<T, Error>>) {
        let (to, answered) = oneshot::channel();
        (Self { to, held: None }, answered)
    }

    fn tell(self) {
        let nothing = || Err(error(ErrorKind::Corrupt, "no answer to a request"));
        // Who has stopped waiting learns of it by a dedup key, by asking again or by reading.
        let _ = self.to.send(self.held.unwrap_or_else(nothing));
    }
}

impl GroupRequest for Waiting {
    fn batch(&self) -> Option<&Batch> {
        match self {
            Self::Advance { advance, .. } => advance.batch.as_ref().map(|(_, batch)| batch),
            Self::Append { batch, .. } => Some(batch),
        }
    }

    fn is_given_up(&self) -> bool {
        match self {
            Self::Advance { answer, .. } => answer.to.is_closed(),
            Self::Append { answer, .. } => answer.to.is_closed(),
        }
    }

    fn fail(self, error: Error) {
        if let Some(batch) = self.batch() {
            batch.break_chain();
        }
        match self {
            Self::Advance { answer, .. } => Answer { held: Some(Err(error)), ..answer }.tell(),
            Self::Append { answer, .. } => Answer { held: Some(Err(error)), ..answer }.tell(),
        }
    }
}

impl Waiting {
    /// Writes it if nothing speaks against it, and holds its answer back.
    pub(crate) fn write(&mut self, group: &mut Group<'_>) -> Result<(), Fault> {
        match self {
            Self::Advance { advance, now, answer } => {
                answer.held = Some(checkpoint::advance(group, advance, *now)?);
            }
            Self::Append { topic, batch, now, answer } => {
                #[cfg(test)]
                assert_ne!(topic.as_str(), PANICS, "on purpose");
                answer.held = Some(group.append(topic, batch, *now)?);
            }
        }
        Ok(())
    }

    /// Gives the answer that was held back.
    pub(crate) fn tell(self) {
        match self {
            Self::Advance { answer, .. } => answer.tell(),
            Self::Append { answer, .. } => answer.tell(),
        }
    }
}
