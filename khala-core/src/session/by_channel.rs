//! What is kept for each channel of a connection, in the order of the joins.
//!
//! Most connections follow one topic or a few, so this is as small as a list; a channel of a client that follows a thousand topics is found by binary search.

use std::fmt;

/// Names a channel within its session; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(u64);

impl ChannelId {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[derive(Debug)]
pub(crate) struct ByChannel<T>(Vec<(ChannelId, T)>);

impl<T> Default for ByChannel<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByChannel<T> {
    fn find(&self, id: ChannelId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id)
    }

    pub(crate) fn get(&self, id: ChannelId) -> Option<&T> {
        Some(&self.0[self.find(id).ok()?].1)
    }

    pub(crate) fn get_mut(&mut self, id: ChannelId) -> Option<&mut T> {
        let index = self.find(id).ok()?;
        Some(&mut self.0[index].1)
    }

    /// What is kept for `id`, and if nothing is, what `new` makes.
    pub(crate) fn get_or_insert_with(&mut self, id: ChannelId, new: impl FnOnce() -> T) -> &mut T {
        let index = self.find(id).unwrap_or_else(|index| {
            // One for most, where a list begins with four.
            self.0.reserve_exact(usize::from(self.0.is_empty()));
            self.0.insert(index, (id, new()));
            index
        });
        &mut self.0[index].1
    }

    pub(crate) fn remove(&mut self, id: ChannelId) -> Option<T> {
        let index = self.find(id).ok()?;
        Some(self.0.remove(index).1)
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ChannelId, &mut T)> {
        self.0.iter_mut().map(|(id, kept)| (*id, kept))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, kept)| kept)
    }
}
