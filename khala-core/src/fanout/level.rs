//! What was announced: for each watcher the furthest since it looked last, and nothing of before.
//!
//! A level that only rises could be spoiled by one false word: a head that is never reached would hide all others for ever. One
//! that is merely the last word would let a late one hide a newer one. So it keeps the few steps down from the furthest to the
//! last, each with its number.
//!
//! # Invariants
//! Whatever is announced after a watcher looked, unless it is the last word once more, is told to it, by itself or by something
//! that is further.

/// How many steps are kept. Only words that come late, or false, make more than one.
const STEPS: usize = 8;

/// The steps down to the last word: each is further, in the same history, than those after it.
#[derive(Debug)]
pub(super) struct Level<T> {
    is_news: fn(T, T) -> bool,
    count: u64,
    steps: Vec<(u64, T)>,
}

impl<T: Copy + PartialEq> Level<T> {
    /// One of which nothing was said yet; `is_news` says whether the first is further than the second, or of another
    /// history.
    pub(super) fn new(is_news: fn(T, T) -> bool) -> Self {
        Self { is_news, count: 0, steps: Vec::new() }
    }

    /// Takes in what is announced; says no where that was the last word already.
    pub(super) fn announce(&mut self, head: T) -> bool {
        if self.steps.last().is_some_and(|(_, last)| *last == head) {
            return false;
        }
        self.count += 1;
        // Another history hides the one of before, whichever of the two is the true one: who hears of it reads.
        let hides = |old: T| (self.is_news)(head, old) || !(self.is_news)(old, head);
        while self.steps.last().is_some_and(|(_, old)| hides(*old)) {
            self.steps.pop();
        }
        self.steps.push((self.count, head));
        if self.steps.len() > STEPS {
            // Two become one, the further, as if it had been said later: somebody hears it twice, and nobody less.
            let (number, _) = self.steps.remove(1);
            self.steps[0].0 = number;
        }
        true
    }

    /// How many words were taken in.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The furthest since there were `count`; none if nothing was announced.
    pub(super) fn since(&self, count: u64) -> Option<T> {
        self.steps.iter().find(|(number, _)| *number > count).map(|(_, head)| *head)
    }

    /// The further of what `last` was and what was announced since there were `count`.
    pub(super) fn since_or(&self, count: u64, last: Option<T>) -> Option<T> {
        let since = self.since(count);
        match (since, last) {
            (Some(since), Some(last)) if !(self.is_news)(since, last) => Some(last),
            (since, last) => since.or(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::position::{Cursor, Epoch, Watermark};

    fn head(epoch: u64, watermark: u64) -> Cursor {
        Cursor::new(Epoch::from_bits(epoch), Watermark::new(watermark).unwrap())
    }

    #[test]
    fn what_is_in_order_is_one_step() {
        let mut level = Level::new(Cursor::is_news_to);
        for n in 1..100 {
            assert!(level.announce(head(1, n)));
            assert!(!level.announce(head(1, n)), "its echo");
            assert_eq!(level.steps.len(), 1);
        }
    }

    proptest! {
        #[test]
        fn each_hears_the_furthest_since_it_looked_or_something_further(
            words in prop::collection::vec((0_u64..2, 0_u64..40), 1..60),
            looked_after in 0_usize..60,
        ) {
            let mut level = Level::new(Cursor::is_news_to);
            let (mut looked, mut said) = (0, Vec::new());
            for (n, (epoch, watermark)) in words.iter().enumerate() {
                if n == looked_after {
                    (looked, said) = (level.count(), Vec::new());
                }
                if level.announce(head(*epoch, *watermark)) {
                    said.push(head(*epoch, *watermark));
                }
                prop_assert!(level.steps.len() <= STEPS);
            }
            let told = level.since(looked);
            prop_assert_eq!(told.is_some(), !said.is_empty());
            let history = said.last().map(|last| last.epoch);
            for word in said.iter().rev().take_while(|word| Some(word.epoch) == history) {
                prop_assert!(!word.is_news_to(told.unwrap()), "{word:?} is hidden by {told:?}");
            }
        }

        #[test]
        fn nothing_of_before_is_told_again(before in 0_u64..100, after in 0_u64..100) {
            prop_assume!(before != after);
            let mut level = Level::new(Cursor::is_news_to);
            level.announce(head(1, before));
            let looked = level.count();
            level.announce(head(1, after));
            prop_assert_eq!(level.since(looked), Some(head(1, after)));
        }
    }
}
