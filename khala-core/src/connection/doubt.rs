//! What a channel asks once its topic's journal went back: whether what it follows is what is lost.
//!
//! A reader that stands behind the head is not shown by heads to follow updates that are lost. So its next question says when
//! the update was published that it was sent last, as a join may. Pure, but for a look at the tail.
//!
//! # Invariants
//! - With no evidence of a journal that went back, a question costs one look at a number.
//! - A channel that was sent no update yet has nothing to say. It starts again where other updates were found in the place of
//!   known ones; where the head was lower, what it stands behind is kept.

use crate::{
    documents::SnapshotFrom, position::Stale, session::Question, tail::HeldTopic, update::Timestamp,
};

/// The question to ask in the place of `question`, by a channel whose last update was published at `published_at`, and that
/// asked last with the evidence `known`.
///
/// # Errors
/// [`Stale`], where nothing need be asked.
pub(super) fn doubt(
    question: Question,
    published_at: Option<Timestamp>,
    tail: &HeldTopic,
    known: &mut u64,
) -> Result<Question, Stale> {
    let evidence = tail.evidence();
    match question {
        Question::Read { cursor, wanted } if evidence != *known => {
            let before = std::mem::replace(known, evidence);
            if published_at.is_some() {
                return Ok(Question::Resume { cursor, wanted, budget: None, published_at });
            }
            match tail.regrown_since(before) {
                Some(bounds) => Err(Stale::of_another_history(cursor, bounds)),
                None => Ok(Question::Read { cursor, wanted }),
            }
        }
        Question::Bounds { .. } | Question::Resume { .. } | Question::Snapshot(SnapshotFrom::Start) => {
            *known = evidence;
            Ok(question)
        }
        question => Ok(question),
    }
}
