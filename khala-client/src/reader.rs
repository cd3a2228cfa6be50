//! What to do with a batch: the reader's half of promise 2, as a value without a socket.
//!
//! Every batch says which watermark it continues from. What is at or below the reader's own is skipped; what
//! would leave a hole is not taken at all. The cursor moves only over updates that were handed out.

use khala_core::{
    Cursor, Epoch, Seq, Update, Watermark,
    wire::{Joined, UpdateBatch},
};

/// Where one subscriber stands in one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    cursor: Cursor,
}

/// What a batch brought.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fresh {
    /// The updates that follow the cursor that the reader had, in order, without a gap. May be empty.
    pub updates: Vec<Update>,
    /// How many came again and were skipped.
    pub repeated: usize,
    /// The cursor to keep once these updates are applied.
    pub cursor: Cursor,
    /// Those of the updates whose payloads stayed behind (`hydration_required`): they are null here, and to be fetched.
    pub left_out: Vec<Seq>,
}

/// A batch, or an answer to a join, that does not continue from where the reader stands. Nothing of it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Gap {
    /// It is of another history.
    #[error("the topic went from epoch {} to epoch {found}", expected.epoch)]
    Epoch {
        /// Where the reader stands.
        expected: Cursor,
        /// The epoch that was found.
        found: Epoch,
    },
    /// Updates are missing in between.
    #[error("the updates after {} up to {found} are missing", expected.watermark)]
    Hole {
        /// Where the reader stands.
        expected: Cursor,
        /// The watermark that it would have to stand at.
        found: Watermark,
    },
    /// The updates of the batch are not dense.
    #[error("a batch after {after} is not dense: {found} does not follow {}", before.as_u64())]
    NotDense {
        /// What the batch continues from.
        after: Watermark,
        /// The watermark before the break.
        before: Watermark,
        /// The seq that was found behind it.
        found: Watermark,
    },
}

impl Reader {
    /// A reader that has applied everything up to `cursor`.
    pub fn new(cursor: Cursor) -> Self {
        Self { cursor }
    }

    /// What to keep, and to come back with.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Takes the answer to a join: the log must continue from here.
    ///
    /// # Errors
    /// A [`Gap`] if it does not.
    pub fn resume(&self, joined: &Joined) -> Result<(), Gap> {
        if joined.epoch != self.cursor.epoch {
            return Err(Gap::Epoch { expected: self.cursor, found: joined.epoch });
        }
        if joined.after > self.cursor.watermark {
            return Err(Gap::Hole { expected: self.cursor, found: joined.after });
        }
        Ok(())
    }

    /// Takes a batch as a whole or not at all.
    ///
    /// # Errors
    /// A [`Gap`] if updates are missing before it or within it. The reader stays where it was.
    pub fn take(&mut self, batch: UpdateBatch) -> Result<Fresh, Gap> {
        let UpdateBatch { after, updates, .. } = batch;
        let mark = self.cursor.watermark;
        if after > mark {
            return Err(Gap::Hole { expected: self.cursor, found: after });
        }
        let mut end = after;
        for update in &updates {
            let found = update.seq.watermark();
            if end.next() != Some(update.seq) {
                return Err(Gap::NotDense { after, before: end, found });
            }
            end = found;
        }
        let repeated = updates.iter().take_while(|update| mark.covers(update.seq)).count();
        let left_out = updates
            .iter()
            .skip(repeated)
            .filter(|update| update.hydration_required)
            .map(|update| update.seq)
            .collect();
        let updates = updates.into_iter().skip(repeated).map(Update::from).collect();
        self.cursor.watermark = end.max(mark);
        Ok(Fresh { updates, repeated, cursor: self.cursor, left_out })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(number: u64) -> Cursor {
        Cursor::new(Epoch::from_bits(7), Watermark::new(number).unwrap())
    }

    fn batch(after: u64, seqs: &[u64]) -> UpdateBatch {
        let updates: Vec<_> = seqs
            .iter()
            .map(|seq| serde_json::json!({"seq": seq, "kind": "k", "payload": seq, "published_at": 0}))
            .collect();
        let head = seqs.last().copied().unwrap_or(after);
        let json =
            serde_json::json!({"after": after, "head": head, "replay_complete": true, "updates": updates});
        serde_json::from_str(&json.to_string()).unwrap()
    }

    fn seqs(updates: &[Update]) -> Vec<u64> {
        updates.iter().map(|update| update.seq.as_u64()).collect()
    }

    #[test]
    fn repeats_are_skipped_and_holes_are_not_taken() {
        let mut reader = Reader::new(at(2));
        let fresh = reader.take(batch(0, &[1, 2, 3])).unwrap();
        assert_eq!((seqs(&fresh.updates), fresh.repeated, fresh.cursor), (vec![3], 2, at(3)));
        let old = reader.take(batch(0, &[1])).unwrap();
        assert_eq!((old.updates.len(), old.cursor), (0, at(3)));
        assert_eq!(reader.take(batch(4, &[5])), Err(Gap::Hole { expected: at(3), found: at(4).watermark }));
        assert!(matches!(reader.take(batch(3, &[4, 6])), Err(Gap::NotDense { .. })));
        assert!(matches!(reader.take(batch(2, &[4])), Err(Gap::NotDense { .. })));
        assert_eq!(reader.cursor(), at(3));
    }

    #[test]
    fn a_join_continues_from_the_cursor_or_not_at_all() {
        let reader = Reader::new(at(3));
        let mark = |number| Watermark::new(number).unwrap();
        let joined = |bits, after| Joined::new(Epoch::from_bits(bits), mark(after), mark(9), mark(0));
        assert!(reader.resume(&joined(7, 3)).is_ok());
        assert!(matches!(reader.resume(&joined(8, 3)), Err(Gap::Epoch { .. })));
        assert!(matches!(reader.resume(&joined(7, 4)), Err(Gap::Hole { .. })));
    }

    proptest! {
        /// Whatever stretches of the log arrive, in whatever order and however damaged: what is handed out is a
        /// gap-free, ordered continuation, and the cursor is its end.
        #[test]
        fn what_is_handed_out_is_a_gap_free_continuation(
            start in 0u64..20,
            stretches in proptest::collection::vec((0u64..40, 0u64..8, proptest::option::of(0usize..8)), 0..60),
        ) {
            let mut reader = Reader::new(at(start));
            let mut out = Vec::new();
            for (after, length, lost) in stretches {
                let mut seqs: Vec<u64> = (after + 1..=after + length).collect();
                if let Some(lost) = lost.filter(|lost| *lost < seqs.len()) {
                    seqs.remove(lost);
                }
                let before = reader.cursor();
                match reader.take(batch(after, &seqs)) {
                    Ok(fresh) => {
                        out.extend(fresh.updates.iter().map(|update| update.seq));
                        prop_assert_eq!(fresh.cursor, reader.cursor());
                    }
                    Err(_) => prop_assert_eq!(reader.cursor(), before),
                }
            }
            let end = reader.cursor().watermark.as_u64();
            let whole: Vec<_> = (start + 1..=end).filter_map(Seq::new).collect();
            prop_assert_eq!(out, whole);
        }
    }
}
