//! What a subscriber asks once its topic's journal went back: whether what it follows is what is lost.
//!
//! Heads do not show that a subscriber behind the head follows lost updates. So its next question says when the update was
//! published that it was sent last, as a start may. Pure, but for a look at the tail.
//!
//! # Invariants
//! - With no evidence of a journal that went back, a question costs one look at a number.
//! - A follower that was sent no update yet cannot say when one was published. It is stale where other updates were found in the
//!   place of known ones. Where only the head was lower, the updates before its cursor are kept, and it goes on.
//! - What was doubted is asked until it is answered: a question that is withdrawn, fails or loses its answer is doubted again.

use super::question::{Answer, Question};
use crate::{
    documents::SnapshotFrom,
    error::Error,
    position::{Cursor, Stale},
    tail::{FollowResult, Freshness, HeldTopic, TailJournal},
    topic::Topic,
    update::Timestamp,
};

/// What the tail has of the topic that is followed, and how much of the evidence that its journal went back was asked about.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    tail: Option<HeldTopic>,
    /// The newest evidence that a question was asked about.
    known: u64,
    /// That question was not answered, so it has to be asked again.
    doubted: bool,
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
            Question::Read { cursor, wanted } if evidence != self.known || self.doubted => {
                let before = std::mem::replace(&mut self.known, evidence);
                self.doubted = false;
                if published_at.is_some() {
                    return Ok(Question::Resume { cursor, wanted, budget: None, published_at });
                }
                match tail.regrown_since(before) {
                    Some(bounds) => Err(Stale::of_another_history(cursor, bounds)),
                    None => Ok(Question::Read { cursor, wanted }),
                }
            }
            Question::Bounds { .. } | Question::Resume { .. } | Question::Snapshot(SnapshotFrom::Start) => {
                (self.known, self.doubted) = (evidence, false);
                Ok(question)
            }
            question => Ok(question),
        }
    }

    /// The last question was withdrawn, failed, or its answer was dropped: what was doubted still is.
    pub(crate) fn unanswered(&mut self) {
        self.doubted = self.known > 0;
    }

    /// The question to ask again if the journal went back while a page was being read: the page may continue lost updates. None if
    /// the answer holds. `cursor` and `published_at` say where the follower is.
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
