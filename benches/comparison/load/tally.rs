//! How often a text stands in what a connection gives, wherever that is cut into reads.

use memchr::memmem::Finder;

/// Counts one text.
#[derive(Debug)]
pub(super) struct Tally {
    finder: Finder<'static>,
    /// What may be the beginning of the next.
    rest: Vec<u8>,
    count: u64,
}

impl Tally {
    pub(super) fn new(text: &'static [u8]) -> Self {
        Self { finder: Finder::new(text), rest: Vec::new(), count: 0 }
    }

    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let len = self.finder.needle().len();
        let mut end = 0;
        while let Some(next) = self.finder.find(&self.rest[end..]) {
            self.count += 1;
            end += next + len;
        }
        let kept = end.max((self.rest.len() + 1).saturating_sub(len));
        self.rest.drain(..kept);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_once_wherever_it_is_cut() {
        let text = b"..aba.ababa.aba";
        for cut in 0..=text.len() {
            let mut tally = Tally::new(b"aba");
            tally.hear(&text[..cut]);
            tally.hear(&text[cut..]);
            assert_eq!(tally.count(), 3, "{cut}");
        }
    }
}
