//! What a subscriber asks once its topic's journal went back: whether what it follows is what is lost.
//!
//! Heads do not show that a subscriber behind the head follows lost updates. So its next question says when the update was
//! published that it was sent last, as a start may. Pure, but for a look at the tail.
//!
//! # Invariants
//! - With no evidence of a journal that went back, a question costs one look at a number.
//! - A follower that was sent no update yet has nothing to say. It starts again where other updates were found in the place of
//!   known ones; where the head was lower, what it stands behind is kept.

use super::question::{Answer, Question};
use crate::{
    documents::SnapshotFrom,
    error::Error,
    position::{Cursor, Stale},
    tail::{FollowResult, Freshness, HeldTopic, TailJournal},
    topic::Topic,
    update::Timestamp,
};

/// What the tail has of the topic that is followed, and the newest evidence that its journal went back, as that was when
/// what is followed was last known to be kept.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    tail: Option<HeldTopic>,
    known: u64,
}

impl Evidence {
    /// What the tail has of the topic, once it has something.
    pub(crate) fn tail(&self) -> Option<&HeldTopic> {
        self.tail.as_ref()
    }

    /// The question to ask in the place of `question`, by a follower whose last update was published at `published_at`.
    ///
    /// # Errors
    /// [`Stale`], where nothing need be asked.
    pub(crate) fn doubt(
        &mut self,
        journal: &TailJournal,
        topic: &Topic,
        question: Question,
        published_at: Option<Timestamp>,
    ) -> Result<Question, Stale> {
        if let Question::Access(_) = question {
            return Ok(question);
        }
        if self.tail.is_none() {
            self.tail = journal.held(topic);
        }
        let Some(tail) = &self.tail else { return Ok(question) };
        let evidence = tail.evidence();
        match question {
            Question::Read { cursor, wanted } if evidence != self.known => {
                let before = std::mem::replace(&mut self.known, evidence);
                if published_at.is_some() {
                    return Ok(Question::Resume { cursor, wanted, budget: None, published_at });
                }
                match tail.regrown_since(before) {
                    Some(bounds) => Err(Stale::of_another_history(cursor, bounds)),
                    None => Ok(Question::Read { cursor, wanted }),
                }
            }
            Question::Bounds { .. } | Question::Resume { .. } | Question::Snapshot(SnapshotFrom::Start) => {
                self.known = evidence;
                Ok(question)
            }
            question => Ok(question),
        }
    }

    /// The question was not answered: what was doubted still is.
    pub(crate) fn unanswered(&mut self) {
        if self.known > 0 {
            self.known = u64::MAX;
        }
    }

    /// The question to ask again where the journal went back while a page was on its way, which may continue what is lost; none
    /// where the answer stands. `cursor` and `published_at` say where the follower is.
    pub(crate) fn doubt_answer(
        &mut self,
        journal: &TailJournal,
        topic: &Topic,
        (cursor, published_at): (Option<Cursor>, Option<Timestamp>),
        answer: &Result<Answer, Error>,
    ) -> Option<Result<Question, Stale>> {
        let Ok(Answer::Read(FollowResult::Page { .. })) = answer else { return None };
        let is_newer = self.tail.as_ref().is_some_and(|tail| tail.evidence() != self.known);
        let cursor = cursor.filter(|_| is_newer)?;
        let question = Question::Read { cursor, wanted: Freshness::default() };
        match self.doubt(journal, topic, question, published_at) {
            Ok(question @ Question::Resume { .. }) => Some(Ok(question)),
            Ok(_) => None,
            Err(stale) => Some(Err(stale)),
        }
    }
}
