//! A map that remembers the keys that were touched last. It stays bounded however many are put into it.
//!
//! Two generations: what is touched lives in the young one; once that is full the old one is forgotten and the young
//! one is old. So at least the last `most` keys are there, at most twice as many, and nothing is ever searched through.

use std::{collections::HashMap, hash::Hash};

#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    most: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Clone + Eq + Hash, V: Default> Recent<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, young: HashMap::new(), old: HashMap::new() }
    }

    /// The value of `key`, which counts as touched; a new one where none is remembered.
    pub(crate) fn touch(&mut self, key: &K) -> &mut V {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key).unwrap_or_default();
            if self.young.len() >= self.most {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(key.clone(), value);
        }
        self.young.entry(key.clone()).or_default()
    }

    pub(crate) fn find(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.young.values().chain(self.old.values())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.young.keys().chain(self.old.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_of_late_is_there() {
        let mut recent = Recent::<u32, u32>::new(10);
        for key in 0..1_000 {
            *recent.touch(&key) += 1;
            *recent.touch(&7) += 1;
            assert!(recent.young.len() <= 10 && recent.old.len() <= 10);
            let newest = key.saturating_sub(8)..=key;
            assert!(newest.into_iter().all(|key| recent.find(&key).is_some()));
        }
        assert_eq!(recent.find(&7), Some(&1_001), "what is touched again and again is never forgotten");
        assert_eq!(recent.find(&8), None);
        assert!(recent.keys().count() <= 20);
    }
}
